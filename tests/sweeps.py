"""A small sweep as a user starts it, and everything that it left, in a form that two sweeps can be compared by."""

import contextlib
import csv
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import optuna
from mlflow import MlflowClient

from harness import search

ROOT = Path(__file__).parent.parent
ONE_AT_A_TIME = ["--cpus", str(os.cpu_count())]  # then the order of trials is the same in every run
# Of a clock, or of how often a trial was taken up again: a test measurement that was cut off is a touch all the same.
CLOCKED = re.compile(r"seconds|touches|harness\.(log|event|lost)|mlflow\.|git")


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


def command(out, *words):
    return [sys.executable, "-m", "harness.tune", "--space", "smoke", "--out", str(out), *words]


def run(out, *words, **how):
    return subprocess.run(command(out, *words), cwd=ROOT, capture_output=True, text=True, timeout=240, **how)


def store(out):
    return f"sqlite:///{out}/mlflow.db"


def stored_runs(out, uri=None):
    client = MlflowClient(tracking_uri=uri or store(out))
    ids = [e.experiment_id for e in client.search_experiments()]
    return client, client.search_runs(ids, max_results=1000)


def studies(out):
    storage = search.journal(out / "optuna.journal")
    return {name: optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)}


def leaderboard(out):
    """The leaderboard without what a clock wrote."""
    with open(out / "reports" / "smoke-digits.csv", newline="") as file:
        return [{k: v for k, v in row.items() if not CLOCKED.search(k)} for row in csv.DictReader(file)]


def proposed(out):
    """What Optuna holds: of every study its trials, how each ended, and where it stood at each rung."""
    return {
        name: [(t.number, t.state.name, t.params, t.values, t.intermediate_values) for t in study.trials]
        for name, study in studies(out).items()
    }


def told(out, uri=None):
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


def until(there, process, seconds=240):
    """Wait for something that the process does."""
    deadline = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, "the command ended before it was disturbed"
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)


@contextlib.contextmanager
def started(out, *words):
    process = subprocess.Popen(
        command(out, *words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
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


@contextlib.contextmanager
def serving(database, port, log):
    """MLflow's server on that database, until the block ends: then it is killed."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    command += ["--artifacts-destination", str(database.parent / "served"), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(log, "a") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said, env=env, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        os.killpg(server.pid, 9)
        server.wait()
