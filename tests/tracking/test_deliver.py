"""What happened reaches the tracking store once and in order, whatever the store does meanwhile."""

import contextlib
import dataclasses
import itertools
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from logged_sweep import EPOCHS, Memory, delivered, happen, tell
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from sweeps import LIMIT, free_port, serving, until

from harness import deliver
from harness.config.trial import build
from harness.errors import UserError, exit_status
from harness.storage.workspace import Workspace
from harness.sweep.job_types import Job, Outcome
from harness.tracking import delivery as tracking_delivery
from harness.tracking import event_log, mlflow_client, mlflow_writer
from harness.tracking.artifact_places import ArtifactPlaces
from harness.tracking.tracker import Tracker


def test_a_store_that_fails_before_and_after_its_acts_holds_the_same(workspace, monkeypatch, brisk):
    log = tell(workspace)
    steady = Memory()
    delivered(steady, log, workspace, monkeypatch)
    expected = steady.held()
    assert len(expected) == 5 and len(expected["study search #2"][4]["train/ce"]) == EPOCHS
    for seed in range(8):
        chance = random.Random(seed)
        opened = itertools.count()  # opening a store that fails is a mistake; what follows is not
        shaky = Memory(lambda chance=chance, opened=opened: next(opened) and chance.choice(["before", "after", "", ""]))
        for mark in log.parent.glob("*.delivered"):
            mark.unlink()
        delivered(shaky, log, workspace, monkeypatch)
        assert shaky.held() == expected, seed
        assert len(shaky.acts) > len(steady.acts)  # it did have to be told twice


def test_each_event_has_the_time_at_which_it_happened(workspace, monkeypatch, brisk):
    before = int(time.time() * 1000)
    log = tell(workspace, jobs=1)
    after = int(time.time() * 1000)
    time.sleep(0.05)
    store = Memory()
    delivered(store, log, workspace, monkeypatch)
    _, start, *_, metrics, _, _, end = store.held()["study search #0"]
    points = [point for points in metrics.values() for point in points]
    assert before <= start <= min(at for at, *_ in points) <= max(at for at, *_ in points) == end <= after


@pytest.mark.slow
def test_a_real_store_told_twice_and_cut_off_in_the_middle_holds_each_thing_once(workspace, empty_store, brisk):
    log, uri = tell(workspace), f"sqlite:///{workspace.out / 'mlflow.db'}"
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    # A process that ends without a word, after so many acts.
    cut = (
        "import os, sys\nfrom pathlib import Path\nfrom harness.storage.workspace import Workspace\n"
        "from harness.tracking import delivery\nfrom harness.tracking.mlflow_writer import MlflowWriter\n"
        "write, left = MlflowWriter.write, [int(sys.argv[4])]\n"
        "def some(self, event, without):\n    write(self, event)\n    left[0] -= 1\n"
        "    left[0] or os._exit(9)\n    return {}\n"
        "MlflowWriter.write = some\n"
        "delivery.deliver_all(sys.argv[1], Path(sys.argv[2]), Workspace(Path(sys.argv[3])))\n"
    )
    for acts in (2, 7):
        words = [sys.executable, "-c", cut, uri, str(log), str(workspace.out), str(acts)]
        assert subprocess.run(words, capture_output=True, timeout=LIMIT).returncode == 9
    store = tracking_delivery.deliver_all(uri, log, workspace).writer
    for mark in log.parent.glob("*.delivered"):
        mark.unlink()
    tracking_delivery.deliver_all(uri, log, workspace)
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([store.experiment])
    assert sorted(r.data.tags["harness.event"] for r in runs) == sorted(store.runs)
    for number in range(3):
        run = store.runs[f"study search #{number}"]
        for name in ("train/ce", "curve/robust", "val/robust"):
            steps = [m.step for m in client.get_metric_history(run, name)]
            assert steps == ([EPOCHS] if name == "val/robust" else list(range(1, EPOCHS + 1)))
        assert [a.path for a in client.list_artifacts(run)] == ["result.json"]


def test_a_new_store_is_told_everything_and_an_old_one_only_what_is_new(workspace, empty_store, brisk):
    for name in ("a.db", "b.db"):
        shutil.copy(empty_store, workspace.out / name)
    log = tell(workspace, jobs=1)
    first, second = (f"sqlite:///{workspace.out / name}" for name in ("a.db", "b.db"))
    assert len(tracking_delivery.deliver_all(first, log, workspace).writer.runs) == 3
    happen(Tracker(workspace, "experiment", {"harness.sweep": "5eed"}), workspace, jobs=2)
    told = []
    write = mlflow_writer.MlflowWriter.write

    def recorded(self, event, without):
        told.append(event["run"])
        return write(self, event, without)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_writer.MlflowWriter, "write", recorded)
        assert len(tracking_delivery.deliver_all(first, log, workspace).writer.runs) == 4
    assert "study search #1" in told and "study search #0" not in told
    assert len(tracking_delivery.deliver_all(second, log, workspace).writer.runs) == 4
    (workspace.out / "a.db").unlink()  # and one that was thrown away is a new one
    shutil.copy(empty_store, workspace.out / "a.db")
    assert len(tracking_delivery.deliver_all(first, log, workspace).writer.runs) == 4


