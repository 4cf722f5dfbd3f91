"""Output at a URI: what one node began another one finishes, and each thing is made once, whoever dies meanwhile."""

import contextlib
import dataclasses
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from other_user import STRANGER, needs_root
from PIL import Image
from sweeps import (
    LIMIT,
    ONE_AT_A_TIME,
    ROOT,
    differences,
    finished,
    leaderboard,
    mlflow_state,
    proposed,
    run,
    started,
    suspended,
    sweep,
    until,
)

from harness import cli
from harness.config.trial import build
from harness.data import datasets
from harness.data.settings import DataSource
from harness.errors import UserError
from harness.storage import driver_lock, remote_store
from harness.storage import weights as storage_weights
from harness.storage import workspace as workspace_module
from harness.storage.workspace import Workspace
from harness.training import loop
from harness.trials import run as trial_run
from harness.trials import teachers

# What a process of another node does: argv is the URI, its scratch folder, then settings as JSON.
NODE = """
import json, os, sys, time
from harness import cli
from harness.config.trial import build
from harness.trials.run import run
os.environ["HARNESS_SCRATCH"] = sys.argv[2]
workspace = cli.local_workspace(sys.argv[1]).writable()
def report(row):
    print("epoch", row["epoch"], flush=True)
    if row["epoch"] == int(os.environ.get("HOLD", 0)):
        time.sleep(10_000)
run(build(json.loads(sys.argv[3])), workspace, report=report)
"""
SETTINGS = {"epochs": 4, "data.limit": 96, "measure.eps": [16 / 255], "measure.steps": 2, "measure.watch": 1}
SAT = {**SETTINGS, "method": "sat", "maps.saliency": "gradient"}


class Stop(BaseException):
    pass


@pytest.fixture
def uri(tmp_path):
    return f"file://{tmp_path / 'store'}"


@pytest.fixture
def node(tmp_path, uri, monkeypatch):
    """A function from a name to the place of that node."""

    def made(name):
        monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / name))
        return cli.local_workspace(uri).writable()

    return made


def figures(result, workspace):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.rows]
    weights = storage_weights.load_weights(workspace.trial(result.trial.key) / "weights.pt")
    return [s.record() for s in result.scores], rows, {name: w.numpy().tobytes() for name, w in weights.items()}


@functools.cache
def alone(folder, settings):
    workspace = Workspace(folder / "out").writable()
    return figures(trial_run.run(build(json.loads(settings)), workspace, test=True), workspace)


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    return lambda settings: alone(tmp_path_factory.getbasetemp(), json.dumps(settings))


