"""What a worker does before a job, to its code and its memory, and how an exception ends the job."""

import contextlib
import ctypes
import dataclasses
import os
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from sweeps import finished

from harness.errors import UserError
from harness.storage import provenance
from harness.storage.workspace import Workspace
from harness.sweep import remote_command, worker
from harness.sweep.job_types import Outcome

OTHER = "0123456789ab"


@pytest.fixture
def told(monkeypatch):
    """What was reported, with a made-up node."""
    reports = []
    monkeypatch.setattr(worker.tune, "report", reports.append)
    monkeypatch.setattr(worker.ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    monkeypatch.setenv(provenance.COMMIT, "")
    return reports


@pytest.fixture
def run_made_up(tmp_path, monkeypatch):
    """A function that runs a job in this process: the work, and the GPUs that Ray gave it."""

    def ran(work, gpus=()):
        monkeypatch.setitem(sys.modules, "made_up", SimpleNamespace(run=work))
        monkeypatch.setattr(worker.ray, "get_gpu_ids", lambda: list(gpus))
        monkeypatch.setattr(worker.tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "t"))
        monkeypatch.setattr(worker, "release_memory", lambda: None)
        monkeypatch.setenv(provenance.COMMIT, "")
        code = {"digest": provenance.digest(), "commit": ""}
        workspace = dataclasses.astuple(Workspace(tmp_path / "out", tmp_path / "data"))
        kept = {"settings": {}, "role": "search", "maps": None, "limit": None, "used": 0.0, "code": code}
        worker.run_job({**kept, "work": "made_up:run", "workspace": workspace})

    return ran


def test_a_node_with_other_code_runs_nothing(told):
    worker.run_job({"code": {"digest": OTHER, "commit": "c0ffee"}, "work": "no.such:module"})
    (report,) = told
    line = report["user_error"]
    assert OTHER in line and provenance.digest() in line and "10.0.0.7" in line and "\n" not in line
    assert os.environ[provenance.COMMIT] == ""


def test_the_same_code_is_recorded_with_the_commit_of_the_command(told):
    assert worker.other_code({"digest": provenance.digest(), "commit": "c0ffee with uncommitted changes"}) == ""
    assert provenance.code()["git"] == "c0ffee with uncommitted changes" and not told


def test_the_command_on_the_cluster_is_told_the_commit(monkeypatch):
    import ray

    started = {}

    class Process:
        stdout = stderr = None

    class Context:
        runtime_env, gcs_address = {"working_dir": "gcs://package.zip"}, "10.0.0.1:6379"

    def popen(words, env, **how):
        started.update(env)
        return Process

    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setattr(remote_command.subprocess, "Popen", popen)
    monkeypatch.setattr(remote_command.Command, "_read", lambda *given: None)
    monkeypatch.delenv(provenance.COMMIT, raising=False)
    remote_command.Command([], "", {})
    assert provenance.COMMIT not in started
    remote_command.Command([], "c0ffee", {})
    assert started[provenance.COMMIT] == "c0ffee"


BROKEN = torch.AcceleratorError("CUDA error: unspecified launch failure")
ASSERTED = torch.AcceleratorError("CUDA error: device-side assert triggered")


