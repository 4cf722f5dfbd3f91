"""Overhead of Ray, Optuna and tracking: a sweep compared with the same trials in plain processes."""

import dataclasses
import json
import multiprocessing
import multiprocessing.queues
import multiprocessing.synchronize
import tempfile
import time
from pathlib import Path

import torch

from harness.config.trial import build
from harness.storage.workspace import Workspace
from harness.sweep.job_types import Job, Outcome
from harness.training.epoch_metrics import EpochMetrics
from harness.trials import run as trial_run


def sweep(space_name: str, trials: int, seeds: int) -> dict[str, float]:
    """Wall seconds of a sweep, from the first trial's start to the last one's end, and of the same trials run bare.

    Bare: as many processes as the sweep has workers, with a shared queue of trials, without search, Ray and tracking.
    Successive halving is off, so that both run the same epochs.
    """
    from harness import sweep_driver
    from harness.sweep import trial_slots
    from harness.sweep.plan import plan
    from harness.sweep.request import Request
    from harness.sweep_report import print_report

    with tempfile.TemporaryDirectory() as folder:
        planned = plan(Request(space_name, trials=trials, seeds=seeds, out=f"{folder}/sweep", quiet=True))
        named = dataclasses.replace(planned.named, space=dataclasses.replace(planned.space, halving=0))
        planned = dataclasses.replace(planned, named=named)
        workspace = dataclasses.replace(sweep_driver.open_workspace(planned.request), device="cpu")
        clock = _Clock()
        sweep_driver.run(planned, workspace, callbacks=[clock], on_report=print_report)
        ran = [json.loads(p.read_text(encoding="utf-8"))["trial"] for p in workspace.out.glob("trials/*/result.json")]
        bare = Workspace(Path(folder, "bare"), workspace.data, "cpu").writable()
        seconds = _bare(
            [t for t in ran if build(t).key in clock.keys], clock.repeated, bare, trial_slots.local_slots(1)
        )
    return {"sweep": clock.seconds, "bare": seconds, "ratio": clock.seconds / seconds, "trials": len(clock.keys)}


class _Clock:
    """Callback that measures wall seconds from the first start to the last end, and records the trials' keys."""

    def __init__(self) -> None:
        self.began = self.done = 0.0
        self.keys: set[str] = set()
        self.repeated: set[str] = set()

    def on_start(self, job: Job) -> None:
        self.began = self.began or time.perf_counter()
        if not job.is_shared:
            self.keys.add(job.trial.key)
        if job.role == "seed":
            self.repeated.add(job.trial.key)

    def on_epoch(self, job: Job, row: EpochMetrics) -> None:
        pass

    def on_progress(self, job: Job, done: int, total: int) -> None:
        pass

    def on_worker_lost(self, job: Job, why: str) -> None:
        pass

    def on_end(self, job: Job, outcome: Outcome) -> None:
        self.done = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.done - self.began


def _bare(settings: list[dict], tested: set[str], workspace: Workspace, workers: int) -> float:
    """Wall seconds of the trials in plain worker processes, after all of them have started. tested: keys to test."""
    context = multiprocessing.get_context("spawn")
    queue, ready = context.SimpleQueue(), context.Barrier(workers + 1)
    for each in settings:
        queue.put(each)
    for _ in range(workers):
        queue.put(None)
    processes = [context.Process(target=_run_queue, args=(queue, ready, workspace, tested)) for _ in range(workers)]
    for process in processes:
        process.start()
    ready.wait()
    began = time.perf_counter()
    for process in processes:
        process.join()
    return time.perf_counter() - began


def _run_queue(
    queue: "multiprocessing.queues.SimpleQueue[dict | None]",
    ready: multiprocessing.synchronize.Barrier,
    workspace: Workspace,
    tested: set[str],
) -> None:
    torch.set_num_threads(1)
    ready.wait()
    while (settings := queue.get()) is not None:
        run = build(settings)
        trial_run.run(run, workspace, test=run.key in tested)