def test_a_relative_path_of_a_store_means_the_file_in_that_folder(tmp_path, workspace, empty_store, brisk, monkeypatch):
    """Two such stores have a mark each, and the printed command finds the right one from anywhere."""
    log, marks = tell(workspace, 1), set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        marks.add(tracking_delivery._mark("sqlite:///own.db", log, workspace))
        assert tracking_delivery._mark(f"sqlite:///{Path('own.db').absolute()}", log, workspace) in marks
    assert len(marks) == 2
    shutil.copy(empty_store, "own.db")
    done = tracking_delivery.deliver_all("sqlite:///own.db", log, workspace)
    assert done.failure() == "" and done._mark in marks and done._mark.exists()
    assert done._command().endswith(f" --tracking-uri sqlite:///{tmp_path / 'b' / 'own.db'}")


@pytest.mark.parametrize("uri", ["", "file:///elsewhere"])
def test_files_that_a_database_was_told_lie_where_no_lost_machine_takes_them_away(
    workspace, empty_store, tmp_path, uri
):
    """The output folder of a node is a copy of what lies at a URI, and goes with the node."""
    log = tell(workspace, jobs=1)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = tracking_delivery.deliver_all(database, log, dataclasses.replace(workspace, remote=uri)).writer
    runs = MlflowClient(tracking_uri=database).search_runs([store.experiment], "tags.`harness.role` = 'search'")
    (kept,) = (Path(run.info.artifact_uri) for run in runs)
    assert kept.is_relative_to(tmp_path / "artifacts")
    assert [file.name for file in kept.iterdir()] == ["result.json"]


