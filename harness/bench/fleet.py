"""Many trials that do nothing: what search, Ray, the log and its delivery cost each, from the first to the last.

All that a sweep goes through is real but the trial itself; cores may be declared that are not there, so that one
machine hands out as many trials at once as a fleet would.
"""

import contextlib
import dataclasses
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import deliver, events, search, track, tune
from harness.config import Trial
from harness.errors import Mistake
from harness.jobs import Job, Listener, Outcome, Source
from harness.place import Place, read_json, write_json
from harness.scores import Score
from harness.train import Row
from harness.trial import Result

SPACE, EPOCHS, SEEDS = "smoke", 2, 2  # the last trials repeat the winner: without them there is no report
ASLEEP = "asleep.json"  # under the output folder: how long each trial sleeps
LEAST = SEEDS + 1  # trials
WINDOWS = 10  # of as many trials each
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
DECLARED = "RAY_OVERRIDE_RESOURCES"  # read by Ray where it starts a node


def nothing(trial: Trial, place: Place, *, report: Callable[[Row], None], test: bool = False) -> Result:
    """In place of `harness.trial.run`: two rows, a sleep, and a made-up result, best near the published rate."""
    quality = 1 / (2 + math.log(trial.optim.lr / 0.1) ** 2)
    rows = [{"epoch": epoch, "seconds": 0.0, "curve/robust": epoch * quality} for epoch in range(1, EPOCHS + 1)]
    for row in rows:
        report(row)
    time.sleep((read_json(place.out / ASLEEP) or {"seconds": 0})["seconds"])
    parts = ("val", "test") if test else ("val",)
    scores = [Score(f"{part}/{name}", quality, 0.01, 100) for part in parts for name in ("clean", "robust")]
    write_json(place.trial(trial.key) / "result.json", {"scores": [score.record() for score in scores]})
    return Result(trial, scores, rows, {"train": 0.0, "val": 0.0}, {"train": "none", "val": "none"})


def fleet(
    trials: int,
    folder: Path,
    *,
    declared: int | None = None,
    cpus: float = 1,
    sleep: float = 0.0,
    tracked: bool = True,
) -> dict[str, object]:
    """Run so many trials, written to the folder. declared: cores that this machine is said to have; cpus: cores
    of a trial; sleep: its seconds; tracked: whether there is a log, delivered to a SQLite store meanwhile.

    slots: how many could run at once; at_once: did; full: seconds until then; first: until the first one ended;
    makespan: until the last one did; ideal: the same, were there nothing but sleep. windows: tenths of the trials, of
    each its seconds per trial, CPU seconds per trial of the driver's loop and of its whole process, and the process's
    largest memory so far (MiB). Of a tracked run also `uri` and `experiment`; events: lines of the log; behind: seconds
    that the store needed to hear the rest, once the last trial had ended. Raises `Mistake` where not all trials ended.

    Without sleep, halving stops trials as it does in a sweep; with it none is, so that the ideal is known.
    """
    settings = ["--set", f"epochs={EPOCHS}", "--set", "measure.watch=1"]
    words = ["--space", SPACE, *settings, "--seeds", str(SEEDS), "--trials", str(trials - SEEDS)]
    args = tune.arguments([*words, "--out", str(folder)])
    planned = tune.plan(args)
    space = dataclasses.replace(planned.space, halving=0 if sleep else planned.space.halving)
    planned = dataclasses.replace(planned, space=space, studies=dict([next(iter(planned.studies.items()))]))
    place = Place(folder.absolute(), folder.absolute()).writable()
    write_json(place.out / ASLEEP, {"seconds": sleep})
    how = {"declared": declared, "cpus": cpus, "sleep": sleep}
    if not tracked:
        (name, cell), *_ = planned.studies.items()
        study = search.Study(name, space, cell, planned.trials, search.journal(place.out / "optuna.journal"), 0)
        source = search.Sweep([study], SEEDS, lambda *_: None, lambda _: False)
        return _timed(source, place, trials, [], **how)
    uri = f"sqlite:///{place.out / 'mlflow.db'}"
    tracker = track.Tracker(place, planned.experiment, tune._tags(planned))
    with deliver.Delivery(uri, tracker.log, place) as delivery:
        source = search.Sweep(tune._studies(planned, place, args, tracker), SEEDS, tracker.crown, tracker.is_complete)
        took = _timed(source, place, trials, [tracker], **how)
        tracker.close()
        began = time.perf_counter()
        delivery.caught_up()
        took["behind"] = time.perf_counter() - began
    if complaint := delivery.complaint():
        raise Mistake(complaint)
    told = sum(1 for _ in events.read(tracker.log))
    return {**took, "events": told, "uri": uri, "experiment": planned.experiment}


