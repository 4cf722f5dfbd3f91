"""Progress display: one status line, redrawn in a terminal, or appended now and then to a log file."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Collection, Mapping
from typing import TextIO

from harness.errors import UserError
from harness.sweep.forecast import made, task
from harness.sweep.job_types import Job, Outcome
from harness.sweep.time_left import TimeLeft
from harness.training.epoch_metrics import EpochMetrics

LOG_SECONDS = 15.0  # between two lines if the stream is no terminal
ESTIMATE_SECONDS = 2.0  # between two estimates of the time left, at least


class EvaluationProgress:
    """Progress display of an evaluation: which measurement is next, of how many."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.interactive = self.stream.isatty()
        self.began, self.shown = time.monotonic(), -LOG_SECONDS

    def __call__(self, done: int, total: int, key: str) -> None:
        now = time.monotonic()
        if not self.interactive and now - self.shown < LOG_SECONDS:
            return
        self.shown = now
        text = f"measuring {done + 1} of {total}: {key} ({now - self.began:.0f} s)"
        print(
            f"\r{text}\033[K" if self.interactive else text,
            end="" if self.interactive else "\n",
            file=self.stream,
            flush=True,
        )

    def close(self) -> None:
        """Erase the line."""
        if self.interactive:
            print("\r\033[K", end="", file=self.stream, flush=True)


class SweepProgress:
    """Sweep callback that displays job counts, the best goal on validation data, and the remaining time.

    remaining(): number of trials to come. to_come(): the jobs to come, by id, with the ids of what each waits for.
    time_left: estimate of the remaining time; it is told what happens. names: study -> cell.
    at_most(): seconds that are left at most, if there is a limit.
    """

    def __init__(
        self,
        remaining: Callable[[], int],
        to_come: Callable[[], Mapping[str, tuple[Job, Collection[str]]]],
        time_left: TimeLeft,
        goal: str,
        names: dict[str, str],
        stream: TextIO | None = None,
        at_most: Callable[[], float] | None = None,
    ):
        self.at_most = at_most
        self.to_come, self.time_left = to_come, time_left
        self.pause = ESTIMATE_SECONDS
        self.estimated: tuple[float, float | None] = (-ESTIMATE_SECONDS, None)  # when, and seconds left
        self.stream = stream or sys.stdout
        self.interactive = self.stream.isatty()
        self.remaining, self.goal, self.names = remaining, goal, names
        self.total = remaining()
        self.states = {"complete": 0, "pruned": 0, "failed": 0, "duplicate": 0}
        self.running: dict[str, tuple[Job, str]] = {}  # with how far each is
        self.best: tuple[float, str] | None = None
        self.began = self.shown = time.monotonic()
        self._line(f"{self.total} trials to go" if self.total else "nothing left to run")

    def on_start(self, job: Job) -> None:
        self.time_left.on_start(time.monotonic(), task(job))
        self.running.setdefault(job.id, (job, f"0/{job.trial.epochs}"))
        self._show()

    def on_epoch(self, job: Job, row: EpochMetrics) -> None:
        self.time_left.on_epoch(time.monotonic(), job.id, int(row["epoch"]), row.get("seconds", 0.0))
        self.running.pop(job.id, None)  # moves it to the end: the latest one is displayed
        self.running[job.id] = (job, f"{row['epoch']:.0f}/{job.trial.epochs}")
        self._show()

    def on_progress(self, job: Job, done: int, total: int) -> None:
        self.time_left.on_progress(job.id, done, total)
        self.running.pop(job.id, None)
        self.running[job.id] = (job, f"{done}/{total} {'images' if job.role == 'maps' else 'measured'}")
        self._show()

    def on_worker_lost(self, job: Job, why: str) -> None:
        self.time_left.on_worker_lost(time.monotonic(), job.id)
        self._line(f"  {self._name(job)} continues on another worker: {why}")

    def on_end(self, job: Job, outcome: Outcome) -> None:
        self.time_left.on_end(time.monotonic(), job.id, outcome.state)
        self.running.pop(job.id, None)
        if outcome.state == "failed":
            self._line(f"  {self._name(job)} failed: {outcome.reason}")
        if job.is_shared:
            self._show()
            return
        self.states[outcome.state] += 1
        score = outcome.result.score(self.goal) if outcome.result else None
        if score and (self.best is None or score.mean > self.best[0]):
            self.best = (score.mean, self.names[job.study])
        self._show()

    def note(self, text: str) -> None:
        """Print a line of its own."""
        self._line(f"  {text}")

    def close(self) -> None:
        """Print the final status line."""
        if any(self.states.values()):
            self._show(last=True)

    def _show(self, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self.shown < (0.2 if self.interactive else LOG_SECONDS):
            return
        self.shown = now
        self._line(self._status(now - self.began), newline=last or not self.interactive)

    def _status(self, seconds: float) -> str:
        done = sum(self.states.values())
        trials = sum(not job.is_shared for job, _ in self.running.values())
        self.total = max(self.total, done + trials + self.remaining())
        parts = [f"{done}/{self.total} trials"]
        if done > self.states["complete"]:
            parts.append(", ".join(f"{n} {state}" for state, n in self.states.items() if n and state != "complete"))
        if self.best:
            parts.append(f"best {self.goal} {100 * self.best[0]:.1f} % ({self.best[1]})")
        if self.running and done < self.total:
            job, far = next(reversed(self.running.values()))
            parts.append(f"now {self.names[job.study] if job.study else self._name(job)} {far}")
        left = self._left() if done < self.total else None
        return " · ".join([*parts, _clock(seconds) + ("" if left is None else f", {_clock(left)} left")])

    def _left(self) -> float | None:
        """Seconds left, counting down between two estimates."""
        now = time.monotonic()
        if now - self.estimated[0] >= self.pause:
            with contextlib.suppress(UserError):  # a remote store that does not answer: the next estimate asks again
                to_come = [task(job, waits) for job, waits in self.to_come().values()]
                self.estimated = now, self.time_left.left(now, to_come)
            self.pause = max(ESTIMATE_SECONDS, 50 * (time.monotonic() - now))  # thousands of trials take longer
        then, left = self.estimated
        most = self.at_most() if self.at_most else math.inf
        return None if left is None else max(0.0, min(left - (now - then), most))

    def _name(self, job: Job) -> str:
        if job.is_shared:
            return f"{made(job)}, seed {job.trial.seed}"
        return f"{self.names[job.study]}, {job.role} {job.number}"

    def _line(self, text: str, newline: bool = True) -> None:
        if self.interactive:
            width = 110
            self.stream.write(f"\r\033[K{text[:width]}" + ("\n" if newline else ""))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
