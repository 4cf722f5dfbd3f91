"""The runs that a log describes are those that a store has once it is delivered."""

from pathlib import Path

import pandas as pd
from logged_sweep import Memory, delivered, happen, tell

from harness.storage import npz
from harness.tracking.logged_runs import logged_runs
from harness.tracking.tracker import Tracker
from reports.analyse import counted_runs
from reports.read import artifacts, runs


def test_a_log_has_the_runs_of_the_store_it_was_delivered_to(workspace, monkeypatch, brisk):
    log = tell(workspace)
    happen(Tracker(workspace, "experiment", {"harness.sweep": "5eed"}), workspace, 4)  # the command, once more
    store = Memory()
    delivered(store, log, workspace, monkeypatch)
    found = logged_runs(log, workspace.out)
    expected = store.held()
    assert [run.info.run_id for run in found] == list(expected) and len(found) == 6
    for run in found:
        title, start, tags, params, metrics, _, status, _ = expected[run.info.run_id]
        own = {name: text for name, text in tags.items() if name not in ("harness.log", "harness.event")}
        last = {name: max((step, at, value) for at, step, value in points)[2] for name, points in metrics.items()}
        assert (run.info.run_name, run.info.start_time, run.info.status) == (title, start, status)
        assert (run.data.tags, run.data.params, run.data.metrics) == (own, params, last)
        key = tags.get("harness.key")
        assert run.info.artifact_uri == (str(workspace.trial(key)) if key else "")


def test_a_metric_has_the_value_of_its_last_step(workspace):
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    tracker.start_sweep("title", "about")
    for metrics in ([("a", 1.0, 3), ("a", 2.0, 7)], [("a", 9.0, 5), ("b", 4.0, 0)], [("b", 3.0, 0)]):
        tracker._log.append("sweep", metrics=metrics)
    (run,) = logged_runs(tracker.log, workspace.out)
    assert run.data.metrics["a"] == 2.0


def test_the_table_and_the_files_from_disk_are_those_from_the_store(undisturbed):
    out = undisturbed.out
    (log,) = out.glob("track/*.jsonl")
    uri = f"sqlite:///{out}/mlflow.db"
    stored, disk = runs.read(uri, "smoke-digits"), runs.read_log(log, out)
    assert len(stored) > 5 and list(stored) == list(disk)
    of_a_store = ["run_id", "artifacts"]
    order = ["cell", "role", "number", "key"]
    tables = [table.drop(columns=of_a_store).sort_values(order).reset_index(drop=True) for table in (stored, disk)]
    pd.testing.assert_frame_equal(*tables)
    there, here = counted_runs.read_files(uri, stored), counted_runs.local_files(disk, Path)
    assert sorted(there.pictures) == sorted(here.pictures) and len(there.images) == len(here.images) == 2
    assert isinstance(here, artifacts.Files) and here.problems == there.problems == ()
    for table, files in ((stored, there), (disk, here)):
        for run in table[table["role"] == "seed"].to_dict("records"):
            arrays = npz.read(out / "trials" / run["key"] / "test.npz", "test/robust")
            assert files.images[run["run_id"]]["test/robust"].tobytes() == arrays["test/robust"].tobytes()
