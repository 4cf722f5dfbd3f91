"""What a store refused of a log: which errors are final, and a record of the refused writes, to send them again."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.errors import first_few, one_line, redacted

# Statuses of HTTP after which the same request is not tried again; after all others, and without an answer, it is.
# 408 Request Timeout, 425 Too Early and 429 Too Many Requests ask for another try.
FINAL_STATUSES = frozenset(range(400, 500)) - {408, 425, 429}
FINAL_CODES = frozenset({"INVALID_STATE"})  # of MLflow, which sends them with status 500
FAULTS_OF_THE_LOG = (LookupError, TypeError, AttributeError)  # an unknown run, an event of the wrong form
_STATUS = re.compile(r"\bfailed with error code (\d{3})\b|^(\d{3}): ")  # MLflow's texts of what a gateway answers


class Refused(LookupError):
    """A write that is not even tried: its run does not exist, or its file is none of the output folder."""


def reason(error: Exception) -> str:
    """Why a write failed, in a line, without passwords."""
    return redacted(str(error)) if isinstance(error, Refused) else one_line(error)


def status(error: Exception) -> int | None:
    """The status of HTTP that an error stands for; None if there was no answer, or none that says."""
    response = getattr(error, "response", None)  # of requests
    if response is not None:
        return int(response.status_code)
    if (match := _STATUS.search(str(error))) and hasattr(error, "error_code"):
        return int(match[1] or match[2])
    return error.get_http_status_code() if hasattr(error, "get_http_status_code") else None


def is_final(error: Exception) -> bool:
    """Whether the store would answer a repetition of the write in the same way."""
    if isinstance(error, FAULTS_OF_THE_LOG) or getattr(error, "error_code", "") in FINAL_CODES:
        return True
    return status(error) in FINAL_STATUSES


@dataclass
class RefusedRun:
    """What was refused of one run.

    at: the byte of the log at which the first refused event begins. events: how many were refused. why: the first
    reason. files: reason by refused file, whose event was taken without it.
    """

    at: int
    events: int = 0
    why: str = ""
    files: dict[str, str] = field(default_factory=dict)


class Refusals:
    """The refused writes of a log, by the name of their run."""

    def __init__(self, runs: Mapping[str, RefusedRun] | None = None):
        self.runs = dict(runs or {})

    def add(self, run: str, at: int, why: str) -> None:
        """Add a refused event."""
        refused = self.runs.setdefault(run, RefusedRun(at))
        refused.events, refused.why = refused.events + 1, refused.why or why

    def add_files(self, run: str, at: int, files: Mapping[str, str]) -> None:
        """Add the refused files of an event that was taken."""
        if files:
            self.runs.setdefault(run, RefusedRun(at)).files |= files

    def count(self) -> int:
        """The number of refused events and files."""
        return sum(refused.events + len(refused.files) for refused in self.runs.values())

    def named(self, titles: Mapping[str, str], limit: int = 3) -> str:
        """The first refused writes with their reasons, in a line. titles: name of a run -> its title."""
        texts = []
        for run, refused in self.runs.items():
            title = titles.get(run, run)
            texts += [f"{file} of {title!r} ({why})" for file, why in refused.files.items()]
            texts += [f"{refused.events} events of {title!r} ({refused.why})"] if refused.events else []
        return first_few(texts, limit, "; ")

    def as_json(self) -> dict[str, object]:
        return {run: asdict(refused) for run, refused in self.runs.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Refusals":
        """The refusals of `as_json`, as JSON stores them. Raises `TypeError` for anything else."""
        if not isinstance(stored, dict):
            raise TypeError("refused writes are stored by run")
        return cls({str(run): RefusedRun(**of) for run, of in stored.items()})
