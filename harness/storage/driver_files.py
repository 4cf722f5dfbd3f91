"""Files of a sweep's driver, synchronised with a remote store: the journal, the event logs, the reports.

The journal and the logs are in the folder of the driver's generation, `driver/<generation>/`, the reports in
`reports/`. A new driver reads the files of the last generation that has all of them, and writes its own, so no late
write of an earlier driver mixes with them. Files count as durable when the store confirms, after they were written,
that no other driver has taken over: every later driver then reads them.
"""

import contextlib
import math
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.errors import UserError
from harness.storage import driver_lock
from harness.storage.background import repeated
from harness.storage.contained_path import inside
from harness.storage.driver_lock import DriverLock
from harness.storage.remote_store import RemoteStore

PUSH_SECONDS = 5.0  # between two pushes
JOURNAL = "optuna.journal"
LOGS = "track"  # folder
COMPLETE = "complete"  # an object in the folder of a generation that has all files
_COMPLETE = re.compile(rf"(\d{{8}})/{COMPLETE}")


class DriverFiles:
    """Background upload of the files that the driver writes; a no-op without a lock, which is that of a remote store.

    A file that refers to another is read before it and uploaded after it: the journal before the logs, and a log's
    delivery mark before the log. So the store never has a reference without its target.
    """

    def __init__(self, folder: Path, lock: DriverLock | None = None):
        self._folder, self._lock = folder, lock
        self._generation = 0  # of what follows
        self._sent: dict[str, bytes] = {}  # file -> content in the store
        self._confirmed = self._complete = False  # whether this holds of all that was sent; of the folder
        self._durable: dict[str, int] = {}  # file -> bytes that later drivers will read
        self._mutex = threading.Lock()

    def pull(self) -> None:
        """Download the last driver's files; a local file that starts with the remote content is ahead of it and stays.

        Files of stores that were written without generations are at the top. Raises `UserError` before anything is
        written, if the store names a file outside the folder.
        """
        if self._lock is None:
            return
        store = self._lock.store
        matches = [_COMPLETE.fullmatch(name) for name in store.files(driver_lock.FOLDER)]
        last = max((int(match[1]) for match in matches if match), default=0)
        root = f"{driver_lock.folder(last)}/" if last else ""
        logs = {f"{LOGS}/{name}": inside(self._folder / LOGS, name) for name in store.files(f"{root}{LOGS}")}
        for name, local in {JOURNAL: self._folder / JOURNAL, **logs}.items():
            remote = store.read(f"{root}{name}")
            if remote is not None and not (local.exists() and local.read_bytes().startswith(remote)):
                local.parent.mkdir(parents=True, exist_ok=True)
                local.write_bytes(remote)

    def push(self) -> None:
        """Upload changed files. Raises `DriverLost` if another command took over; what was uploaded is then ignored."""
        if self._lock is None:
            return
        with self._mutex:
            generation = self._lock.check()
            if generation != self._generation:  # nothing is in its folder yet
                self._generation, self._sent, self._durable = generation, {}, {}
                self._confirmed = self._complete = False
            reports, state = self._read(self._folder.glob("reports/*")), self._read(self._state())
            self._push_state(self._lock, f"{driver_lock.folder(generation)}/", state)
            self._upload(self._lock.store, "", reports)

    def _push_state(self, lock: DriverLock, root: str, state: dict[str, bytes]) -> None:
        self._confirmed &= all(self._sent.get(name) == content for name, content in state.items())
        if self._confirmed:
            return
        self._upload(lock.store, root, state)
        if not self._complete:
            lock.store.write(f"{root}{COMPLETE}", b"")
        lock.confirm()
        self._durable, self._confirmed = {name: len(content) for name, content in state.items()}, True
        if not self._complete:
            _remove_older(lock.store, self._generation)
            self._complete = True

    def _state(self) -> list[Path]:
        logs = self._folder / LOGS
        return [self._folder / JOURNAL, *logs.glob("*.delivered"), *logs.glob("*.jsonl")]

    def _read(self, paths: Iterable[Path]) -> dict[str, bytes]:
        return {path.relative_to(self._folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}

    def _upload(self, store: RemoteStore, root: str, contents: dict[str, bytes]) -> None:
        for name, content in reversed(contents.items()):
            if self._sent.get(name) != content:
                store.write(f"{root}{name}", content)
                self._sent[name] = content

    def durable_size(self, name: str) -> float:
        """Bytes of a file that survive the loss of this machine: all without a remote store, none without the lock."""
        if self._lock is None:
            return math.inf
        return self._durable.get(name, 0) if self._lock.valid() else 0

    def check(self) -> None:
        """Raise `DriverLost` if a push found that another command took over."""
        if self._lock and self._lock.lost:
            self._lock.confirm()

    @contextlib.contextmanager
    def pushing(self) -> Iterator["DriverFiles"]:
        """Context that pushes every few seconds in a thread, and at the end."""
        if self._lock is None:
            yield self
            return
        try:
            with repeated(self._push_unless_lost, lambda: PUSH_SECONDS, "push"):
                yield self
        finally:
            self.push()

    def _push_unless_lost(self) -> None:
        if self._lock and not self._lock.lost:
            self.push()


def _remove_older(store: RemoteStore, generation: int) -> None:
    """Remove the files of earlier generations, which no driver reads any more. Their locks stay."""
    with contextlib.suppress(UserError):  # left to a later driver
        for name in store.files(driver_lock.FOLDER):
            number, _, file = name.partition("/")
            if file and number.isdigit() and int(number) < generation:
                store.remove(f"{driver_lock.FOLDER}/{name}")