@pytest.mark.parametrize(
    "error, device, told, ends",
    [
        (ZeroDivisionError("by zero"), None, "failed: ZeroDivisionError: by zero", False),
        (UserError("a damaged file"), None, "user_error: a damaged file", False),
        (OSError("the disk is full"), None, "user_error: the disk is full", False),
        (torch.OutOfMemoryError("CUDA out of memory."), BROKEN, "failed: OutOfMemoryError: CUDA out of memory.", False),
        (BROKEN, BROKEN, "device_lost: AcceleratorError: CUDA error: unspecified launch failure", True),
        (UserError("'weights.pt' holds no weights"), BROKEN, "device_lost: UserError: 'weights.pt' holds no", True),
        (ASSERTED, ASSERTED, "failed: AcceleratorError: CUDA error: device-side assert triggered", True),
    ],
)
def test_how_an_exception_ends_a_job_on_a_gpu(error, device, told, ends, run_made_up, monkeypatch):
    def fails(*given, **settings):
        raise error

    def synchronize():
        if device:
            raise device

    happened = []
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(worker.tune, "report", happened.append)
    monkeypatch.setattr(worker.os, "_exit", happened.append)
    run_made_up(fails, gpus=["0"])
    ((kind, value),) = happened[0].items()
    said = f"{value.state}: {value.reason}" if kind == "outcome" else f"{kind}: {value}"
    assert said.startswith(told)
    assert happened[1:] == ([1] if ends else [])


@pytest.mark.parametrize("used, left", [(0.0, 30.0), (12.5, 17.5), (30.0, None), (31.0, None)])
def test_the_time_that_earlier_workers_used_is_not_given_again(used, left, tmp_path, told, monkeypatch):
    """Also on another node, where nothing is left of the worker that hung."""
    limits = []

    def limited(seconds, file):
        limits.append(seconds)
        return contextlib.nullcontext()

    monkeypatch.setattr(worker, "time_limited", limited)
    monkeypatch.setattr(worker, "_outcome", lambda *given: Outcome("complete", 3))
    monkeypatch.setattr(worker, "release_memory", lambda: None)
    monkeypatch.setattr(worker.ray, "get_gpu_ids", list)
    monkeypatch.setattr(worker.tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "t"))
    code = {"digest": provenance.digest(), "commit": ""}
    workspace = dataclasses.astuple(Workspace(tmp_path / "out", tmp_path / "data"))
    worker.run_job({"workspace": workspace, "limit": 30.0, "used": used, "code": code})
    ended = Outcome("complete", 3) if left else Outcome("failed", 0, reason="not done after 30 s")
    assert told == [{"outcome": ended}] and limits == ([left] if left else [])


def test_measurements_are_reported_at_most_once_in_two_seconds_after_an_epoch(told, run_made_up, monkeypatch):
    now = [100.0]

    def measures(trial, workspace, *, report, progress, test):
        report({"epoch": 1})
        for done in range(5):
            progress(done, 5, "a measurement")
            now[0] += 1.5
        raise ZeroDivisionError

    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    run_made_up(measures)
    assert [report.get("progress") for report in told] == [None, (2, 5), (4, 5), None]


FREED = """
import os, threading
from pathlib import Path
import numpy as np
from harness.sweep import worker

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

stays = []

def trial():
    freed = []
    for _ in range(3200):
        freed.append(np.ones(8192))
        stays.append(np.ones(64))

thread = threading.Thread(target=trial)
thread.start()
thread.join()
before = resident()
worker.release_memory()
print(before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_what_a_trial_freed_goes_back_to_the_system():
    """200 MB in blocks of 64 kB, with something that stays between any two, in a thread that ends.

    In a process of its own: what other tests left in the memory of this one could be reused.
    """
    done = finished([sys.executable, "-c", FREED])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 100


OTHER_CODE = f"""
import sys
from harness import tune
from harness.errors import exit_status
from harness.storage import provenance
provenance.digest = lambda: "{OTHER}"  # in the command, not in its workers
sys.exit(exit_status(tune.main))
"""


@pytest.mark.slow
def test_a_sweep_of_other_code_ends_with_one_line(tmp_path, fresh):
    words = ["--space", "smoke", "--trials", "1", "--seeds", "0", "--set", "epochs=1", "--out", str(tmp_path)]
    done = finished([sys.executable, "-c", OTHER_CODE, *words])
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        rf"error: node \S+ runs other code \(digest {provenance.digest()}\) than this command \(digest {OTHER}\); .*\n",
        done.stderr,
    ), done.stderr
    assert not list(tmp_path.glob("trials/*/result.json"))
