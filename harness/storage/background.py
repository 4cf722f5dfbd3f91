"""Work that is repeated in a thread, beside what a command does."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from harness.errors import UserError


@contextlib.contextmanager
def repeated(work: Callable[[], object], seconds: Callable[[], float], name: str) -> Iterator[None]:
    """Within, call work() again and again, with pauses of seconds(); it has ended on exit. name: of the thread.

    A `UserError` of it is dropped: the next call tries again.
    """
    done = threading.Event()

    def loop() -> None:
        while not done.wait(seconds()):
            with contextlib.suppress(UserError):
                work()

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
