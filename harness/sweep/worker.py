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
from harness.storage import provenance
from harness.storage.workspace import Workspace
from harness.sweep import device_loss
from harness.sweep.job_types import Outcome

PROGRESS_SECONDS = 2.0  # between two reports of progress
RAY_FOLDER = "ray"  # temporary, under the output folder


def run_job(config: dict) -> None:
    """Run one job. Exceptions are reported as its outcome, so that Ray retries only after a dead worker.

    The process ends if its GPU is lost; unless the trial is to blame, Ray then starts the trial again in another one.
    """
    import torch

    from harness.config.trial import build
    from harness.training.settings import Maps
    from harness.trials.prerequisites import Prerequisite

    if differing := other_code(config["code"]):
        tune.report({"user_error": differing})
        return
    module, _, function = config["work"].partition(":")
    run = getattr(importlib.import_module(module), function)
    workspace = Workspace(*config["workspace"]).writable()
    gpus = ray.get_gpu_ids()
    workspace = dataclasses.replace(workspace, device="cuda" if gpus else "cpu")
    release_memory()
    if gpus:
        torch.cuda.empty_cache()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    epoch, reported, stopped = 0, 0.0, False

    def progress(done: int, total: int, _: str = "") -> None:
        nonlocal reported
        if time.monotonic() - reported > PROGRESS_SECONDS:
            reported = time.monotonic()
            tune.report({"progress": (done, total)})

    def report(row: dict) -> None:
        nonlocal epoch, reported, stopped
        epoch, reported = row["epoch"], time.monotonic()
        try:
            tune.report({"row": tuple(row.items())})  # not a dict, which Ray would flatten
        except SystemExit:  # the driver stopped the trial, and listens to it no more
            stopped = True
            raise

    try:
        overdue = workspace.out / RAY_FOLDER / f"{tune.get_context().get_trial_id()}.overdue"
        if hung := overdue_location(overdue):
            tune.report({"outcome": Outcome("failed", epoch, reason=f"not done after {config['limit']:g} s, {hung}")})
            return
        with time_limited(config["limit"], overdue):
            settings, role = build(config["settings"]), config["role"]
            if role in ("teacher", "maps"):
                shared = Prerequisite(settings, Maps(**config["maps"]) if config["maps"] else None)
                outcome = Outcome("complete", 0, seconds=shared.make(workspace, report=report, progress=progress))
            else:
                result = run(settings, workspace, report=report, progress=progress, test=role == "seed")
                outcome = Outcome("complete", epoch, result.without_images())
        tune.report({"outcome": outcome})
    except Exception as error:
        if stopped:
            return
        blamed = device_loss.blame(error, on_gpu=bool(gpus))  # first: weights, too, do not load without the device
        told: dict[str, str | Outcome]
        if blamed == "machine":
            told = {"device_lost": one_line(error)}
        elif blamed is None and isinstance(error, (UserError, OSError)):
            told = {"user_error": str(error)}  # a full disk, a damaged file: all trials would fail, so the sweep stops
        else:
            told = {"outcome": Outcome("failed", epoch, reason=one_line(error))}  # a result of the study
        try:
            tune.report(told)  # returns when the driver has it
        finally:
            if blamed:
                os._exit(1)  # no later trial could use this process; Ray starts another


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
    with open(file, "w") as opened:
        faulthandler.dump_traceback_later(seconds, exit=True, file=opened)  # works while the GIL is held
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    file.unlink()


def overdue_location(file: Path) -> str:
    """Innermost call in the file of `time_limited`, as `at file.py, line 3, in f`; "" if there is no file."""
    if not file.exists() or not (text := file.read_text()):
        return ""
    thread = next((t for t in text.split("\n\n") if "in run_job" in t), text)
    call = re.search(r'File "(?:.*/)?(.+)", line (\d+) in (\S+)', thread)
    return f"at {call[1]}, line {call[2]}, in {call[3]}" if call else "at an unknown location"
