"""The lock of a remote output's driver, under latency, pauses, crashes and lost messages."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid

import pytest
from simulated_drivers import CONTENDERS, Game, WatchedLock

from harness.errors import UserError
from harness.storage import driver_lock, remote_store
from harness.storage.driver_files import DriverFiles
from harness.storage.driver_lock import DriverLock, DriverLost
from harness.storage.workspace import Workspace

ROUNDS = 200


@pytest.fixture(params=["memory", "file"])
def new_store(request, tmp_path):
    """A function that makes an empty store."""
    root = {"memory": f"memory://{uuid.uuid4().hex}", "file": f"file://{tmp_path}/stores"}[request.param]
    return lambda: remote_store.RemoteStore(f"{root}/{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def seldom(monkeypatch):
    monkeypatch.setattr(driver_lock, "POLL_SECONDS", 3.0)


def play(rounds, new_store, folder, **parts):
    takeovers = 0
    for seed in rounds:
        (folder / f"round {seed}").mkdir()
        game = Game(seed, new_store(), folder / f"round {seed}", **parts)
        game.play()
        takeovers += game.takeovers
    return takeovers


@pytest.mark.parametrize(
    "rounds",
    [pytest.param(range(40), id="some"), pytest.param(range(40, ROUNDS), id="others", marks=pytest.mark.slow)],
)
def test_never_two_hold_it_and_never_none_for_long(new_store, tmp_path, rounds):
    takeovers = play(rounds, new_store, tmp_path)
    assert takeovers > 1.1 * CONTENDERS * len(rounds)  # some lost it, or crashed


class RemovesFirst(WatchedLock):
    """Takes over by a removal and a creation under the same name, after a reading that may be old by then."""

    def _take(self, generation):
        if generation > 1 and not self._held[0]:
            self.store.remove(driver_lock._lock(1))
        return super()._take(1)


class OverwritesWhatIsThere(WatchedLock):
    """Takes over by a write, which several contenders can do."""

    def _take(self, generation):
        self.store.write(driver_lock._lock(generation), b"{}")
        self._held = generation, self._clock()
        return True


class TrustsALateHeartbeat(WatchedLock):
    """Goes on after a suspension once it has written a heartbeat, and so may a contender that had missed it."""

    def check(self):
        if not self.valid() and not self.lost:
            self._held = self._held[0], self._clock()
            self.beat()
            self._held = self._held[0], self._clock()
        return super().check()


class NeverAsks(WatchedLock):
    """Takes for durable what it wrote while it may have been superseded."""

    def confirm(self):
        pass


class SharesItsFolder(DriverFiles):
    """Writes to the same names as other drivers, and checks the lock before."""

    def _push_state(self, lock, root, state):
        self._upload(lock.store, "", state)
        lock.confirm()


@pytest.mark.parametrize(
    "parts",
    [{"lock": lock} for lock in (RemovesFirst, OverwritesWhatIsThere, TrustsALateHeartbeat, NeverAsks)]
    + [{"files": SharesItsFolder}],
    ids=lambda parts: next(iter(parts.values())).__name__,
)
def test_faults_of_simpler_locks_are_found(tmp_path, parts):
    rounds = range(25 if "files" in parts else 0, ROUNDS)  # the first in which it shows
    with pytest.raises(AssertionError, match=r"hold the lock|confirmed lines are missing"):
        play(rounds, lambda: remote_store.RemoteStore(f"memory://{uuid.uuid4().hex}"), tmp_path, **parts)


# ---- one contender at a time


class Time:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 0.0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def moment():
    return Time()


@pytest.fixture
def store(new_store):
    return new_store()


def lock_at(moment, store):
    return DriverLock(store, moment.clock, moment.sleep)


def test_a_released_lock_is_free_at_once(store, moment):
    for generation in (1, 2, 3):
        lock = lock_at(moment, store)
        assert lock.acquire() and lock.check() == generation and lock.valid()
        lock.confirm()
        lock.release()
        assert not lock.valid()
    assert moment.now == 0


def test_a_live_holder_keeps_it_and_a_silent_one_is_waited_for(store, moment):
    holder = lock_at(moment, store)
    assert holder.acquire()
    contender = DriverLock(store, moment.clock, lambda seconds: (moment.sleep(seconds), holder.beat()))
    assert not contender.acquire() and moment.now <= 2 * driver_lock.POLL_SECONDS
    began = moment.now
    assert lock_at(moment, store).acquire()
    assert driver_lock.STALE_SECONDS < moment.now - began <= driver_lock.STALE_SECONDS + 2 * driver_lock.POLL_SECONDS


def test_a_suspended_holder_loses_it_to_a_contender_and_stays_without(store, moment):
    holder, other = lock_at(moment, store), lock_at(moment, store)
    assert holder.acquire() and other.acquire()
    assert not holder.valid()
    for method in (holder.check, holder.confirm):
        with pytest.raises(DriverLost, match=r"^another command took over '[a-z]+://.*' while this one was suspended"):
            method()
    holder.beat()
    holder.release()
    other.confirm()
    assert other.check() == 2 and not store.read("driver/00000001/heartbeat")


def test_a_suspended_holder_goes_on_in_a_new_generation_if_nobody_took_over(store, moment):
    holder = lock_at(moment, store)
    assert holder.acquire()
    moment.sleep(driver_lock.VALID_SECONDS - 1)
    assert holder.check() == 1
    holder.beat()
    moment.sleep(driver_lock.VALID_SECONDS - 1)
    assert holder.check() == 1
    moment.sleep(2)
    holder.beat()  # too late to count: a contender may have missed it
    assert not holder.valid() and holder.check() == 2 and holder.valid()
    holder.confirm()


def test_a_heartbeat_counts_from_its_beginning(store, moment, monkeypatch):
    """A contender may see it at once, however late the store's response is."""
    holder = lock_at(moment, store)
    assert holder.acquire()
    write = store.write
    monkeypatch.setattr(store, "write", lambda name, content: (write(name, content), moment.sleep(30)))
    holder.beat()
    moment.sleep(driver_lock.VALID_SECONDS - 31)
    assert holder.valid()
    moment.sleep(2)
    assert not holder.valid()


