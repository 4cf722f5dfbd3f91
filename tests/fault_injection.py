"""What runs a trial in the tests of faults: the real thing, to which something happens once.

The environment says what, as JSON in FAULTS: a list of [what, method, seed, learning rate or null, epoch].
"""

import gc
import json
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import torch
from ray import tune
from torch import nn

from harness.evaluation.evaluator import no_progress
from harness.storage.workspace import Workspace
from harness.trials import run as trial_run

LATER = 10_000  # seconds: for ever, as a test sees it


def run(trial, workspace: Workspace, *, report=trial_run.no_report, progress=no_progress, test=False):
    nets = sum(isinstance(thing, nn.Module) for thing in gc.get_objects())
    note(workspace, f"nets-{trial.key}", str(nets))  # that an earlier trial of this worker left in memory
    due = [m for m in json.loads(os.environ["FAULTS"]) if _is_its(m, trial)]

    def heard(row):
        report(row)
        for what, *_, epoch in due:
            if row["epoch"] == epoch:
                _happens(what, note(workspace, f"{what}-{trial.key}"), workspace)

    return trial_run.run(trial, workspace, report=heard, progress=progress, test=test)


def _is_its(fault, trial) -> bool:
    _, method, seed, lr, _ = fault
    named = trial.flat()["method"] == method and trial.seed == seed
    return named and (lr is None or abs(trial.optim.lr - lr) < 1e-12)


def note(workspace: Workspace, name: str, text: str = "") -> bool:
    """Leave a note of what happened. Whether there was such a one before."""
    file = workspace.out / "happened" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.exists()
    file.write_text(text)
    return before


def go_on(out: Path) -> None:
    """Let those go on that wait."""
    (out / "happened" / "go on").touch()


def _happens(what: str, again: bool, workspace: Workspace) -> None:
    if what == "raise":
        raise ZeroDivisionError("a deliberate one")
    if what == "memory":
        np.zeros(2**50, np.uint8)
    if what == "hang":
        time.sleep(LATER)
    if what == "assert":
        _lose_gpu("device-side assert triggered")
    if what == "broken":  # every GPU that it comes to
        _lose_gpu("uncorrectable ECC error encountered")
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    while what == "waits" and not (workspace.out / "happened" / "go on").exists():
        time.sleep(0.05)
    if again:  # the others happen once
        return
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "device":
        _lose_gpu("an illegal memory access was encountered")
    if what == "late":
        _die_after_the_outcome()
    if what == "full":  # no file may grow beyond a kilobyte, until the worker ends
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def _die_after_the_outcome() -> None:
    """Kill this worker between its last report and its return."""
    report = tune.report

    def last(told):
        report(told)
        if "outcome" in told:
            os.kill(os.getpid(), signal.SIGKILL)

    tune.report = last


def _lose_gpu(why: str) -> None:
    """As if the CUDA context of this process were dead: every later call fails too."""

    def fails():
        raise torch.AcceleratorError(f"CUDA error: {why}")

    torch.cuda.synchronize = fails
    fails()
