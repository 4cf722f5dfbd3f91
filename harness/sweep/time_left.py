"""Estimate of the time that a sweep still takes, from the events of its jobs. It has no clock: events carry their time.

A job consists of steps: epochs, those after which it is validated, and what follows the last one. Each kind of step is
timed. One that has not been seen takes the seconds per unit of those that have, its units being passes of images. The
jobs under way and to come are then placed in the slots, in order, each after those that it needs.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from harness.sweep.forecast import Shape, Task, chances, makespan

RECENT = 0.2  # weight of the newest measurement of a step, at least
LATEST = 2.5  # number of steps per slot that the present speed is taken from
OVERDUE = 0.2  # of the time that a step has taken: what it is expected to take still, at least
PRIOR = 0.5  # full trials: weight of the expected length of search trials against that of those that have ended
MEASURING = ("end search", "end seed")  # steps of which most is measuring
SMOOTHING = 0.03  # of the elapsed time: time constant of the smoothing of the estimate


class Step(NamedTuple):
    """A part of a job that is timed. what: `epoch`, `watched` (with a validation), or `end` and the role: the rest."""

    what: str
    kind: str


@dataclass
class _Running:
    task: Task
    since: float  # when its current step began
    cold: bool  # whether its worker is new, and imports all first
    epoch: int = 0
    done: float = 0.0  # share of the current step, where it reports one
    measured: int = 0  # measurements done, of the validation or of the test
    tests: bool = False  # whether its validation has ended
    expected: float = 0.0  # share of the epochs after the first rung, when it began


@dataclass
class _Mean:
    """Running mean in which the newest values weigh more."""

    n: int = 0
    value: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        self.value += max(1 / self.n, RECENT) * (value - self.value)


class TimeLeft:
    """Estimates the time left of a sweep. shapes: of its studies. slots: number of jobs at once; more, if seen.

    prior: seconds per pass of an image, until any step is measured; 0 if that is not known.
    """

    def __init__(self, shapes: Mapping[str, Shape], slots: int = 1, prior: float = 0.0):
        self._shapes, self._slots, self._prior = shapes, slots, prior
        self._running: dict[str, _Running] = {}
        self._steps: dict[Step, _Mean] = {}
        self._first: dict[Step, float] = {}  # a first epoch, with what comes before it
        self._head = _Mean()  # what comes before the first epoch
        self._gap = _Mean()  # from the end of a job to the start of the next
        self._survived = self._expected = PRIOR  # trials: length of the search trials after the first rung
        self._load = [0.0, 0.0]  # seconds that steps took, and were expected to take; the latest weigh most
        self._started = 0  # jobs
        self._began = self._ended = -math.inf  # the first start, the latest end
        self._shown: tuple[float, float] | None = None  # time, and estimate

    def on_start(self, now: float, task: Task) -> None:
        if task.id in self._running:  # again, after its worker was lost
            self.on_worker_lost(now, task.id)
            return
        if self._began == -math.inf:
            self._began = now
        if self._ended > -math.inf:
            self._gap.add(now - self._ended)
        self._slots = max(self._slots, len(self._running) + 1)
        self._started += 1
        cold = self._started <= self._slots
        self._running[task.id] = _Running(task, now, cold, expected=self._share(task))

    def on_epoch(self, now: float, job_id: str, epoch: int, seconds: float = 0.0) -> None:
        """seconds: of the epoch; one that is reported much earlier is of an earlier run of the job."""
        job = self._running.get(job_id)
        if job is None or not job.epoch < epoch <= job.task.epochs:  # maps have none
            return
        took, step = now - job.since, self._epoch_step(job.task, epoch)
        if epoch == job.epoch + 1 and took > seconds / 2:
            if job.epoch:
                self._measure(step, took)
            elif job.cold:
                pass
            elif step in self._steps:
                self._head.add(max(0.0, took - self._steps[step].value))
            else:
                self._first[step] = took
        job.epoch, job.since, job.done = epoch, now, 0.0

    def on_progress(self, job_id: str, done: int, total: int) -> None:
        """Of a seed, first the measurements on the validation images, then those on the test images."""
        job = self._running.get(job_id)
        if job is None or job.epoch < job.task.epochs:
            return
        if job.task.role != "seed":
            job.done = done / total
            return
        job.tests = job.tests or done < job.measured
        job.measured = done
        shape = self._shape(job.task)
        val = shape.val / max(shape.val + shape.test, 1e-9)
        job.done = val + (1 - val) * done / total if job.tests else val * done / total

    def on_worker_lost(self, now: float, job_id: str) -> None:
        if job := self._running.get(job_id):
            job.since, job.done = now, 0.0

    def on_end(self, now: float, job_id: str, state: str) -> None:
        job = self._running.pop(job_id, None)
        if job is None:
            return
        self._ended = now
        if state == "complete" and job.epoch == job.task.epochs:
            self._measure(_end(job.task), now - job.since)
        if job.expected and state in ("complete", "pruned"):
            rung = self._shape(job.task).watch
            self._expected += job.expected
            self._survived += max(0, job.epoch - rung) / (job.task.epochs - rung)

    def _measure(self, step: Step, seconds: float) -> None:
        if step in self._steps:
            kept = max(0.0, 1 - 1 / (LATEST * self._slots))
            self._load = [kept * a + b for a, b in zip(self._load, (seconds, self._steps[step].value), strict=True)]
        self._steps.setdefault(step, _Mean()).add(seconds / self._slowness())

    def _slowness(self) -> float:
        """How much longer steps take at present than on average, since the machine has other work too."""
        return self._load[0] / self._load[1] if all(self._load) else 1.0

    def needed(self, now: float, to_come: Iterable[Task]) -> float | None:
        """Seconds until the running jobs and these have ended; None before any step is measured."""
        if not (self._steps or self._first or self._prior):
            return None
        running = {job_id: self._rest(now, job) for job_id, job in self._running.items()}
        between = self._gap.value + self._head.value
        return makespan(running, [(task, between + self._work(task, 0)) for task in to_come], self._slots)

    def left(self, now: float, to_come: Iterable[Task]) -> float | None:
        """Seconds left, smoothed; None before any step is measured. to_come: in the order in which they start."""
        fresh = self.needed(now, to_come)
        if fresh is None:
            return None
        then, before = self._shown or (now, fresh)
        due, slow = max(0.0, before - (now - then)), SMOOTHING * (now - self._began)
        self._shown = now, due + (fresh - due) * (now - then) / max(now - then + slow, 1e-9)
        return self._shown[1]

    def _rest(self, now: float, job: _Running) -> float:
        """Seconds that a job under way still takes."""
        task, elapsed, last = job.task, now - job.since, job.epoch >= job.task.epochs
        step = _end(task) if last else self._epoch_step(task, job.epoch + 1)
        expected = self._seconds(step) + (0.0 if job.epoch or last else self._head.value)
        rest = max(expected - elapsed, OVERDUE * elapsed)
        if job.done and step not in self._steps:
            rest = (1 - job.done) * ((1 - job.done) * expected + elapsed)
        return rest if last else rest + self._work(task, job.epoch, job.epoch + 1)

    def _work(self, task: Task, passed: int, first: int | None = None) -> float:
        """Expected seconds of a job after epoch `first`, if it has passed the rungs up to epoch `passed`."""
        begin, seconds = passed if first is None else first, 0.0
        chance = 1.0
        for end, chance in self._stretches(task, passed):
            if end > begin:
                seconds += chance * self._epoch_seconds(task, begin, end)
                begin = end
        return seconds + chance * self._seconds(_end(task))

    def _epoch_seconds(self, task: Task, first: int, last: int) -> float:
        """Seconds of the epochs after `first` up to `last`."""
        watch = self._shape(task).watch
        watched = last // watch - first // watch + (last == task.epochs and last % watch > 0) if watch else 0
        plain = last - first - watched
        seconds = plain * self._seconds(Step("epoch", task.kind)) if plain else 0.0
        return seconds + (watched * self._seconds(Step("watched", task.kind)) if watched else 0.0)

    def _is_watched(self, task: Task, epoch: int) -> bool:
        watch = self._shape(task).watch
        return bool(watch) and (epoch % watch == 0 or epoch == task.epochs)

    def _epoch_step(self, task: Task, epoch: int) -> Step:
        return Step("watched" if self._is_watched(task, epoch) else "epoch", task.kind)

    def _shape(self, task: Task) -> Shape:
        """The shape of a trial; teachers and maps are not validated."""
        return self._shapes.get(task.kind, Shape(watch=0))

    def _stretches(self, task: Task, passed: int) -> list[tuple[int, float]]:
        """The chances of a job to run up to each rung and to its last epoch, if it has passed epoch `passed`."""
        shape = self._shape(task)
        if task.role != "search" or not shape.halving:
            return [(task.epochs, 1.0)]
        expected = [c for c in chances(task.number, shape.watch, shape.halving, task.epochs) if c[0] > passed]
        if not expected:
            return [(task.epochs, 1.0)]
        known = expected[0][1]
        longer = self._survived / self._expected
        return [(end, 1.0 if chance == known else min(1.0, longer * chance / known)) for end, chance in expected]

    def _share(self, task: Task) -> float:
        """Share of the epochs after the first rung that a search trial is expected to run, before any has ended."""
        shape = self._shape(task)
        if task.role != "search" or not shape.halving or task.epochs <= shape.watch:
            return 0.0
        rungs = chances(task.number, shape.watch, shape.halving, task.epochs)
        later = sum((end - begin) * chance for (begin, _), (end, chance) in itertools.pairwise(rungs))
        return later / (task.epochs - shape.watch)

    def _seconds(self, step: Step) -> float:
        """Expected seconds of a step: as measured, or by its units."""
        if step in self._steps:
            return self._steps[step].value * self._slowness()
        if step in self._first:
            return max(0.0, self._first[step] - self._head.value)
        return self._units(step) * self._rate(step.what)

    def _rate(self, what: str) -> float:
        """Seconds per unit of steps of this sort, or of what is most like it and has been measured."""
        seconds = {**self._first, **{step: mean.value * self._slowness() for step, mean in self._steps.items()}}
        known = [step for step in seconds if self._units(step)]
        for sorts in ((what,), MEASURING if what in MEASURING else (), {step.what for step in known}):
            if alike := [step for step in known if step.what in sorts]:
                return sum(seconds[step] for step in alike) / sum(map(self._units, alike))
        return self._prior

    def _units(self, step: Step) -> float:
        """Passes of images of a step; 0 where they are not known."""
        shape = self._shapes.get(step.kind) or next(iter(self._shapes.values()), Shape())
        return {
            "epoch": shape.train,
            "watched": shape.train + shape.curve,
            "end search": shape.val,
            "end seed": shape.val + shape.test,
            "end maps": shape.train,
        }.get(step.what, 0.0)


def _end(task: Task) -> Step:
    return Step(f"end {task.role}", task.kind)
