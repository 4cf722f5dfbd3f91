"""A sweep against the same trials run bare: what Ray, search and tracking cost."""

import dataclasses
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import torch

from harness import cli, trial
from harness.config import build
from harness.place import Place


def sweep(space_name: str, trials: int, seeds: int) -> dict[str, float]:
    """Wall seconds of a sweep from its first trial's start to its last trial's end, and of the same trials run bare.

    Bare: as many processes as the sweep has workers, each looping over what is left, with no search, no Ray, no
    tracking. Successive halving is off, so that both run the same epochs.
    """
    from harness import schedule, tune

    with tempfile.TemporaryDirectory() as folder:
        words = [
            "--space",
            space_name,
            "--trials",
            str(trials),
            "--seeds",
            str(seeds),
            "--out",
            f"{folder}/sweep",
            "--quiet",
        ]
        args = tune.arguments(words)
        planned = tune.plan(args)
        planned = dataclasses.replace(planned, space=dataclasses.replace(planned.space, halving=0))
        place = dataclasses.replace(cli.place(args), device="cpu")
        clock = _Clock()
        tune.sweep(planned, place, args, listeners=[clock])
        ran = [json.loads(p.read_text())["trial"] for p in place.out.glob("trials/*/result.json")]
        bare = Place(Path(folder, "bare"), place.data, "cpu").writable()
        # Teachers are trials too, but part of the maps; nobody tunes them.
        seconds = _bare([t for t in ran if build(t).key in clock.keys], clock.repeated, bare, schedule.local_slots(1))
    return {"sweep": clock.seconds, "bare": seconds, "ratio": clock.seconds / seconds, "trials": len(clock.keys)}


class _Clock:
    """Wall seconds from the first start to the last end of a sweep's jobs; which trials ran, which were repetitions."""

    def __init__(self):
        self.began = self.done = 0.0
        self.keys: set[str] = set()
        self.repeated: set[str] = set()

    def started(self, job) -> None:
        self.began = self.began or time.perf_counter()
        self.keys.add(job.trial.key)
        if job.role == "seed":
            self.repeated.add(job.trial.key)

    def heard(self, job, row) -> None:
        pass

    def lost(self, job, why) -> None:
        pass

    def ended(self, job, outcome) -> None:
        self.done = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.done - self.began


def _bare(settings: list[dict], tested: set[str], place: Place, workers: int) -> float:
    """Wall seconds of the trials in a shared queue, after every worker has loaded torch and the data."""
    context = multiprocessing.get_context("spawn")
    queue, ready = context.SimpleQueue(), context.Barrier(workers + 1)
    for each in settings:
        queue.put(each)
    for _ in range(workers):
        queue.put(None)
    crew = [context.Process(target=_work, args=(queue, ready, place, tested)) for _ in range(workers)]
    for process in crew:
        process.start()
    ready.wait()
    began = time.perf_counter()
    for process in crew:
        process.join()
    return time.perf_counter() - began


def _work(queue, ready, place: Place, tested: set[str]) -> None:
    torch.set_num_threads(1)
    ready.wait()
    while (settings := queue.get()) is not None:
        run = build(settings)
        trial.run(run, place, test=run.key in tested)
