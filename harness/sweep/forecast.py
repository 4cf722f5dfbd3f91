"""What a sweep is expected to run: how long search trials become by successive halving, and when all jobs end."""

import bisect
import functools
import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import methods

if TYPE_CHECKING:
    from harness.sweep.job_types import Job

MANY = 100  # trials, after which the chances of halving hardly change


@dataclass(frozen=True)
class Shape:
    """What is known of a study's trials, or of maps, before any is timed.

    watch: epochs between two validations, 0 for none. halving: reduction factor of the pruner, 0 for none. train,
    curve, val, test: passes of images of an epoch or of the maps, of a validation between epochs, of the last one, of
    the test.
    """

    watch: int = 1
    halving: int = 0
    train: float = 1.0
    curve: float = 0.0
    val: float = 1.0
    test: float = 1.0


@dataclass(frozen=True)
class Task:
    """A job as far as its time matters.

    role: as of `Job`. kind: jobs of one role and kind take equally long; the study of a trial. epochs: 0 of maps.
    number: how many trials its study has started before it. needs: ids of the jobs that must end before it begins.
    """

    id: str
    role: str
    kind: str
    epochs: int
    number: int = 0
    needs: Collection[str] = ()


def task(job: "Job", waits: Collection[str] = ()) -> Task:
    """A job as the estimate of the time left takes it. waits: ids of the jobs that must end before it."""
    kind, epochs = job.study or made(job), 0 if job.maps else job.trial.epochs
    return Task(job.id, job.role, kind, epochs, job.number, waits)


def made(job: "Job") -> str:
    """The teacher or the maps that a job makes, without the seed."""
    saliency = f"{job.maps.saliency} maps of " if job.maps else ""
    return f"{saliency}teacher {methods.name(job.trial.method)}"


def chances(number: int, watch: int, halving: int, epochs: int) -> list[tuple[int, float]]:
    """Successive halving of trials that come in random order: (epoch, chance to run up to it), of rungs and the end.

    number: of trials of the study that began before. The better of two trials is so at every rung.
    """
    rungs = [watch]
    while rungs[-1] * halving < epochs:
        rungs.append(rungs[-1] * halving)
    shares = _shares(len(rungs), halving)[min(number, MANY - 1)]
    return [
        *zip([rung for rung in rungs if rung < epochs], shares, strict=False),
        (epochs, shares[-1 if watch < epochs else 0]),
    ]


@functools.cache
def _shares(rungs: int, halving: int) -> list[list[float]]:
    """Share of the trials that reach each rung and the end, of the first one of a study, the second, and so on.

    Of the n trials that have reached a rung the best n // halving continue, and at least one.
    """
    random, repeats = Random(0), 200
    reached = [[0.0] * (rungs + 1) for _ in range(MANY)]
    for _ in range(repeats):
        values: list[list[float]] = [[] for _ in range(rungs)]
        for of_trial in reached:
            value = random.random()
            for rung, others in enumerate(values):
                of_trial[rung] += 1
                bisect.insort(others, value)
                if value < others[-max(1, len(others) // halving)]:
                    break
            else:
                of_trial[rungs] += 1
    return [[number / repeats for number in of_trial] for of_trial in reached]


def makespan(running: Mapping[str, float], waiting: Iterable[tuple[Task, float]], slots: int) -> float:
    """Seconds until all jobs have ended: those running (id -> seconds left), and those waiting, in order."""
    tasks = dict(enumerate(waiting))
    ids = {*running, *(task.id for task, _ in tasks.values())}
    needs = {i: ids.intersection(task.needs) for i, (task, _) in tasks.items()}
    needed_by: dict[str, list[int]] = {}
    for i, of in needs.items():
        for job_id in of:
            needed_by.setdefault(job_id, []).append(i)
    ready = [i for i, of in needs.items() if not of]  # sorted, so a heap
    ends = [(seconds, job_id) for job_id, seconds in running.items()]
    heapq.heapify(ends)
    now = 0.0
    while ready or ends:
        while ready and len(ends) < slots:
            task, seconds = tasks[heapq.heappop(ready)]
            heapq.heappush(ends, (now + seconds, task.id))
        now, job_id = heapq.heappop(ends)
        for i in needed_by.get(job_id, ()):
            needs[i].discard(job_id)
            if not needs[i]:
                heapq.heappush(ready, i)
    return now
