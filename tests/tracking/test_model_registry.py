"""Weights of winners as versions of a model in MLflow's registry."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from logged_sweep import tell
from mlflow import MlflowClient

from harness import sweep_report
from harness.errors import UserError
from harness.sweep.plan import plan
from harness.sweep.request import Request
from harness.tracking import model_registry
from harness.tracking.delivery import deliver_all
from harness.tracking.model_registry import Winner


def test_each_winner_is_a_version_once_and_the_best_is_named(tmp_path, empty_store):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    winners = []
    for cell in ("pgd", "standard"):
        run = client.create_run(experiment)
        (tmp_path / "weights.pt").write_text(cell)
        client.log_artifact(run.info.run_id, str(tmp_path / "weights.pt"))
        winners.append(Winner(cell, run.info.run_id, {}))
    first = model_registry.register(uri, "robust digits", winners[1:])
    assert first == {"standard": "1"}
    for _ in range(2):
        assert model_registry.register(uri, "robust digits", winners) == {"pgd": "2", "standard": "1"}
    best = client.get_model_version_by_alias("robust digits", "best")
    assert (str(best.version), best.tags["harness.cell"], best.run_id) == ("2", "pgd", winners[0].run)
    folder = Path(client.get_model_version_download_uri("robust digits", "2"))
    assert (folder / "weights.pt").read_text() == "pgd"


def test_a_winner_whose_run_was_deleted_is_named_and_nothing_is_registered(workspace, empty_store, brisk, capsys):
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    uri, log = f"sqlite:///{workspace.out}/mlflow.db", tell(workspace, 2)
    names = [f"study search #{n}" for n in range(2)]
    winners = [Winner(f"cell {n}", name, {}) for n, name in enumerate(names)]
    client, writer = MlflowClient(tracking_uri=uri, registry_uri=uri), deliver_all(uri, log, workspace).writer
    sweep_report.register(uri, "m", winners[1:], writer)
    assert capsys.readouterr().out == "registered: models:/m/1 (cell 1)\n"
    run = writer.runs[names[0]]
    client.delete_run(run)
    writer = deliver_all(uri, log, workspace).writer
    with pytest.raises(UserError, match=rf"'trial 0: cell' was deleted in MLflow .* restore --run-id {run}$"):
        sweep_report.register(uri, "m", winners, writer)
    with contextlib.closing(sqlite3.connect(workspace.out / "mlflow.db")) as opened, opened:
        opened.execute("delete from tags where run_uuid = ?", (run,))  # as `mlflow gc` does with all of the run
    with pytest.raises(UserError, match=r"^the run with the weights of 'cell 0' was removed from MLflow"):
        sweep_report.register(uri, "m", winners, writer)
    assert len(client.search_model_versions("name = 'm'")) == 1


def test_a_store_without_a_registry_is_one_line(tmp_path):
    with pytest.raises(UserError, match="registers no model 'm': ") as raised:
        model_registry.register("http://127.0.0.1:9", "m", [])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["", "a/b", "a:1", "it's"])
def test_a_name_that_is_none_is_refused_before_anything_runs(name):
    with pytest.raises(UserError, match="--register takes the name of a model"):
        plan(Request("smoke", register=name))
