"""MLflow's store in PostgreSQL: two sweeps at once through a server, and delivery to the database itself."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from logged_sweep import tell
from mlflow import MlflowClient
from sweeps import LIMIT, ROOT, free_port, report, serving_store, studies, until

from harness.storage.workspace import Workspace
from harness.tracking import delivery, event_log

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=Path(shutil.which("initdb") or "")).parent
NOBODY = 65534

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PROGRAMS / "initdb").is_file(), reason="PostgreSQL is not installed"),
    pytest.mark.skipif(
        not importlib.util.find_spec("psycopg2"), reason="psycopg2 is not installed: pip install -e .[postgresql]"
    ),
]


@pytest.fixture
def database():
    """The URI of an empty database that listens in a folder of its own, on no port."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a short path, since a socket lies in it
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}  # it refuses root
    if user:
        os.chown(folder, NOBODY, NOBODY)
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "check": True, **user}
    subprocess.run([PROGRAMS / "initdb", "-D", folder / "data", "-U", "mlflow", "-A", "trust", "-N"], **quiet)
    words = [PROGRAMS / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-F"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log, **user)
    try:
        until(lambda: "ready to accept" in (folder / "log").read_text(), server, (folder / "log").read_text)
        subprocess.run([PROGRAMS / "createdb", "-h", folder, "-U", "mlflow", "mlflow"], **quiet)
        yield f"postgresql+psycopg2://mlflow@/mlflow?host={folder}"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def test_two_sweeps_at_once_through_a_server_are_each_there_once(database, tmp_path):
    port = free_port()
    server = f"http://127.0.0.1:{port}"
    outs = [tmp_path / "one", tmp_path / "two"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(serving_store(database, tmp_path / "served", port, tmp_path / "server.log"))
        commands = []
        for out in outs:
            words = ["--space", "smoke", "--trials", "2", "--seeds", "1", "--set", "epochs=2"]
            words = [sys.executable, "-m", "harness.tune", *words, "--out", out, "--tracking-uri", server]
            log = stack.enter_context(open(tmp_path / f"{out.name}.log", "w"))
            commands.append(subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log))
            stack.callback(commands[-1].wait)
            stack.callback(commands[-1].kill)
        for out, command in zip(outs, commands, strict=True):
            assert command.wait(LIMIT) == 0, (tmp_path / f"{out.name}.log").read_text()

        client = MlflowClient(tracking_uri=server)
        (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "smoke-digits"]
        runs = client.search_runs([experiment], max_results=1000)
        assert {run.info.status for run in runs} == {"FINISHED"}
        for out in outs:
            (log,) = out.glob("track/*.jsonl")
            name = event_log.read_header(log)["log"]
            of = [run for run in runs if run.data.tags["harness.log"] == name]
            roles = [run.data.tags["harness.role"] for run in of]
            assert roles.count("sweep") == 1 and roles.count("study") == 2 and roles.count("seed") == 2
            proposed = sum(len(study.trials) for study in studies(out).values())
            assert roles.count("search") == proposed == len(list(out.glob("trials/*/result.json"))) - 2 == 4
            assert report(out, "html").is_file()
            for run in of:
                if run.data.tags["harness.role"] == "seed":
                    assert "result.json" in {file.path for file in client.list_artifacts(run.info.run_id)}


def test_a_database_itself_is_delivered_to_and_artifacts_stay_in_the_output_folder(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MLflow would keep them
    workspace = Workspace(tmp_path / "out", tmp_path / "data").writable()
    log = tell(workspace, jobs=1)
    done = delivery.deliver_all(database, log, workspace)
    assert done.failure() == ""
    client = MlflowClient(tracking_uri=database)
    (run,) = client.search_runs([done.writer.experiment], "tags.`harness.role` = 'search'")
    assert run.info.status == "FINISHED" and (run.info.artifact_uri or "").startswith(str(workspace.out / "artifacts"))
    assert "result.json" in {file.path for file in client.list_artifacts(run.info.run_id)}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
