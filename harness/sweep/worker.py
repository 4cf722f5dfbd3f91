"""Ray trainable that runs one job: reports epochs and the outcome, with a time limit."""

import contextlib
import ctypes
import dataclasses
import faulthandler
import gc
import importlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import ray
from ray import tune

from harness.errors import UserError, one_line
from harness.storage import plugin_copies, provenance
from harness.storage.workspace import Workspace
from harness.sweep import device_loss
from harness.sweep.job_types import Outcome
from harness.sweep.ray_folder import RUN

PROGRESS_SECONDS = 2.0  # between two reports of progress


def run_job(config: dict) -> None:
    """Run one job. Exceptions are reported as its outcome, so that Ray retries only after a dead worker.

    The process ends if its GPU is lost; unless the trial is to blame, Ray then starts the trial again in another one.
    """
    import torch

    if differing := other_code(config["code"]):
        tune.report({"user_error": differing})
        return
    gpus = ray.get_gpu_ids()
    workspace = dataclasses.replace(Workspace(*config["workspace"]).writable(), device="cuda" if gpus else "cpu")
    release_memory()
    if gpus:
        torch.cuda.empty_cache()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    reports = _Reports()
    try:
        overdue = workspace.out / RUN / f"{tune.get_context().get_trial_id()}.overdue"
        left = config["limit"] - config["used"] if config["limit"] else None
        hung = overdue_location(overdue)
        if hung or (left is not None and left <= 0):  # with no location, it hung on another node
            outcome = Outcome("failed", 0, reason=f"not done after {config['limit']:g} s{hung and f', {hung}'}")
        else:
            with time_limited(left, overdue):
                outcome = _outcome(config, workspace, reports)
        tune.report({"outcome": outcome})
    except Exception as error:
        if reports.stopped:
            return
        blamed = device_loss.blame(error, on_gpu=bool(gpus))  # first: weights, too, do not load without the device
        try:
            tune.report(_told(error, blamed, reports.epoch))  # returns when the driver has it
        finally:
            if blamed:
                os._exit(1)  # no later trial could use this process; Ray starts another


class _Reports:
    """What a job reports to the driver while it runs. epoch: the last one. stopped: whether the driver ended it."""

    def __init__(self) -> None:
        self.epoch, self.stopped, self._last = 0, False, 0.0

    def on_progress(self, done: int, total: int, _: str = "") -> None:
        if time.monotonic() - self._last > PROGRESS_SECONDS:
            self._last = time.monotonic()
            tune.report({"progress": (done, total)})

    def on_epoch(self, row: dict) -> None:
        self.epoch, self._last = row["epoch"], time.monotonic()
        try:
            tune.report({"row": tuple(row.items())})  # not a dict, which Ray would flatten
        except SystemExit:  # the driver stopped the trial, and listens to it no more
            self.stopped = True
            raise


def _outcome(config: dict, workspace: Workspace, reports: _Reports) -> Outcome:
    """Do the work of a job."""
    from harness.config.trial import build
    from harness.training.settings import Maps
    from harness.trials.prerequisites import Prerequisite

    plugin_copies.use(workspace)
    settings, role = build(config["settings"]), config["role"]
    if role in ("teacher", "maps"):
        shared = Prerequisite(settings, Maps(**config["maps"]) if config["maps"] else None)
        seconds = shared.make(workspace, report=reports.on_epoch, progress=reports.on_progress)
        return Outcome("complete", 0, seconds=seconds)
    module, _, function = config["work"].partition(":")
    run = getattr(importlib.import_module(module), function)
    result = run(settings, workspace, report=reports.on_epoch, progress=reports.on_progress, test=role == "seed")
    return Outcome("complete", reports.epoch, result.without_images())


def _told(error: Exception, blamed: device_loss.Blame, epoch: int) -> dict[str, str | Outcome]:
    """What the driver is told of an exception."""
    if blamed == "machine":
        return {"device_lost": one_line(error)}
    if blamed is None and isinstance(error, (UserError, OSError)):
        return {"user_error": str(error)}  # a full disk, a damaged file: all trials would fail, so the sweep stops
    return {"outcome": Outcome("failed", epoch, reason=one_line(error))}  # a result of the study


def release_memory() -> None:
    """Give back to the system what the earlier trials of a reused worker had in memory.

    Ray runs each trial in a thread of its own, and glibc gives threads arenas of their own, which keep what is freed.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()  # before the first trial: excludes modules from later collections
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def other_code(command: Mapping[str, str]) -> str:
    """One line if this node runs other code than the command, by its digest; else "", and its commit is recorded here.

    command: `digest` and `commit` of the command's code.
    """
    if (here := provenance.digest()) != command["digest"]:
        return (
            f"node {ray.util.get_node_ip_address()} runs other code (digest {here}) than this command (digest"
            f" {command['digest']}); install the same on all nodes, or run the command again if it was edited meanwhile"
        )
    os.environ[provenance.COMMIT] = command["commit"]
    return ""


@contextlib.contextmanager
def time_limited(seconds: float | None, file: Path) -> Iterator[None]:
    """Kill this process after so many seconds, even if it hangs; its traceback is written to the file."""
    if not seconds:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8") as opened:
        faulthandler.dump_traceback_later(seconds, exit=True, file=opened)  # works while the GIL is held
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    file.unlink()


def overdue_location(file: Path) -> str:
    """Innermost call in the file of `time_limited`, as `at file.py, line 3, in f`; "" if there is no file."""
    if not file.exists() or not (text := file.read_text(encoding="utf-8")):
        return ""
    thread = next((t for t in text.split("\n\n") if "in run_job" in t), text)
    call = re.search(r'File "(?:.*/)?(.+)", line (\d+) in (\S+)', thread)
    return f"at {call[1]}, line {call[2]}, in {call[3]}" if call else "at an unknown location"
