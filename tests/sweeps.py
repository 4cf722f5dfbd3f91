"""A small sweep as a user starts it, and everything that it left, in a form that two sweeps can be compared by."""

import contextlib
import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import optuna
from mlflow import MlflowClient

from harness.sweep import optuna_journal

ROOT = Path(__file__).parent.parent
LIMIT = 900.0  # seconds, of each wait: no machine is so busy that what will come takes as long
ONE_AT_A_TIME = ["--cpus", str(os.cpu_count())]  # then the order of trials is the same in every run
# Of a clock, or of how often a trial was taken up again: a test measurement that was cut off is a touch all the same.
CLOCKED = re.compile(r"seconds|touches|harness\.(log|event|lost)|mlflow\.|git")

CACHES = re.compile(r"(__pycache__|_cache|\.egg-info|\.venv)(/|$)")


@dataclass(frozen=True)
class Undisturbed:
    """What a sweep that nothing disturbed left and printed, and its seconds."""

    folder: str
    printed: str
    complained: str
    seconds: float

    @property
    def out(self):
        return Path(self.folder)


# The command, with trials that suffer what FAULTS says.
SUFFERING = """
import functools, os, sys
from harness import tune
from harness.errors import exit_status
from harness.sweep import ray_runner
from harness.tracking import delivery
ray_runner.run_jobs = functools.partial(ray_runner.run_jobs, work="fault_injection:run")
delivery.PATIENCE_SECONDS = float(os.environ.get("PATIENCE", 900))
sys.exit(exit_status(tune.main))
"""


def sweep(out, *words):
    """The words after the command's name."""
    return ["--space", "smoke", "--out", str(out), *words]


def command(out, *words):
    return [sys.executable, "-m", "harness.tune", *sweep(out, *words)]


def suffering(*words):
    """How to start the command so that what the environment says, made by `suffered`, happens to its trials."""
    return [sys.executable, "-c", SUFFERING, *words]


def suffered(faults):
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return {"FAULTS": json.dumps(faults), "PYTHONPATH": path}


def run(out, *words, **how):
    return finished(command(out, *words), **how)


def finished(words, **how):
    """A command that has come to its end, started in the repository, with all that it said."""
    return subprocess.run(words, **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": LIMIT, **how})


def store(out):
    return f"sqlite:///{out}/mlflow.db"


def stored_runs(out, uri=None):
    uri = uri or store(out)
    assert Path(uri.removeprefix("sqlite:///")).is_file(), f"MLflow would make an empty database where {uri} names none"
    client = MlflowClient(tracking_uri=uri)
    ids = [e.experiment_id for e in client.search_experiments()]
    return client, client.search_runs(ids, max_results=1000)


def studies(out):
    storage = optuna_journal.open_journal(out / "optuna.journal")
    return {name: optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)}


def report(out, kind, experiment="smoke-digits"):
    """The file of a sweep's report; its name has the sweep's id unless it is that of the plain command."""
    (file,) = out.glob(f"reports/{experiment}*.{kind}")
    return file


def leaderboard(out):
    """The leaderboard without what a clock wrote."""
    with open(report(out, "csv"), newline="") as file:
        return [{k: v for k, v in row.items() if not CLOCKED.search(k)} for row in csv.DictReader(file)]


def proposed(out):
    """What Optuna holds: of every study its trials, how each ended, and where it stood at each rung."""
    return {
        name: [(t.number, t.state.name, t.params, t.values, t.intermediate_values) for t in study.trials]
        for name, study in studies(out).items()
    }


def mlflow_state(out, uri=None):
    """What MLflow holds: of every run its parent, settings, tags, files, and the whole history of every metric.

    Fails where a job has two runs, or an epoch of a run two values.
    """
    client, runs = stored_runs(out, uri)
    names = {r.info.run_id: r.data.tags["harness.event"] for r in runs}
    assert len(names) == len(set(names.values())), f"runs told twice: {sorted(names.values())}"
    found = {}
    for r in runs:
        histories = {}
        for name in r.data.metrics:
            if CLOCKED.search(name) or name == "seeds":
                continue
            points = client.get_metric_history(r.info.run_id, name)
            assert [m.step for m in points] == sorted({m.step for m in points}), (names[r.info.run_id], name, points)
            histories[name] = [(m.step, m.value) for m in points]
        found[names[r.info.run_id]] = {
            "status": r.info.status,
            "parent": names.get(r.data.tags.get("mlflow.parentRunId")),
            "params": r.data.params,
            "tags": {k: v for k, v in r.data.tags.items() if not CLOCKED.search(k)},
            "metrics": histories if r.data.tags["harness.role"] in ("search", "seed") else sorted(histories),
            "files": sorted(a.path for a in client.list_artifacts(r.info.run_id)),
        }
    return found


def differences(mine, theirs, at=""):
    """Where two nests of dicts differ, a line each."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        names = sorted(mine.keys() | theirs.keys(), key=str)
        return [d for n in names for d in differences(mine.get(n), theirs.get(n), f"{at} / {n}")]
    return [] if mine == theirs else [f"{at}: {mine!r} here, {theirs!r} undisturbed"]


def until(there, process=None, said=lambda: "", seconds=LIMIT):
    """Wait until there() holds, and return what it gives; fails where the process ends that is to bring it about.

    said() is what a failure shows. Every wait has the whole of `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (found := there()):
        ended = process is not None and process.poll() is not None
        assert not ended, f"the command ended before what was waited for\n{said()}"
        assert time.monotonic() < deadline, f"what was waited for did not happen\n{said()}"
        time.sleep(0.02)
    return found


def checkout(folder):
    """The lines of `git status` there, with what is ignored and no tool's cache; none where there is no repository.

    What tests write to `runs`, by its default, is ignored and out of place all the same.
    """
    words = ["git", "status", "--porcelain", "--ignored=matching", "--untracked-files=all"]
    said = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    return {line for line in said.stdout.splitlines() if not CACHES.search(line)}


@contextlib.contextmanager
def suspended(process):
    """Within, the process does nothing, however long that takes; a signal that it is sent waits for it."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def started(out, *words, **how):
    how = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
    process = subprocess.Popen(command(out, *words), **how)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(address):
    """Whether a server does, at this address."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(address, timeout=LIMIT).close()
        return True
    return False


@contextlib.contextmanager
def serving(database, port, log):
    """MLflow's server on that SQLite file, until the block ends: then it is killed."""
    with serving_store(f"sqlite:///{database}", database.parent / "served", port, log):
        yield


@contextlib.contextmanager
def serving_store(uri, artifacts, port, log):
    """MLflow's server on the store at a URI, until the block ends: then it is killed."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--artifacts-destination", str(artifacts), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(log, "a") as said:  # what it makes beside its database, it makes where it stands
        server = subprocess.Popen(command, cwd=log.parent, stdout=said, stderr=said, env=env, start_new_session=True)
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/health"), server, log.read_text)
        yield
    finally:
        os.killpg(server.pid, 9)
        server.wait()
