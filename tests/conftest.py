import dataclasses
import json
import os
import shutil
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run beside workers; and sums in one order are the same sums
os.environ.pop("MLFLOW_TRACKING_URI", None)  # what a shell is set to is none of the tests' to write to
os.environ.pop("RAY_ADDRESS", None)
# Niceness 15, Ray's default, leaves workers a thirtieth of a core that anything else wants.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so

import pytest
import torch
from filelock import FileLock
from sweeps import LIMIT, ONE_AT_A_TIME, ROOT, Undisturbed, checkout, run

from harness import plugins
from harness.config.trial import build
from harness.storage.workspace import Workspace

QUICK = {
    "epochs": 2,
    "data.limit": 96,
    "measure.eps": (16 / 255,),
    "measure.steps": 2,
    "measure.watch": 1,
}


_BEFORE = pytest.StashKey[set]()
_LEFT = pytest.StashKey[list]()


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):  # once, whatever number of processes test
        session.config.stash[_BEFORE] = checkout(ROOT)


def pytest_sessionfinish(session):
    """Tests write to their own folders: the run fails after which there is anything new in the checkout."""
    before = session.config.stash.get(_BEFORE, None)
    if before is not None and (left := sorted(checkout(ROOT) - before)):
        session.config.stash[_LEFT] = left
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if left := config.stash.get(_LEFT, None):
        terminalreporter.section("the checkout is not as it was", red=True)
        terminalreporter.write_line("new since the tests began, as `git status --ignored` has it:")
        for line in left:
            terminalreporter.write_line(f"    {line}")


def pytest_generate_tests(metafunc):
    """With ROUNDS in the environment, every test of a fault is many tests."""
    rounds = int(os.environ.get("ROUNDS", 1))
    if rounds > 1 and any(mark.name == "fault" for mark in metafunc.definition.iter_markers()):
        metafunc.fixturenames.append("_round")
        metafunc.parametrize("_round", range(1, rounds + 1))


@pytest.hookimpl(tryfirst=True)  # before -m is asked
def pytest_collection_modifyitems(items):
    """Of a test marked `sample` all cases are slow but those it names, or the first ones.

    Files with the longest tests first, so that at the end no process is alone with one.
    """
    of_same = {}
    for item in items:
        if mark := item.get_closest_marker("sample"):
            cases = of_same.setdefault((item.path, item.originalname), [])
            cases.append(item.callspec.id)
            few = cases[: mark.args[0]] if isinstance(mark.args[0], int) else mark.args
            if item.callspec.id not in few:
                item.add_marker("slow")
    longest = ("cluster", "fault", "slow", "peer", "browser")
    having = {mark: {item.path for item in items if item.get_closest_marker(mark)} for mark in longest}
    items.sort(key=lambda item: [item.path not in having[mark] for mark in longest])


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_plugins_of_other_tests(monkeypatch):
    """A command of an earlier test has said where copies of plug-ins are."""
    monkeypatch.setattr(plugins, "_searches", {})


@pytest.fixture(scope="session", autouse=True)
def _scratch(tmp_path_factory):
    """This node's copies, by default in a folder that all commands of a user share, lie with all else of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
        yield


@pytest.fixture(scope="session")
def shared_workspace(tmp_path_factory):
    """A place that tests may share where they only add to it."""
    return Workspace(tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("data")).writable()


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "out", tmp_path / "data").writable()


@pytest.fixture
def quick():
    """A function from settings to a trial of a second or less."""
    return lambda **settings: build({**QUICK, **{k.replace("__", "."): v for k, v in settings.items()}})


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder of all processes that test."""
    mine = tmp_path_factory.getbasetemp()
    return mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine


@pytest.fixture(scope="session")
def empty_store(shared):
    """A tracking database with its tables and nothing in them: making those takes seconds, copying does not."""
    from mlflow import MlflowClient

    file, part = shared / "empty.db", shared / "empty.part"
    with FileLock(shared / "empty.lock"):
        if not file.exists():
            MlflowClient(tracking_uri=f"sqlite:///{part}").search_experiments()
            part.rename(file)
    return file


@pytest.fixture(scope="session")
def undisturbed(shared, empty_store):
    """A sweep that nothing disturbs, to read only: run once for all processes that test."""
    out, told = shared / "undisturbed", shared / "undisturbed.json"
    with FileLock(shared / "undisturbed.lock"):
        if not told.exists():
            out.mkdir()
            shutil.copy(empty_store, out / "mlflow.db")
            began = time.monotonic()
            done = run(out, *ONE_AT_A_TIME)
            assert done.returncode == 0, done.stderr
            found = Undisturbed(str(out), done.stdout, done.stderr, time.monotonic() - began)
            told.write_text(json.dumps(dataclasses.asdict(found)))
    return Undisturbed(**json.loads(told.read_text()))


@pytest.fixture
def brisk(monkeypatch):
    """Delivery without pauses, and with all patience."""
    from harness.tracking import delivery

    monkeypatch.setattr(delivery, "RETRY_PAUSES", (0.001,))
    monkeypatch.setattr(delivery, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", LIMIT)


@pytest.fixture
def fresh(tmp_path, empty_store):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
