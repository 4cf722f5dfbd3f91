"""A store and its artifacts are moved, copied and shared, and no place that its file names is written to."""

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from logged_sweep import happen, tell
from mlflow import MlflowClient
from small_mlflow import small_mlflow
from sweeps import LIMIT, ROOT

from harness.errors import UserError
from harness.storage.workspace import Workspace
from harness.tracking import delivery, local_artifacts, model_registry
from harness.tracking.artifact_places import check_written, local_path
from harness.tracking.mlflow_client import folder_uri
from harness.tracking.tracker import Tracker


def store(workspace):
    return f"sqlite:///{workspace.out / 'mlflow.db'}"


def kept(uri):
    """What MLflow itself finds: names of artifacts by the run's name in its log, and the folders that it names."""
    client = MlflowClient(tracking_uri=uri)
    runs = [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
    names = {r.data.tags["harness.event"]: [a.path for a in client.list_artifacts(r.info.run_id)] for r in runs}
    return names, {Path(r.info.artifact_uri).parents[1] for r in runs}


@pytest.fixture
def delivered(workspace, empty_store, brisk):
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    assert delivery.deliver_all(store(workspace), tell(workspace, 2), workspace).failure() == ""
    return workspace


def more(workspace):
    """The same sweep goes on with a third trial; how many events were sent."""
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    happen(tracker, workspace, 3)
    done = delivery.deliver_all(store(workspace), tracker.log, workspace)
    assert done.failure() == ""
    return done._progress


@pytest.mark.parametrize("way", ["moved", "copied"])
def test_an_output_folder_goes_on_elsewhere(delivered, tmp_path, way):
    new = dataclasses.replace(delivered, out=tmp_path / "else where" / "runs")
    new.out.parent.mkdir()
    shutil.copytree(delivered.out, new.out)
    before = kept(store(delivered))
    run = next(iter((delivered.out / "artifacts").iterdir())).name
    registered = [model_registry.Winner("cell", run, {})]
    model_registry.register(store(delivered), "winner", registered)
    shutil.copy(delivered.out / "mlflow.db", new.out)
    if way == "moved":
        shutil.rmtree(delivered.out)
    sent = more(new)
    names, folders = kept(store(new))
    assert names.keys() == {"sweep", "study", *(f"study search #{n}" for n in range(3))}
    assert {name for name, files in names.items() if files == ["result.json"]} == {
        f"study search #{n}" for n in range(3)
    }
    assert folders == {new.out / "artifacts"}
    (version,) = MlflowClient(tracking_uri=store(new)).search_model_versions("name = 'winner'")
    assert version.source == str(new.out / "artifacts" / run / "artifacts")
    assert sent < 20  # not everything again: the mark came along
    if way == "moved":
        assert not delivered.out.exists()
    else:
        assert kept(store(delivered)) == before


def test_two_output_folders_share_a_store_and_no_folder_of_theirs(tmp_path, empty_store, brisk):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for name in ("a", "b"):
        workspace = Workspace(tmp_path / name).writable()
        assert delivery.deliver_all(uri, tell(workspace, 1), workspace).failure() == ""
        shutil.rmtree(workspace.out)
    client = MlflowClient(tracking_uri=uri)
    runs = [r for r in client.search_runs(["1"]) if r.data.tags["harness.role"] == "search"]
    assert [[a.path for a in client.list_artifacts(r.info.run_id)] for r in runs] == [["result.json"]] * 2
    assert {Path(r.info.artifact_uri).parents[1] for r in runs} == {tmp_path / "artifacts"}


def places(uri, place):
    """Let the file of a store name this place for every run and experiment."""
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as opened, opened:
        opened.execute("update runs set artifact_uri = ? || '/' || run_uuid || '/artifacts'", (place,))
        opened.execute("update experiments set artifact_location = ?", (place,))


def test_artifacts_in_an_output_folder_beside_which_the_store_is_not_are_copied_to_it(delivered, tmp_path):
    """As earlier versions left them."""
    uri = f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}"
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(delivered.out / "mlflow.db", tmp_path / "elsewhere")
    places(uri, str(delivered.out / "artifacts"))
    (log,) = delivered.out.glob("track/*.jsonl")
    expected, _ = kept(store(delivered))
    for mark in log.parent.glob("*.delivered"):
        mark.unlink()
    (delivered.out / "trials").rename(tmp_path / "trials")  # nothing to deliver the files from
    assert delivery.deliver_all(uri, log, delivered).failure() == ""
    assert kept(uri) == (expected, {tmp_path / "elsewhere" / "artifacts"})


