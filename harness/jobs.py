"""What runs and what comes of it: the words that search, schedule, track and the display share."""

from dataclasses import dataclass
from typing import Literal, Protocol

from harness.config import Trial
from harness.train import Row
from harness.trial import Result

State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class Job:
    """One trial to be run for a study. role: `search` for a proposal, `seed` for a winner repeated and tested.

    winner: of a repetition, the key of the proposal that it repeats.
    """

    study: str
    role: Literal["search", "seed"]
    number: int
    trial: Trial
    winner: str = ""

    @property
    def id(self) -> str:
        """What tells this job from all others, also after another trial has become the winner."""
        return f"{self.study} {self.role} {self.winner}#{self.number}"


@dataclass(frozen=True)
class Outcome:
    """How a job ended. epoch: the last one that was run; result: of a complete one; reason: of a failed one."""

    state: State
    epoch: int
    result: Result | None = None
    reason: str = ""


class Source(Protocol):
    """Where jobs come from, and who decides which of them go on."""

    def remaining(self) -> int:
        """How many jobs are still to be handed out, as far as is known."""

    def next(self) -> Job | None:
        """The next job, or None when there is none now."""

    def finished(self) -> bool:
        """Whether there will be no further job."""

    def heard(self, job: Job, row: Row) -> bool:
        """Take an epoch's numbers. Returns whether the job is to stop here."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Take how the job ended."""


class Listener(Protocol):
    """Who wants to know: the tracker, the display."""

    def started(self, job: Job) -> None: ...

    def heard(self, job: Job, row: Row) -> None: ...

    def lost(self, job: Job, why: str) -> None:
        """Its worker died; another one goes on with it."""

    def ended(self, job: Job, outcome: Outcome) -> None: ...