def _timed(
    source: Source,
    place: Place,
    trials: int,
    listeners: list[Listener],
    *,
    declared: int | None,
    cpus: float,
    sleep: float,
) -> dict[str, object]:
    from harness import schedule

    with _declared(declared):
        schedule.connect(None)
    try:
        slots = schedule.slots(cpus, 0)
        clock = _Clock(max(1, trials // WINDOWS))
        work = f"{__name__}:{nothing.__name__}"
        schedule.run_all(source, place, cpus=cpus, gpus=0, listeners=[*listeners, clock], work=work)
    finally:
        schedule.disconnect()
    if clock.failed:
        raise Mistake(f"{len(clock.failed)} of {trials} trials failed, the first one: {clock.failed[0]}")
    if clock.ended_ones < trials:
        raise Mistake(f"interrupted after {clock.ended_ones} of {trials} trials")
    ideal = sum(math.ceil(count / slots) for count in (trials - SEEDS, SEEDS)) * sleep  # those wait for the search
    return {"trials": trials, "slots": slots, "sleep": sleep, "ideal": ideal, **clock.figures()}


def read_back(uri: str, experiment: str, folder: Path) -> dict[str, float]:
    """Seconds to read all runs of the experiment from its store, and what `bench.report` says of their report."""
    from harness.bench import report
    from reports import runs

    began = time.perf_counter()
    table = runs.read(uri, experiment)
    took = time.perf_counter() - began
    return {"runs": len(table), "read_seconds": took, **report.written(uri, folder)}


@contextlib.contextmanager
def _declared(cpus: int | None) -> Iterator[None]:
    """Within, a node that Ray starts here has so many cores, whatever the machine has."""
    before = os.environ.get(DECLARED)
    if cpus:
        os.environ[DECLARED] = json.dumps({"CPU": cpus})
    try:
        yield
    finally:
        if cpus:
            os.environ.pop(DECLARED)
        if before is not None:
            os.environ[DECLARED] = before


class _Clock:
    """A `Listener` that looks at the clocks at every so many ends of jobs."""

    def __init__(self, width: int):
        self.width, self.began = width, time.perf_counter()
        self.running: set[str] = set()
        self.ended_ones = self.at_once = 0
        self.failed: list[str] = []
        self.full = self.first = self.last = 0.0
        self.looks: list[tuple[int, float, float, float, float]] = []

    def started(self, job: Job) -> None:
        self.running.add(job.id)
        if len(self.running) > self.at_once:
            self.at_once, self.full = len(self.running), time.perf_counter()

    def heard(self, job: Job, row: Row) -> None:
        pass

    def lost(self, job: Job, why: str) -> None:
        pass

    def ended(self, job: Job, outcome: Outcome) -> None:
        self.running.discard(job.id)
        self.failed += [outcome.reason] if outcome.state == "failed" else []
        self.ended_ones += 1
        self.last = time.perf_counter()
        self.first = self.first or self.last
        if self.ended_ones == 1 or self.ended_ones % self.width == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 2**20
            self.looks.append((self.ended_ones, self.last, time.thread_time(), time.process_time(), peak))

    def figures(self) -> dict[str, object]:
        windows = []
        for before, after in zip(self.looks, self.looks[1:], strict=False):
            count, wall, loop, process = (b - a for a, b in zip(before[:4], after[:4], strict=True))
            seconds = {"seconds": wall / count, "loop_cpu": loop / count, "process_cpu": process / count}
            windows.append({"until": after[0], **seconds, "peak_mib": after[4]})
        since = {name: getattr(self, name) - self.began for name in ("first", "full")}
        return {**since, "at_once": self.at_once, "makespan": self.last - self.began, "windows": windows}