@pytest.mark.parametrize("name", ["q?x=1", "100%20", "a%2Fb", "a#b", "ein Ordner é", "q?x=1 %20#h%2F"])
def test_an_output_folder_may_have_any_name(tmp_path, empty_store, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(tmp_path / name, tmp_path / "data").writable()
    log, file = tell(workspace, jobs=1), workspace.out / "mlflow.db"
    shutil.copy(empty_store, file)
    uri = mlflow_client.default_uri(workspace)
    assert mlflow_client.sqlite_file(uri) == file
    store = tracking_delivery.deliver_all(uri, log, workspace).writer
    runs = MlflowClient(tracking_uri=uri).search_runs([store.experiment], "tags.`harness.role` = 'search'")
    places = ArtifactPlaces(uri)
    (found,) = (places.file(r.info.run_id, r.info.artifact_uri, "result.json", tmp_path) for r in runs)
    assert found.is_relative_to(workspace.out / "artifacts") and found.is_file()
    assert [f for f in tmp_path.rglob("*") if f.is_file() and workspace.out not in f.parents] == []


def test_what_a_store_will_never_take_does_not_hold_up_the_rest(workspace, monkeypatch, brisk):
    log = tell(workspace)

    class Choosy(Memory):
        def log_batch(self, run, metrics, params, tags):
            if self.runs[run].tags["harness.event"] == "study search #1":
                raise MlflowException("Run 'x' not found", error_code=RESOURCE_DOES_NOT_EXIST)
            super().log_batch(run, metrics, params, tags)

    store = Choosy()
    delivery = delivered(store, log, workspace, monkeypatch)
    said = r"refused \d+ writes, which are kept: \d+ events of 'trial 1: cell' \(MlflowException: Run 'x' not found\)"
    assert re.search(said, delivery.failure())
    assert store.held()["study search #2"][6] == "FINISHED" and store.held()["study search #1"][4] == {}


def test_a_store_that_is_gone_keeps_nobody_waiting_and_is_told_later(workspace, monkeypatch, brisk):
    log = tell(workspace)
    opened = itertools.count()

    def fails():
        number = next(opened)
        if number > 11:  # not before it was told why: patience ends when there is nothing left to wait for
            monkeypatch.setattr(tracking_delivery, "PATIENCE_SECONDS", 0.2)
        return "before" if number > 10 else ""

    gone = Memory(fails)
    delivery = delivered(gone, log, workspace, monkeypatch)
    assert re.search(r"failed: ConnectionError: refused; \d+ events wait in .*harness\.deliver", delivery.failure())
    held = len(gone.acts)
    assert held
    gone.fails = lambda: ""
    monkeypatch.setattr(tracking_delivery, "PATIENCE_SECONDS", LIMIT)
    delivered(gone, log, workspace, monkeypatch)
    fresh = Memory()
    delivered(fresh, log, workspace, monkeypatch)
    assert gone.held() == fresh.held() and held < len(fresh.acts)


def test_told_again_by_a_later_command_nothing_stands_twice(workspace):
    """A driver killed between two events tells the same once more when its trials are replayed."""
    log = tell(workspace)
    lines = log.read_bytes()
    happen(Tracker(workspace, "experiment", {"harness.sweep": "5eed"}), workspace)
    added = [event for event, _ in event_log.read_events(log, len(lines))]
    assert not any("metrics" in event or "begin" in event for event in added)


def test_a_log_cut_off_in_a_line_goes_on(workspace):
    log = tell(workspace, jobs=1)
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"run":"study sea')
    assert [e for e, _ in event_log.read_events(log)] == [
        e for e, _ in event_log.read_events(log)
    ]  # a reader waits for the rest
    Tracker(workspace, "experiment", {"harness.sweep": "5eed"}).on_winners("study", ["x"], 0)
    assert log.read_bytes().startswith(whole) and log.read_bytes()[len(whole) :].startswith(b'{"run":"study","time"')


def test_a_full_disk_leaves_no_half_of_an_event(workspace, monkeypatch):
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    tracker.start_sweep("title", "about")
    whole = tracker.log.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(event_log.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device; existing data is unchanged"):
        tracker.start_study("study", "cell", {}, {})
    assert tracker.log.read_bytes() == whole


@pytest.mark.parametrize("damaged", [b"no log\n", b"no log", b'{"log":"a","experiment":"e"}\n{"run":\n'])
def test_a_damaged_log_is_named(workspace, damaged):
    file = workspace.out / "track" / "experiment-5eed.jsonl"
    file.parent.mkdir()
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=r"experiment-5eed\.jsonl.* move it away"):
        Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    assert file.read_bytes() == damaged


def test_the_command_delivers_every_log_and_names_what_is_wrong(workspace, capsys, empty_store):
    assert exit_status(lambda: deliver.main(["--out", str(workspace.out)])) == 2
    assert "no sweep was written" in capsys.readouterr().err
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    tell(workspace, jobs=1)
    assert deliver.main(["--out", str(workspace.out)]) == 0
    assert capsys.readouterr().out == f"experiment: 3 runs of experiment-5eed at sqlite:///{workspace.out}/mlflow.db\n"
    assert exit_status(lambda: deliver.main(["--out", str(workspace.out), "--tracking-uri", "http://127.0.0.1:9"])) == 2
    assert "no MLflow server answers" in capsys.readouterr().err


# ---- a real server


@pytest.mark.slow
@pytest.mark.fault
def test_a_server_killed_and_started_again_holds_each_thing_once_and_in_order(workspace, empty_store, monkeypatch):
    monkeypatch.setattr(tracking_delivery, "PATIENCE_SECONDS", LIMIT)
    database = workspace.out / "server.db"
    shutil.copy(empty_store, database)
    port = free_port()
    uri, said = f"http://127.0.0.1:{port}", workspace.out / "server.log"
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    with contextlib.ExitStack() as stack:
        with serving(database, port, said):
            delivery = stack.enter_context(tracking_delivery.Delivery(uri, tracker.log, workspace))
            happen(tracker, workspace, jobs=2)
            until(lambda: len(delivery.writer.runs) >= 3)  # and is killed in the middle of it
        happen(tracker, workspace, jobs=6)
        assert delivery.failure()
        with serving(database, port, said):
            assert delivery.caught_up() and delivery.failure() == ""
            client = MlflowClient(tracking_uri=uri)
            runs = client.search_runs([delivery.writer.experiment])
            assert sorted(r.data.tags["harness.event"] for r in runs) == sorted(
                ["sweep", "study", *(f"study search #{n}" for n in range(6))]
            )
            for run in runs:
                if run.data.tags["harness.role"] == "search":
                    assert run.info.status == "FINISHED" and run.data.tags["harness.state"] == "complete"
                    points = client.get_metric_history(run.info.run_id, "train/ce")
                    assert [p.step for p in points] == [1, 2, 3, 4]
                    assert [p.timestamp for p in points] == sorted(p.timestamp for p in points)
                    assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["result.json"]


def test_mlflow_holds_the_kind_of_an_experiment_and_the_data_of_its_runs(workspace, empty_store):
    """Of a new experiment, and of one that an earlier version made; each data set once, however often it is told."""
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    uri = f"sqlite:///{workspace.out}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    for named in (None, "experiment"):
        if named:
            client.delete_experiment_tag(client.get_experiment_by_name(named).experiment_id, mlflow_writer.KIND)
        for mark in workspace.out.glob("track/*.delivered"):
            mark.unlink()
        tracking_delivery.deliver_all(uri, tell(workspace, jobs=1), workspace)
        experiment = client.get_experiment_by_name("experiment")
        assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    for role in ("search", "study", "sweep"):
        (run,) = client.search_runs([experiment.experiment_id], f"tags.`harness.role` = '{role}'")
        (found,) = run.inputs.dataset_inputs
        assert (found.dataset.name, found.dataset.digest) == ("digits", "ab")
        assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "validation")]