def test_a_holder_learns_from_its_heartbeat_that_another_took_over(store, moment):
    holder = lock_at(moment, store)
    assert holder.acquire()
    store.create("driver/00000002.lock", b"{}")
    assert holder.valid()
    holder.beat()
    assert not holder.valid()
    with pytest.raises(DriverLost):
        holder.check()


def test_a_creation_whose_response_was_lost_counts(store, moment, monkeypatch):
    create = store.create
    monkeypatch.setattr(store, "create", lambda name, content: create(name, content) and False)
    lock = lock_at(moment, store)
    assert lock.acquire() and lock.check() == 1
    moment.sleep(driver_lock.VALID_SECONDS + 1)
    assert lock.check() == 2


def test_a_creation_that_was_reported_late_counts_from_its_beginning(store, moment, monkeypatch):
    """Others saw the generation since then, and it had no heartbeat."""
    lock = lock_at(moment, store)
    assert lock.acquire()
    moment.sleep(driver_lock.VALID_SECONDS + 1)
    create = store.create

    def failing(name, content):
        create(name, content)
        raise UserError("the store failed")

    with monkeypatch.context() as patched, pytest.raises(UserError, match="failed"):
        patched.setattr(store, "create", failing)
        lock.check()
    moment.sleep(driver_lock.VALID_SECONDS + 1)
    with pytest.raises(UserError, match="40 s to answer"):
        lock.check()
    assert lock.check() == 3 and not lock.lost


def test_a_dead_process_of_this_machine_is_not_waited_for(store, moment):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    holder = {"id": "x", "machine": driver_lock._machine(), "pid": ended.pid}
    store.create("driver/00000001.lock", json.dumps(holder).encode())
    assert lock_at(moment, store).acquire() and moment.now == 0


@pytest.mark.parametrize(
    "holder",
    [
        {"id": "x", "machine": "elsewhere", "pid": 2**22 + 1},
        {"id": "x", "machine": driver_lock._machine(), "pid": os.getpid()},  # also if the number is now another's
        {"id": "x", "machine": driver_lock._machine(), "pid": 10**30},
        {"id": "x", "machine": driver_lock._machine()},
        [],
        None,
    ],
)
def test_any_other_holder_is_waited_for(store, moment, holder):
    store.create("driver/00000001.lock", json.dumps(holder).encode())
    assert lock_at(moment, store).acquire() and moment.now > driver_lock.STALE_SECONDS


# ---- threads and processes


@pytest.fixture
def hasty(monkeypatch):
    for name, seconds in {"HEARTBEAT": 0.02, "STALE": 0.6, "VALID": 0.4, "POLL": 0.005}.items():
        monkeypatch.setattr(driver_lock, f"{name}_SECONDS", seconds)
    monkeypatch.setattr(remote_store, "RETRY_PAUSES", (0.01, 0.01))


def test_of_many_threads_one_holds_it(tmp_path, hasty):
    """The threads of a busy machine are suspended as they come; a new generation is then as good."""
    uri, locks, done = f"file://{tmp_path}/store", [], []

    def command():
        while True:
            with driver_lock.driver_lock(remote_store.RemoteStore(uri)) as lock:
                if lock is None:
                    continue
                with contextlib.suppress(DriverLost):
                    lock.check()
                    locks.append(lock)
                    time.sleep(0.05)
                    valid = lock.valid()
                    others = [other for other in locks if other is not lock and other.valid()]
                    if valid and lock.valid():  # in between, too
                        done.append(len(others))
                        return

    threads = [threading.Thread(target=command) for _ in range(CONTENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [0] * CONTENDERS


def test_heartbeats_tell_others_to_leave(tmp_path, hasty, monkeypatch):
    monkeypatch.setattr(driver_lock, "STALE_SECONDS", 900.0)
    monkeypatch.setattr(driver_lock, "VALID_SECONDS", 600.0)
    store = remote_store.RemoteStore(f"file://{tmp_path}/store")
    with driver_lock.driver_lock(store) as first, driver_lock.driver_lock(store) as second:
        assert first and second is None
    with driver_lock.driver_lock(store) as third:
        assert third


def test_one_command_writes_to_a_uri(tmp_path, hasty):
    one, two = (Workspace(tmp_path / name, remote=f"file://{tmp_path}/store").writable() for name in ("one", "two"))
    with one.single_writer() as first:
        assert first
        with two.single_writer() as second, one.single_writer() as third:
            assert second is None and third is None
    with two.single_writer() as free:
        assert free
