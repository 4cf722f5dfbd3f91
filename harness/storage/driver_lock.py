"""Lock of the driver of an output at a remote store: one command at a time, and no trace of one that lost the lock.

A store offers one atomic step, the creation of an object that does not exist. So the lock is a row of numbered
generations, `driver/00000001.lock`, `driver/00000002.lock`, ... Each is created once, and neither changed nor removed.
The highest generation has the lock. To take over is to create the next one, in which one of several contenders
succeeds. Nothing is removed, so a contender that acts on an old reading fails to create and removes nobody's lock.

A contender takes over when the holder released the lock, or is a process of the same machine that no longer exists, or
wrote no heartbeat for `STALE_SECONDS`. These are measured between two readings by the contender's own clock, so clocks
are never compared. A holder trusts a generation for `VALID_SECONDS`, which is less, from the moment at which it began
to write its last heartbeat. A heartbeat that returns later does not count, since a contender may have missed it. After
a suspension or a failure of the store a holder therefore takes the next generation like any contender, and it has lost
if that exists.

No clock protects from a suspension between a check and the write after it. So the generation is a fencing token in the
name of what is written: the driver's files are in `driver/<generation>/` (see `driver_files`). What a driver writes too
late lies beside its successor's files, and `confirm` tells afterwards that it does not count.
"""

import contextlib
import functools
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import UserError, redacted
from harness.storage.background import repeated
from harness.storage.remote_store import RemoteStore, parse_object

FOLDER = "driver"
HEARTBEAT_SECONDS = 10.0  # between two heartbeats of the holder
STALE_SECONDS = 60.0  # without a heartbeat, after which a contender takes over
VALID_SECONDS = 40.0  # after the last heartbeat, during which the holder writes
POLL_SECONDS = 0.5  # between two readings of a contender
_LOCK = re.compile(r"(\d{8})\.lock")


class DriverLost(UserError):
    """Another command took the lock of this one."""


class DriverLock:
    """The lock of one driver. Times are those of `clock`, in seconds.

    lost: whether another command took it, as far as known; it is then never held again.
    """

    def __init__(
        self,
        store: RemoteStore,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.store, self.lost = store, False
        self._clock, self._sleep = clock, sleep
        self._id = uuid.uuid4().hex
        self._created: dict[int, float] = {}  # generation -> when its creation was first tried
        self._held = 0, float("-inf")  # generation, beginning of its last heartbeat that counts
        self._mutex = threading.Lock()  # of the replacement of _held
        self._beats = 0

    def acquire(self) -> bool:
        """Take the lock. False if its holder is alive; a silent holder is waited for up to `STALE_SECONDS`."""
        seen: tuple[int, bytes | None] = 0, None
        since, holder = 0.0, {}
        while True:
            began = self._clock()
            highest = self._highest()
            beat = self.store.read(_heartbeat(highest)) if highest else None
            if highest != seen[0]:
                holder = parse_object(self.store.read(_lock(highest)))
            if not highest or parse_object(beat).get("released") or _died(holder):
                return self._take(highest + 1)
            if not seen[0]:
                seen, since = (highest, beat), self._clock()
            elif seen != (highest, beat):
                return False
            elif began - since > STALE_SECONDS:
                return self._take(highest + 1)
            self._sleep(POLL_SECONDS)

    def valid(self) -> bool:
        """Whether no other driver can have the lock at this moment. Reads the clock only."""
        return not self.lost and self._clock() - self._held[1] <= VALID_SECONDS

    def check(self) -> int:
        """The generation to write under, a new one after a long silence. Raises `DriverLost` if another has taken it.

        Also raises `UserError` if the store fails. Call it in one thread at a time.
        """
        if not self.valid():
            if self.lost or not self._take(self._held[0] + 1):
                raise self._loss()
            if not self.valid():
                raise UserError(f"the store {redacted(self.store.uri)!r} took over {VALID_SECONDS:g} s to answer")
        return self._held[0]

    def confirm(self) -> None:
        """Ask the store whether all that was written so far counts, since nobody has taken over yet.

        Raises `DriverLost` if another driver has: it may have read the files before the last writes.
        """
        if self.lost or self.store.read(_lock(self._held[0] + 1)) is not None:
            raise self._loss()

    def beat(self) -> None:
        """Write a heartbeat, and look for a successor."""
        if self.lost:
            return
        held = generation, last = self._held
        began = self._clock()
        self._beats += 1
        self.store.write(_heartbeat(generation), json.dumps({"beat": self._beats}).encode())
        superseded = self.store.read(_lock(generation + 1)) is not None
        counts = self._clock() - last <= VALID_SECONDS
        with self._mutex:
            if self._held is held and (superseded or counts):
                self._held = generation, float("-inf") if superseded else began

    def release(self) -> None:
        """Let the next command take the lock at once. The last call, after that of the last `beat`."""
        generation, self._held = self._held[0], (self._held[0], float("-inf"))
        if not self.lost:
            self.store.write(_heartbeat(generation), json.dumps({"released": True}).encode())

    def _highest(self) -> int:
        matches = [_LOCK.fullmatch(name) for name in self.store.files(FOLDER)]
        return max((int(match[1]) for match in matches if match), default=0)

    def _take(self, generation: int) -> bool:
        """Create a generation. Its own content tells that it was created by a call whose response was lost."""
        began = self._created.setdefault(generation, self._clock())
        name, own = _lock(generation), {"id": self._id, "machine": _machine(), "pid": os.getpid()}
        created = self.store.create(name, json.dumps(own).encode())
        if not created and parse_object(self.store.read(name)).get("id") != self._id:
            return False
        with self._mutex:
            self._held = generation, began
        return True

    def _loss(self) -> DriverLost:
        self.lost = True
        return DriverLost(
            f"another command took over {redacted(self.store.uri)!r} while this one was suspended or without access to"
            " it; run this one again when that ends"
        )


@contextlib.contextmanager
def driver_lock(store: RemoteStore) -> Iterator[DriverLock | None]:
    """Hold the lock of a store, with heartbeats in a thread. Yields None if a live command holds it."""
    lock = DriverLock(store)
    if not lock.acquire():
        yield None
        return
    try:
        with repeated(lock.beat, lambda: HEARTBEAT_SECONDS, "heartbeat"):  # one missed heartbeat is harmless
            yield lock
    finally:
        with contextlib.suppress(UserError):  # the lock then ends by silence
            lock.release()


def folder(generation: int) -> str:
    """The folder of a generation's files."""
    return f"{FOLDER}/{generation:08d}"


def _lock(generation: int) -> str:
    return f"{folder(generation)}.lock"


def _heartbeat(generation: int) -> str:
    return f"{folder(generation)}/heartbeat"


@functools.cache
def _machine() -> str:
    """Name of this machine since its start, and of the container: process ids count within it only."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _died(holder: dict) -> bool:
    """Whether the holder is a process of this machine that no longer exists. A reused pid counts as alive."""
    try:
        if holder["machine"] == _machine():
            os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, ValueError, TypeError, OverflowError):
        pass
    return False
