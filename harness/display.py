"""What a person watches while a sweep runs: one line redrawn in a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from harness.jobs import Job, Outcome
from harness.train import Row

LOG_EVERY = 15.0  # seconds between two lines where nothing can be redrawn


class Counter:
    """What a person watches while a net is measured: which of how many measurements comes next."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.began, self.shown = time.monotonic(), -LOG_EVERY

    def __call__(self, done: int, of: int, key: str) -> None:
        now = time.monotonic()
        if not self.live and now - self.shown < LOG_EVERY:
            return
        self.shown = now
        text = f"measuring {done + 1} of {of}: {key} ({now - self.began:.0f} s)"
        print(f"\r{text}\033[K" if self.live else text, end="" if self.live else "\n", file=self.stream, flush=True)

    def finish(self) -> None:
        """Take the line away."""
        if self.live:
            print("\r\033[K", end="", file=self.stream, flush=True)


class Display:
    """A `Listener` that counts jobs and shows the best validated goal so far.

    remaining() says how many jobs are still to come, names the cell of each study.
    """

    def __init__(self, remaining: Callable[[], int], goal: str, names: dict[str, str], stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.remaining, self.goal, self.names = remaining, goal, names
        self.total = remaining()
        self.states = {"complete": 0, "pruned": 0, "failed": 0}
        self.running: dict[str, tuple[Job, int]] = {}
        self.best: tuple[float, str] | None = None
        self.began = self.shown = time.monotonic()
        self._line(f"{self.total} trials to go" if self.total else "nothing left to run")

    def started(self, job: Job) -> None:
        self.running[job.id] = (job, 0)
        self._show()

    def heard(self, job: Job, row: Row) -> None:
        self.running.pop(job.id, None)  # to the end: shown is who was heard last
        self.running[job.id] = (job, int(row["epoch"]))
        self._show()

    def lost(self, job: Job, why: str) -> None:
        self._line(f"  {self.names[job.study]}, {job.role} {job.number} goes on in another worker: {why}")

    def ended(self, job: Job, outcome: Outcome) -> None:
        self.running.pop(job.id, None)
        self.states[outcome.state] += 1
        if outcome.state == "failed":
            self._line(f"  {self.names[job.study]}, {job.role} {job.number} failed: {outcome.reason}")
        score = outcome.result.score(self.goal) if outcome.result else None
        if score and (self.best is None or score.mean > self.best[0]):
            self.best = (score.mean, self.names[job.study])
        self._show()

    def finish(self) -> None:
        """The last line, which stays."""
        if self.states != {"complete": 0, "pruned": 0, "failed": 0}:
            self._show(last=True)

    def _show(self, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self.shown < (0.2 if self.live else LOG_EVERY):
            return
        self.shown = now
        self._line(self._status(now - self.began), keep=last or not self.live)

    def _status(self, seconds: float) -> str:
        done = sum(self.states.values())
        self.total = max(self.total, done + len(self.running) + self.remaining())
        parts = [f"{done}/{self.total} trials"]
        if self.states["pruned"] or self.states["failed"]:
            parts.append(", ".join(f"{n} {state}" for state, n in self.states.items() if n and state != "complete"))
        if self.best:
            parts.append(f"best {self.goal} {100 * self.best[0]:.1f} % ({self.best[1]})")
        if self.running and done < self.total:
            job, epoch = next(reversed(self.running.values()))
            parts.append(f"now {self.names[job.study]} {epoch}/{job.trial.epochs}")
        left = f", {_clock(seconds / done * (self.total - done))} left" if 0 < done < self.total else ""
        return " · ".join([*parts, f"{_clock(seconds)}{left}"])

    def _line(self, text: str, keep: bool = True) -> None:
        if self.live:
            width = 110
            self.stream.write(f"\r\033[K{text[:width]}" + ("\n" if keep else ""))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
