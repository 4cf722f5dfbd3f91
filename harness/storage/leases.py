"""Leases in a remote store: mutual exclusion between machines, with heartbeats to detect dead holders."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from harness.errors import UserError
from harness.storage.remote_store import RemoteStore, parse_object

HEARTBEAT_SECONDS = 10.0  # between two heartbeats of a lease's holder
STALE_SECONDS = 60.0  # without a heartbeat, after which the holder counts as dead
POLL_SECONDS = 0.5  # between two reads of a lease that another process holds


@contextlib.contextmanager
def leased(store: RemoteStore, name: str, wait: bool = True) -> Iterator[bool]:
    """Hold the lease `name`. Without `wait`, yields False if a live process holds it.

    The holder writes heartbeats; a waiting process measures their absence by its own clock (no clock synchronisation).
    """
    own = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex, "beat": 0}
    if not _acquire(store, name, own, wait):
        yield False
        return
    done = threading.Event()
    heartbeat = threading.Thread(target=_heartbeat, args=(store, name, own, done), daemon=True)
    heartbeat.start()
    try:
        yield True
    finally:
        done.set()
        heartbeat.join()
        if parse_object(store.read(name)).get("id") == own["id"]:
            store.remove(name)


def _acquire(store: RemoteStore, name: str, own: dict, wait: bool) -> bool:
    last, since = None, time.monotonic()
    while not store.create(name, json.dumps(own).encode()):
        content = store.read(name)
        if content is None:
            continue
        if parse_object(content).get("id") == own["id"]:
            return True  # the file was created, but the store's response was lost
        if content != last:
            if last is not None and not wait:
                return False  # a heartbeat arrived: the holder is alive
            last, since = content, time.monotonic()
        if _holder_died(parse_object(content)) or time.monotonic() - since > STALE_SECONDS:
            store.remove(name)
            continue
        time.sleep(POLL_SECONDS)
    return True


def _holder_died(holder: dict) -> bool:
    """Whether the holder is a process of this machine that no longer exists. A reused pid counts as alive."""
    try:
        if holder["host"] == socket.gethostname():
            os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, ValueError, TypeError):
        pass
    return False


def _heartbeat(store: RemoteStore, name: str, own: dict, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(UserError):  # one missed heartbeat is harmless
            if parse_object(store.read(name)).get("id") != own["id"]:
                return  # this process was suspended for so long that another took the lease
            own["beat"] += 1
            store.write(name, json.dumps(own).encode())