def test_a_study_supersedes_the_earlier_ones_of_its_cell_until_they_are_back(workspace):
    def start(*studies):
        tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
        tracker.start_sweep("title", "about")
        for study, cell in studies:
            tracker.start_study(study, cell, {}, {})

    def said():
        events = [event for event, _ in event_log.read_events(workspace.out / "track" / "experiment-5eed.jsonl")]
        tags = [(event["run"], event["tags"]) for event in events if "harness.superseded" in event.get("tags", {})]
        return {run: of["harness.superseded"] for run, of in tags}

    start(("old", "mine"), ("standard", "standard"))
    start(("old", "mine"))
    assert said() == {}
    start(("new", "mine"))
    assert said() == {"old": "new"}
    start(("old", "mine"))
    assert said() == {"old": "", "new": "old"}


def test_a_job_that_failed_and_runs_again_says_no_more_why_it_failed(workspace):
    """In the same command or in another one; while it runs, MLflow shows it so."""
    job = Job("", "teacher", 0, build({}))

    def tracked():
        tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
        tracker.start_sweep("title", "about")
        return tracker

    def logged(tracker):
        tags, status = {}, ""
        for event, _ in event_log.read_events(tracker.log):
            if event["run"] == job.id:
                tags |= {**event.get("begin", event).get("tags", {}), **event.get("tags", {})}
                status = event.get("status", status)
        return tags["harness.state"], tags.get("harness.reason", ""), status

    failed, complete = Outcome("failed", 0, reason="its node has died", cause="machine"), Outcome("complete", 0)
    for anew in (False, True):
        shutil.rmtree(workspace.out / "track", ignore_errors=True)
        tracker = tracked()
        tracker.on_end(job, failed)
        assert logged(tracker) == ("failed", "its node has died", "FAILED")
        tracker = tracked() if anew else tracker
        tracker.on_start(job)
        assert logged(tracker) == ("running", "", "RUNNING")
        tracker.on_end(job, complete)
        assert logged(tracker) == ("complete", "", "FINISHED")


def test_what_a_killed_command_left_running_is_marked_and_runs_again_when_it_continues(workspace, brisk):
    """As the store shows it after a kill, a start, an interruption, and the end of a command that continues."""
    going, never = (Job("study", "search", number, build({"optim.lr": 0.1 * (number + 1)})) for number in (0, 1))

    def started():
        tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
        tracker.start_sweep("title", "about")
        tracker.start_study("study", "cell", {"harness.order": "0"}, {"optim.lr": "0.01 to 0.1"})
        return tracker

    def shown(tracker):
        memory = Memory()
        writer = mlflow_writer.MlflowWriter(memory, "http://store", tracker.log, workspace)
        for event, _ in event_log.read_events(tracker.log):
            writer.write(event)
        statuses = {run.tags["harness.event"]: run.status for run in memory.runs.values()}
        return [statuses[name] for name in ("sweep", "study", going.id, never.id)]

    killed = started()
    for job in (going, never):
        killed.on_start(job)
    assert shown(killed) == ["RUNNING"] * 4
    tracker = started()  # the next command
    assert shown(tracker) == ["RUNNING", "RUNNING", "KILLED", "KILLED"]
    tracker.on_start(going)
    assert shown(tracker) == ["RUNNING", "RUNNING", "RUNNING", "KILLED"]
    tracker.close("KILLED")  # interrupted
    assert shown(tracker) == ["KILLED"] * 4
    tracker = started()
    tracker.on_start(going)
    tracker.on_end(going, Outcome("pruned", 1))
    tracker.close()
    assert shown(tracker) == ["FINISHED", "FINISHED", "FINISHED", "KILLED"]
    size = tracker.log.stat().st_size
    tracker.on_start(going)  # what has ended is not opened again
    assert tracker.log.stat().st_size == size
