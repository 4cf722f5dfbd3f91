"""Every command that is printed works, in a folder with a blank in its name; and stores that refuse cost no result."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from logged_sweep import tell
from mlflow import MlflowClient
from small_mlflow import small_mlflow
from sweeps import (
    LIMIT,
    ONE_AT_A_TIME,
    ROOT,
    answers,
    command,
    finished,
    free_port,
    leaderboard,
    proposed,
    suffered,
    suffering,
    sweep,
    until,
)

from harness import tune
from harness.data.readers import torchvision_archives
from harness.errors import UserError, shell_command
from harness.storage.workspace import Workspace
from harness.tracking import delivery

PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
ENV = {**os.environ, "PATH": PATH, "PYTHONPATH": str(ROOT)}


def shell(text, folder, **how):
    """Run a printed command as a user does who copies it."""
    return subprocess.run(text, shell=True, cwd=folder, env=ENV, capture_output=True, text=True, timeout=LIMIT, **how)


@pytest.fixture
def spacious(tmp_path, empty_store):
    """A workspace in a folder with a blank, a quote and more in its name, with a log that was not delivered."""
    workspace = Workspace(tmp_path / "it's my $HOME; runs").writable()
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    return workspace


def printed(text, before):
    """The command that stands after these words."""
    (found,) = re.findall(rf"{before}(.*)$", text, re.M)
    return found


def test_a_printed_command_has_quotes_and_no_password():
    words = ["python", "-m", "x", "--out", "a b", "--tracking-uri", "postgresql://me:secret@h/db", "c'd", "$HOME"]
    text = shell_command(*words)
    words[6] = "postgresql://me:***@h/db"
    assert shlex.split(text) == words
    for name in ("a b", "it's", 'say "x"', "$HOME", "`x`", "%20", "a;b", "*"):
        done = subprocess.run(shell_command("printf", "%s", name), shell=True, capture_output=True, text=True)
        assert done.stdout == name


def test_the_command_that_delivers_what_waits(spacious, monkeypatch, brisk):
    log = tell(spacious, 1)
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 0.1)
    with small_mlflow() as server:
        opened = delivery.Delivery(server.uri, log, spacious)
        text = opened.failure()
        command = printed(text, "send them by: ")
        assert shlex.split(command)[:5] == ["python", "-m", "harness.deliver", "--out", str(spacious.out)]
        assert shlex.split(command)[5:] == ["--tracking-uri", server.uri]
        done = shell(command, spacious.out.parent)
        assert done.returncode == 0, done.stderr
        assert len(server.runs) == 3 and server.files("study search #0") == ["result.json"]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)  # then the command finds it there
        assert shlex.split(opened._command())[5:] == []


@pytest.mark.slow
def test_the_commands_that_restore_what_was_deleted(spacious, brisk):
    uri = f"sqlite:///{spacious.out / 'mlflow.db'}"
    log = tell(spacious, 1)
    writer = delivery.deliver_all(uri, log, spacious).writer
    client = MlflowClient(tracking_uri=uri)
    client.delete_run(writer.runs["study"])
    with pytest.raises(UserError) as error:
        writer.check_not_deleted(["study"])
    done = shell(printed(str(error.value), "restore it by: "), spacious.out.parent)
    assert done.returncode == 0, done.stderr
    writer.check_not_deleted(["study"])
    client.delete_experiment(writer.experiment)
    with pytest.raises(UserError) as error:
        delivery.deliver_all(uri, log, spacious)
    done = shell(printed(str(error.value), "restore it by: "), spacious.out.parent)
    assert done.returncode == 0, done.stderr
    assert delivery.deliver_all(uri, log, spacious).failure() == ""


def test_the_command_that_continues(tmp_path, monkeypatch):
    (tmp_path / "a b").mkdir()
    words = ["--space", "smoke", "--out", "my runs", "--set", "optim.lr = 0.05", "--cell", "sat"]
    monkeypatch.setattr(sys, "argv", ["harness.tune", *words])
    done = shell(f"{tune._resume_command()} --dry-run", tmp_path / "a b")
    assert done.returncode == 0, done.stderr
    assert "sat" in done.stdout and (tmp_path / "a b" / "my runs").is_dir()


@pytest.mark.parametrize("folder", ["a b", "it's", 'say "x"', "$HOME `x`", "back\\slash", "é"])
def test_the_command_that_downloads_names_the_folder(tmp_path, folder):
    """What it would call is a stand-in."""
    package = tmp_path / "harness" / "models"
    package.mkdir(parents=True)
    recorder = "class torchvision:\n    class datasets:\n"
    recorder += "        CIFAR10 = SVHN = staticmethod(lambda *of, **named: print([of, named]))\n"
    (package / "torchvision_import.py").write_text(recorder)
    for name, first in (("cifar10", {"train": True}), ("svhn", {"split": "train"})):
        text = torchvision_archives.download_command(name, Path("/data") / folder)
        done = subprocess.run(
            text, shell=True, cwd=tmp_path, env={**ENV, "PYTHONPATH": ""}, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[0] == str([(f"/data/{folder}",), {**first, "download": True}]), done.stderr


@pytest.mark.slow
def test_a_store_that_refuses_and_stops_costs_no_result(tmp_path, undisturbed):
    """A gateway takes no weights, and at the end nothing; the report is written, and a command delivers the rest."""
    out = tmp_path / "my runs"
    with small_mlflow() as server:
        stopped = []

        def refuses(method, path):
            if method == "PUT" and path.endswith("/weights.pt"):
                stopped.append(path)
                return 413
            return 503 if len(stopped) > 1 and path != "/health" else 0

        server.refuses = refuses
        words = [*ONE_AT_A_TIME, "--tracking-uri", server.uri]
        done = finished(suffering(*sweep(out, *words)), env=os.environ | suffered([]) | {"PATIENCE": "3"})
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert re.search(
            r"events wait in .* refused [12] writes, which are kept: trials/\w+/weights\.pt of 'seed", done.stderr
        )
        assert leaderboard(out) == leaderboard(undisturbed.out)
        assert f"runs: {server.uri}\n" in done.stdout
        studies = shlex.split(printed(done.stdout, "studies: "))
        assert studies == ["optuna-dashboard", str(out / "optuna.journal")] and Path(studies[1]).is_file()
        server.refuses = lambda method, path: 0
        done = shell(printed(done.stderr, "send them by: "), tmp_path)
        assert done.returncode == 0, done.stderr
        roles = [server.tags(run)["harness.role"] for run in server.runs.values()]
        assert roles.count("search") == sum(len(trials) for trials in proposed(out).values())
        assert proposed(out) == proposed(undisturbed.out) and roles.count("seed") == 2
        assert {run["info"]["status"] for run in server.runs.values()} == {"FINISHED"}
        seeds = [
            name
            for name, run in ((server.tags(r)["harness.event"], r) for r in server.runs.values())
            if " seed " in name
        ]
        assert len(seeds) == 2 and all("weights.pt" in server.files(name) for name in seeds)
    # The same command without a server delivers to a SQLite file, and shows how to browse it.
    done = finished(command(out, *ONE_AT_A_TIME))
    assert done.returncode == 0, done.stderr
    port = free_port()
    text = f"exec {printed(done.stdout, 'runs: ')} --port {port}"
    env = {**ENV, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "log", "w") as log:
        browser = subprocess.Popen(
            text, shell=True, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/health"), browser, (tmp_path / "log").read_text)
        client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
        assert {e.name for e in client.search_experiments()} == {"Default", "smoke-digits"}
    finally:
        os.killpg(browser.pid, 9)
        browser.wait()