def test_a_copy_that_was_interrupted_is_made_again(tmp_path, monkeypatch):
    earlier, folder = tmp_path / "out" / "run", tmp_path / "store" / "run"
    (earlier / "artifacts").mkdir(parents=True)
    for name in ("a", "b"):
        (earlier / "artifacts" / name).write_text(name)

    def interrupted(*of, **how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copystat", interrupted)  # after the first
        with pytest.raises(KeyboardInterrupt):
            local_artifacts._is_here(folder, earlier, own=True)
    for _ in range(2):
        assert local_artifacts._is_here(folder, earlier, own=True)
        assert sorted(file.name for file in folder.parent.rglob("*")) == ["a", "artifacts", "b", "run"]


def test_no_place_that_a_received_store_names_is_written_to(delivered, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    places(store(delivered), str(private))
    with contextlib.closing(sqlite3.connect(delivered.out / "mlflow.db")) as opened, opened:
        opened.execute("update runs set artifact_uri = ?", (str(private),))
    shutil.copytree(delivered.out / "artifacts", tmp_path / "seen")
    more(delivered)
    assert list(private.iterdir()) == []
    assert kept(store(delivered))[1] == {delivered.out / "artifacts"}


@pytest.mark.parametrize("scheme", ["ftp", "http", "mlflow-artifacts", "sftp", "runs"])
def test_no_other_host_that_a_server_names_is_sent_artifacts(workspace, brisk, monkeypatch, scheme):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    log = tell(workspace, 1)
    with small_mlflow() as server, small_mlflow() as stranger:
        server.place = f"{scheme}://{stranger.uri.removeprefix('http://')}/1"
        said = delivery.deliver_all(server.uri, log, workspace).failure()
        assert "refused 1 writes" in said and "artifacts are not sent to " in said and stranger.asked == []


@pytest.mark.parametrize(
    ("uri", "place", "taken"),
    [
        ("sqlite:////x/mlflow.db", "/x/artifacts/ab/artifacts", True),
        ("sqlite:////x/mlflow.db", "/x/artifacts/../ab", False),
        ("sqlite:////x/mlflow.db", "s3://bucket/x", False),
        ("http://h:5000", "mlflow-artifacts:/1/ab", True),
        ("http://h:5000", "s3://bucket/x", True),
        ("http://h:5000", "/shared/mlruns/1/ab", True),
        ("http://h:5000", "http://other/api/2.0/mlflow-artifacts/artifacts/1", False),
        ("postgresql://h/db", "/shared/mlruns/1/ab", True),
        ("postgresql://h/db", "http://other/x", False),
    ],
)
def test_where_artifacts_are_sent(uri, place, taken):
    with contextlib.nullcontext() if taken else pytest.raises(UserError, match="artifacts are not sent to"):
        check_written(uri, place)


@pytest.mark.parametrize("name", ["a b", "50% of #1? it's", "x%20y", "é;=&", "plain"])
def test_a_folder_of_any_name_is_found_at_the_place_that_mlflow_takes(tmp_path, name):
    assert local_path(folder_uri(tmp_path / name)) == tmp_path / name
    assert (folder_uri(tmp_path / name) == str(tmp_path / name)) is not any(c in name for c in "%#?")


@pytest.mark.slow
def test_first_starts_at_once_make_the_tables_of_a_shared_store_once(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    outs = [tmp_path / name for name in "abc"]
    for out in outs:
        tell(Workspace(out).writable(), 1)
    words = [sys.executable, "-m", "harness.deliver", "--tracking-uri", uri, "--out"]
    how = {"cwd": ROOT, "stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True, "env": os.environ}
    started = [subprocess.Popen([*words, str(out)], **how) for out in outs]
    said = [process.communicate(timeout=LIMIT)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert len(MlflowClient(tracking_uri=uri).search_runs(["1"])) == 9
