"""Signals that end a sweep: SIGTERM (a stopped job, preemption) and SIGHUP (a closed terminal) act as Ctrl-C does.

While trials run, Ray Tune ends in good order at the first signal. At any other time, and at the second signal,
`KeyboardInterrupt` ends the command, which removes what is temporary.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
CHANGED_BY_RAY = (signal.SIGINT, signal.SIGUSR1)


@contextlib.contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Within, the signals that end a sweep do what Ctrl-C does at that moment.

    One that is ignored stays ignored: `nohup` keeps a sweep alive. No-op in another thread than the main one.
    """
    with restored(*ENDING):
        if is_main_thread():
            for number in heeded():
                signal.signal(number, _interrupt)
        yield


def heeded() -> list[signal.Signals]:
    """The signals that end a sweep, without those that this process was started to ignore."""
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within, the signals that end a sweep wait, and processes that start never receive them.

    A closed terminal, a stopped job or a preempted machine sends them to all processes. Those of Ray would end before
    the command, which then waits for them until Ray kills it. They end with the command.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def restored(*numbers: int) -> Iterator[None]:
    """Afterwards, these signals (default: those whose handlers Ray Tune replaces) are handled as before."""
    before = {number: signal.getsignal(number) for number in numbers or CHANGED_BY_RAY}
    try:
        yield
    finally:
        if is_main_thread():
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Call the handler of Ctrl-C, also where the process ignores Ctrl-C itself, as in the background of a shell."""
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(signal.SIGINT, frame)
    else:
        raise KeyboardInterrupt


def is_main_thread() -> bool:
    """Whether this is the main thread, the only one that can handle signals."""
    return threading.current_thread() is threading.main_thread()
