"""The driver's files at a URI: in an order that leaves no reference without a target, and of one driver at a time."""

import math
import uuid

import pytest

from harness.errors import UserError
from harness.storage import driver_files, remote_store
from harness.storage.driver_files import DriverFiles
from harness.storage.driver_lock import DriverLock, DriverLost

JOURNAL, LOG, MARK, REPORT = "optuna.journal", "track/a.jsonl", "track/a.b.delivered", "reports/a.html"


class Machine:
    """A machine with a driver that has the lock, whatever other machines think."""

    def __init__(self, store, folder):
        self.now, self.folder = 0.0, folder
        self.lock = DriverLock(store, lambda: self.now, self.sleep)
        assert self.lock.acquire()
        self.files = DriverFiles(folder, self.lock)

    def sleep(self, seconds):
        self.now += seconds

    def write(self, name, text):
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def read(self, name):
        return (self.folder / name).read_text() if (self.folder / name).exists() else None


@pytest.fixture
def store():
    return remote_store.RemoteStore(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def machine(store, tmp_path):
    return lambda name: Machine(store, tmp_path / name)


@pytest.fixture
def written(store, monkeypatch):
    """Names in the order in which they are written to the store."""
    names, write = [], store.write
    monkeypatch.setattr(store, "write", lambda name, content: (write(name, content), names.append(name))[0])
    return names


def test_references_come_after_their_targets(machine, written):
    one = machine("one")
    for name in (REPORT, JOURNAL, MARK, LOG):
        one.write(name, "begun")
    assert one.files.durable_size(LOG) == 0
    one.files.push()
    names = [name.removeprefix("driver/00000001/") for name in written]
    assert names == [LOG, MARK, JOURNAL, "complete", REPORT] and one.files.durable_size(LOG) == 5
    one.files.push()
    assert len(written) == 5
    one.write(JOURNAL, "begun, and more")
    one.files.push()
    assert written[5:] == [f"driver/00000001/{JOURNAL}"]


def test_a_local_file_that_is_ahead_stays_and_another_is_replaced(machine):
    one = machine("one")
    one.write(JOURNAL, "begun")
    one.write(LOG, "begun")
    one.files.push()
    one.lock.release()
    two = machine("two")
    two.write(JOURNAL, "begun, and more")
    two.write(LOG, "else")
    two.files.pull()
    assert (two.read(JOURNAL), two.read(LOG), two.read(MARK)) == ("begun, and more", "begun", None)


def test_files_of_a_store_without_generations_are_found(machine, store):
    store.write(JOURNAL, b"old")
    store.write(LOG, b"old log")
    one = machine("one")
    one.files.pull()
    assert (one.read(JOURNAL), one.read(LOG)) == ("old", "old log")


def test_a_late_write_of_a_former_driver_changes_nothing(machine, store, monkeypatch):
    """It is suspended when it has checked the lock, and its write comes when another driver has written more."""
    one = machine("one")
    one.write(JOURNAL, "1")
    one.files.push()
    write = store.write

    def late(name, content):
        monkeypatch.setattr(store, "write", write)
        two = machine("two")
        two.files.pull()
        two.write(JOURNAL, two.read(JOURNAL) + "2")
        two.files.push()
        two.lock.release()
        write(name, content)

    one.write(JOURNAL, "1, never confirmed")
    monkeypatch.setattr(store, "write", late)
    with pytest.raises(DriverLost):
        one.files.push()
    assert one.files.durable_size(JOURNAL) == 0
    three = machine("three")
    three.files.pull()
    assert three.read(JOURNAL) == "12"
    three.files.push()
    assert {name.partition("/")[0] for name in store.files("driver") if "/" in name} == {"00000003"}


def test_a_driver_that_crashed_before_its_files_were_complete_is_passed_over(machine, store, monkeypatch):
    one = machine("one")
    one.write(JOURNAL, "1")
    one.write(LOG, "1")
    one.files.push()
    one.lock.release()
    two, write = machine("two"), store.write
    two.files.pull()
    two.write(LOG, "12")
    with monkeypatch.context() as patched, pytest.raises(UserError, match="failed"):
        patched.setattr(store, "write", lambda name, content: write(name, content) if name.endswith(LOG) else fail())
        two.files.push()
    assert store.read(f"driver/00000002/{LOG}") == b"12" and two.files.durable_size(LOG) == 0
    three = machine("three")
    three.files.pull()
    assert (three.read(JOURNAL), three.read(LOG)) == ("1", "1")


def fail():
    raise UserError("the store failed")


def test_what_was_not_confirmed_is_confirmed_by_the_next_push(machine, monkeypatch):
    one = machine("one")
    one.write(JOURNAL, "1")
    with monkeypatch.context() as patched, pytest.raises(UserError, match="failed"):
        patched.setattr(one.lock, "confirm", fail)
        one.files.push()
    assert one.files.durable_size(JOURNAL) == 0
    one.files.push()
    assert one.files.durable_size(JOURNAL) == 1


def test_after_a_suspension_without_a_successor_all_is_written_again(machine, written):
    one = machine("one")
    one.write(JOURNAL, "1")
    one.files.push()
    one.sleep(1000)
    assert one.files.durable_size(JOURNAL) == 0  # and nothing is told to MLflow until the lock is sure again
    one.files.push()
    assert written[2:] == [f"driver/00000002/{name}" for name in (JOURNAL, "complete")]
    assert one.files.durable_size(JOURNAL) == 1


def test_the_background_tells_that_the_lock_was_lost(machine, store, monkeypatch):
    monkeypatch.setattr(driver_files, "PUSH_SECONDS", 0.01)
    one = machine("one")
    one.write(JOURNAL, "1")
    with pytest.raises(DriverLost), one.files.pushing():
        one.files.check()
        store.create("driver/00000002.lock", b"{}")
        one.sleep(1000)
        while True:
            one.files.check()
    assert not [name for name in store.files("driver") if name.startswith("00000002/")]


def test_without_a_store_all_is_durable(tmp_path):
    files = DriverFiles(tmp_path)
    with files.pushing():
        files.pull()
        files.check()
    assert files.durable_size(JOURNAL) == math.inf and not list(tmp_path.iterdir())