def test_what_one_node_began_another_goes_on_with(node, expected, monkeypatch):
    trial, epochs, whole = build(SAT), [], expected(SAT)
    one = node("one")

    def interrupted(row):
        if row["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        trial_run.run(trial, one, report=interrupted)
    shutil.rmtree(one.out)
    two = node("two")
    assert two.out != one.out
    epoch = loop._epoch
    monkeypatch.setattr(loop, "_epoch", lambda *of: epochs.append(of[-2]) or epoch(*of))
    result = trial_run.run(trial, two, test=True)
    assert epochs == [2, 3]  # and neither the teacher nor its maps again
    assert figures(result, two) == whole
    three = node("three")
    assert figures(trial_run.run(trial, three, test=True), three) == whole
    assert epochs == [2, 3]
    assert "checkpoint.pt" not in remote_store.RemoteStore(three.remote).files(f"trials/{trial.key}")


@pytest.mark.slow
@pytest.mark.fault
def test_a_node_killed_while_it_trains(node, uri, tmp_path, expected):
    settings = {**SETTINGS, "method": "standard"}
    env = {**os.environ, "HOLD": "2", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", NODE, uri, str(tmp_path / "one"), json.dumps(settings)]
    dying = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
    assert dying.stdout.readline() == "epoch 1\n" and dying.stdout.readline() == "epoch 2\n"
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    dying.stdout.close()
    shutil.rmtree(tmp_path / "one")
    two = node("two")
    key = build(settings).key
    there = remote_store.RemoteStore(uri).files(f"trials/{key}")
    assert "checkpoint.pt" in there and "result.json" not in there
    assert figures(trial_run.run(build(settings), two, test=True), two) == expected(settings)


def test_maps_and_their_teacher_are_made_once_for_all_nodes(node, monkeypatch):
    one = node("one")
    trial_run.run(build({**SAT, "method.alpha10": 0.5}), one)
    made = {f.relative_to(one.out): f.read_bytes() for f in one.out.glob("cache/maps/*/maps.npy")}
    shutil.rmtree(one.out)
    two = node("two")
    monkeypatch.setattr(teachers, "train_net", None)
    trial_run.run(build({**SAT, "method.alpha10": 0.6}), two)
    assert made and {f.relative_to(two.out): f.read_bytes() for f in two.out.glob("cache/maps/*/maps.npy")} == made


def test_a_trial_alone_waits_for_no_sweep(node):
    """Beside a sweep a single trial is refused, here and at a URI, and gets its turn afterwards."""
    for workspace in (node("one"), Workspace(node("two").out).writable()):
        trial = build({**SETTINGS, "method": "standard"})
        with workspace.single_writer() as sweep:
            assert sweep is not None
            with pytest.raises(UserError, match="another command is writing to"):
                trial_run.run_alone(trial, workspace)
        assert trial_run.run_alone(trial, workspace).trial == trial
        with workspace.single_writer():  # what is finished can be read beside a sweep
            assert trial_run.trained_model(trial, workspace)[1].trial == trial


@pytest.fixture
def bucket(monkeypatch):
    """The URI of an empty folder on a server that speaks S3's protocol, on loopback."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
    yield "s3://bucket/runs"
    running.stop()


@pytest.mark.filterwarnings("ignore")  # of what speaks S3
def test_on_s3_one_creates_and_another_node_goes_on(bucket, tmp_path, expected, monkeypatch):
    store = remote_store.RemoteStore(bucket)
    assert store.create("a/file", b"1") and not store.create("a/file", b"2") and store.read("a/file") == b"1"
    store.remove("a/file")
    assert store.read("a/file") is None
    trial, whole = build(SAT), expected(SAT)

    def interrupted(row):
        if row["epoch"] == 2:
            raise Stop

    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "one"))
    with pytest.raises(Stop):
        trial_run.run(trial, cli.local_workspace(bucket).writable(), report=interrupted)
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "two"))
    two = cli.local_workspace(bucket).writable()
    assert figures(trial_run.run(trial, two, test=True), two) == whole
    assert "result.json" in store.files(f"trials/{trial.key}") and "checkpoint.pt" not in store.files("trials")


@pytest.mark.filterwarnings("ignore")  # of what speaks S3
def test_on_s3_one_driver_has_the_lock(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(driver_lock, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(driver_lock, "POLL_SECONDS", 0.01)
    one, two = (Workspace(tmp_path / name, remote=bucket).writable() for name in ("one", "two"))
    with one.single_writer() as first:
        (one.out / "optuna.journal").write_text("1")
        first.push()
        with two.single_writer() as second:
            assert first and second is None
    with two.single_writer() as free:
        assert free and (two.out / "optuna.journal").read_text() == "1"
    names = remote_store.RemoteStore(bucket).files("driver").keys()
    assert names >= {"00000001.lock", "00000002.lock", "00000002/optuna.journal"}
    assert "00000001/optuna.journal" not in names


# ---- copies


def test_a_copy_sends_what_changed_in_the_order_in_which_it_was_written(uri, tmp_path, monkeypatch):
    store, sent = remote_store.RemoteStore(uri), []
    monkeypatch.setattr(remote_store.RemoteStore, "put", lambda self, file, name: sent.append(name) or name)
    copy = remote_store.FolderCopy(store, "trial", tmp_path / "here")
    copy.pull()
    for at, name in enumerate(("weights.pt", "a.npz", "result.json", ".part", "lock")):
        (tmp_path / "here" / name).write_text("x")
        os.utime(tmp_path / "here" / name, ns=(at, at))
    copy.push()
    assert sent == ["trial/weights.pt", "trial/a.npz", "trial/result.json"]
    copy.push()
    assert len(sent) == 3


def test_an_equal_trial_on_this_node_begins_after_the_last_push_of_the_one_before(node, monkeypatch):
    """A trial that halving stops pushes once more, while the next job already begins in another worker."""
    place, asked, order = node("a"), threading.Event(), []
    trial = build({"method": "standard", **SETTINGS})
    pull, push, lock = remote_store.FolderCopy.pull, remote_store.FolderCopy.push, workspace_module.locked

    def noted(name, do):
        def done(self, *given):
            done = do(self, *given)
            order.append((name, threading.current_thread().name))
            asked.set()
            return done

        return done

    @contextlib.contextmanager
    def locked(path, **how):
        asked.set()
        with lock(path, **how) as got:
            yield got

    def stopped(row):
        if row["epoch"] == 2:
            asked.clear()
            monkeypatch.setattr(workspace_module, "locked", locked)
            monkeypatch.setattr(remote_store.FolderCopy, "pull", noted("pull", pull))
            after.start()
            assert asked.wait(LIMIT)  # the other one has pulled, or waits
            monkeypatch.setattr(remote_store.FolderCopy, "push", noted("push", push))
            raise Stop

    after = threading.Thread(target=trial_run.run, args=(trial, place), name="next")
    with pytest.raises(Stop):
        trial_run.run(trial, place, report=stopped)
    after.join(LIMIT)
    assert order[:2] == [("push", threading.main_thread().name), ("pull", "next")]


def test_what_is_removed_here_is_removed_there_but_not_with_the_whole_copy(uri, tmp_path):
    store = remote_store.RemoteStore(uri)
    copy = remote_store.FolderCopy(store, "trial", tmp_path / "here")
    copy.pull()
    for name in ("checkpoint.pt", "result.json"):
        (tmp_path / "here" / name).write_text("x")
    copy.push()
    (tmp_path / "here" / "checkpoint.pt").unlink()
    copy.push()
    assert store.files("trial").keys() == {"result.json"}
    shutil.rmtree(tmp_path / "here")
    copy.push()
    assert store.files("trial").keys() == {"result.json"}


def test_pushing_takes_a_tenth_of_the_time(uri, tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(remote_store.time, "monotonic", lambda: now[0])
    copy = remote_store.FolderCopy(remote_store.RemoteStore(uri), "trial", tmp_path)
    pushed = []

    def push():
        now[0] += 2
        pushed.append(now[0])
        copy._last, copy._took = now[0], 2

    monkeypatch.setattr(copy, "push", push)
    for _ in range(400):
        now[0] += 1
        copy.push_if_due()
    assert 400 / 25 < len(pushed) < 400 / 17


def test_a_copy_becomes_what_the_store_has_and_keeps_what_it_had_not_sent(uri, tmp_path):
    store = remote_store.RemoteStore(uri)
    one, two = (remote_store.FolderCopy(store, "trial", tmp_path / name) for name in ("one", "two"))
    one.pull()
    (tmp_path / "one" / "a").write_text("1")
    (tmp_path / "one" / "sub").mkdir()
    (tmp_path / "one" / "sub" / "b").write_text("1")
    one.push()
    two.pull()
    assert (tmp_path / "two" / "sub" / "b").read_text() == "1"
    (tmp_path / "two" / "a").unlink()  # by whoever tidies temporary folders
    (tmp_path / "two" / "c").write_text("unsent")
    again = remote_store.FolderCopy(store, "trial", tmp_path / "two")
    again.pull()
    assert (tmp_path / "two" / "c").read_text() == "unsent"  # its process died; nobody else wrote meanwhile
    (tmp_path / "two" / "sub" / "b").unlink()
    again.push()
    assert store.files("trial").keys() == {"a", "c"}
    (tmp_path / "one" / "stale").write_text("x")
    remote_store.FolderCopy(store, "trial", tmp_path / "one").pull()
    assert sorted(p.name for p in (tmp_path / "one").iterdir() if p.is_file() and p.name[0] != ".") == ["a", "c"]


def test_a_store_that_fails_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_store, "RETRY_PAUSES", (0.0, 0.0))
    with pytest.raises(UserError, match=r"'s4://bucket/runs'.*s4"):
        remote_store.RemoteStore("s4://bucket/runs")
    with pytest.raises(UserError, match=r"'hdfs.*|gs://.* needs a package|Install"):
        remote_store.RemoteStore("gs://bucket/runs")
    store = remote_store.RemoteStore(f"file://{tmp_path}")
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"the store 'file://.*' failed: IsADirectoryError"):
        store.read("a")


def test_a_failing_store_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_store, "RETRY_PAUSES", (0.0, 0.0))
    store = remote_store.RemoteStore(f"file://{tmp_path}")
    (tmp_path / "a").write_text("there")
    cat, calls = store._fs.cat_file, []

    def shaky(name):
        calls.append(name)
        if len(calls) < 3:
            raise ConnectionError("reset")
        return cat(name)

    monkeypatch.setattr(store._fs, "cat_file", shaky)
    assert store.read("a") == b"there" and len(calls) == 3


# ---- data


def picture(value):
    file = io.BytesIO()
    Image.fromarray(np.full((6, 6, 3), value, np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue()}


def test_data_at_a_uri_are_fetched_once_per_node(tmp_path, monkeypatch):
    folder = tmp_path / "remote" / "mine"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        columns = {"image": [picture(v) for v in range(20)], "label": [v % 2 for v in range(20)]}
        pq.write_table(pa.table(columns), folder / f"{part}-00000-of-00001.parquet")
    fetched, get = [], remote_store.RemoteStore.get
    monkeypatch.setattr(
        remote_store.RemoteStore, "get", lambda self, name, to: fetched.append(name) or get(self, name, to)
    )
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "node"))
    root = f"file://{tmp_path / 'remote'}"
    for out in ("a", "b"):
        words = ["--data", "mine", "--data-root", root, "--out", str(tmp_path / out)]
        workspace = cli.workspace(cli.parser("p", "", single=True).parse_args(words))
        assert len(datasets.load(DataSource("mine"), workspace).train) == 16
    assert len(fetched) == 2
    assert len(list((tmp_path / "node").glob("data/mine-*/meta.json"))) == 1  # decoded once, too
    assert not list(tmp_path.glob("[ab]/cache/data"))
    with pytest.raises(UserError, match="yours"):
        datasets.load(DataSource("yours"), workspace)
    with pytest.raises(UserError):
        datasets.load(DataSource("../remote/mine"), workspace)


# ---- a whole sweep


@pytest.mark.slow
def test_sqlite_is_refused_where_it_cannot_lie(uri, tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    done = run(uri, env={**env, "HARNESS_SCRATCH": str(tmp_path / "node")})
    assert done.returncode == 2 and "--tracking-uri" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def alive(word):
    """Whether a process has this word in its environment."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found.append(word.encode() in file.read_bytes())
    return any(found)


@pytest.mark.slow
@pytest.mark.fault
def test_a_sweep_whose_machine_is_lost_goes_on_elsewhere(uri, tmp_path, fresh, undisturbed):
    """The driver is killed and its disk with it; another machine finds at the URI all that MLflow was told of."""
    words = [*ONE_AT_A_TIME, "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    env = {**os.environ, "HARNESS_SCRATCH": str(tmp_path / "one")}
    with started(uri, *words, env=env, stdout=subprocess.DEVNULL, stderr=None) as process:
        until(lambda: len(list((tmp_path / "store").glob("trials/*/result.json"))) >= 2, process)
        process.kill()
        process.wait()
    until(lambda: not alive(str(tmp_path / "one")))  # its workers notice a little later
    shutil.rmtree(tmp_path / "one")
    done = run(uri, *words, env={**env, "HARNESS_SCRATCH": str(tmp_path / "two")})
    assert done.returncode == 0, done.stderr
    (out,) = (tmp_path / "two").glob("out-*")
    assert proposed(out) == proposed(undisturbed.out)
    assert not differences(mlflow_state(out, f"sqlite:///{tmp_path / 'mlflow.db'}"), mlflow_state(undisturbed.out))
    assert leaderboard(out) == leaderboard(undisturbed.out)
    assert (tmp_path / "store" / "reports" / "smoke-digits.html").exists()


# The command, whose driver is taken for dead after seconds.
HASTY = """
import sys
from harness import tune
from harness.errors import exit_status
from harness.storage import driver_files, driver_lock
driver_lock.HEARTBEAT_SECONDS, driver_lock.STALE_SECONDS, driver_lock.VALID_SECONDS = 0.5, 5.0, 3.0
driver_files.PUSH_SECONDS = 0.5
sys.exit(exit_status(tune.main))
"""


@pytest.mark.slow
@pytest.mark.fault
def test_a_suspended_driver_stops_when_another_has_taken_over(uri, tmp_path, fresh, undisturbed):
    words = sweep(uri, *ONE_AT_A_TIME, "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}")
    words = [sys.executable, "-c", HASTY, *words]
    env = {**os.environ, "HARNESS_SCRATCH": str(tmp_path / "one")}
    first = subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(list((tmp_path / "store").glob("trials/*/result.json"))) >= 2, first)
        with suspended(first):
            second = finished(words, env={**env, "HARNESS_SCRATCH": str(tmp_path / "two")})
            assert second.returncode == 0, second.stderr
            before = contents(tmp_path / "store")
        _, said = first.communicate(timeout=LIMIT)
    finally:
        first.kill()
    assert first.returncode == 1, said
    assert said.count("\n") == 1 and said.startswith(f"error: another command took over '{uri}'"), said
    assert contents(tmp_path / "store") == before
    (out,) = (tmp_path / "two").glob("out-*")
    assert proposed(out) == proposed(undisturbed.out) and leaderboard(out) == leaderboard(undisturbed.out)
    assert not differences(mlflow_state(out, f"sqlite:///{tmp_path / 'mlflow.db'}"), mlflow_state(undisturbed.out))


def contents(store):
    """The files that later commands and users read."""
    last = max((store / "driver").glob("*/complete")).parent
    return {
        file: file.read_bytes() for folder in (last, store / "reports") for file in folder.rglob("*") if file.is_file()
    }


@needs_root
def test_a_scratch_folder_that_somebody_else_made_or_links_to_is_refused(tmp_path):
    """In a shared temporary folder its name can be guessed."""
    own, linked, foreign = tmp_path / "own", tmp_path / "linked", tmp_path / "foreign"
    own.mkdir(mode=0o700)
    linked.symlink_to(own)
    workspace = Workspace(tmp_path / "out", tmp_path / "data", scratch=linked)
    assert workspace.writable() is workspace  # a link of one's own
    os.chown(linked, STRANGER, STRANGER, follow_symlinks=False)
    foreign.mkdir()
    os.chown(foreign, STRANGER, STRANGER)
    for scratch in (linked, foreign):
        with pytest.raises(UserError, match=r"belongs to another user; set HARNESS_SCRATCH to a folder of yours$"):
            dataclasses.replace(workspace, scratch=scratch).writable()
