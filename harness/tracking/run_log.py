"""An event log, with how far each of its runs has come, by the events of this command and of earlier ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from harness.tracking.event_log import Content, EventLog, read_events

_PARENTS = ("sweep", "study")  # roles of runs that others are nested in; all other runs are jobs
_OF_JOBS = ("harness.role", "harness.state", "harness.later")  # the tags of jobs that are known: they are many


@dataclass
class LoggedRun:
    """What the events of a run add up to.

    status: as MLflow shows it. tags: of a sweep or a study all, of a job those of its state. inputs: its data sets.
    epoch: the last one that was logged. metrics: name -> value and step; of a sweep or a study its last figures, of a
    complete job those of its end and of what was measured since.
    """

    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    inputs: set[tuple[str, str, str]] = field(default_factory=set)
    epoch: int = 0
    metrics: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether a job is done; a failed one runs again."""
        return self.tags.get("harness.state") == "complete"

    def add(self, event: Mapping[str, Any]) -> None:
        tags = {**event["begin"]["tags"], **event.get("tags", {})} if "begin" in event else event.get("tags", {})
        is_parent = (tags.get("harness.role") or self.tags.get("harness.role")) in _PARENTS
        self.status = event.get("status", self.status)
        self.tags |= {name: text for name, text in tags.items() if is_parent or name in _OF_JOBS}
        self.inputs.update((name, digest, use) for name, digest, use in event.get("inputs", ()))
        metrics = {name: (value, step) for name, value, step in event.get("metrics", ())}
        self.epoch = max(self.epoch, int(metrics.get("epoch", (0, 0))[0]))
        if (metrics and is_parent) or tags.get("harness.state") == "complete":
            self.metrics = metrics
        elif self.is_complete:
            self.metrics |= metrics


class RunLog:
    """Appends events of runs to the log at `path`, which is created for `experiment`. runs: name -> what is logged."""

    def __init__(self, path: Path, experiment: str):
        self._log = EventLog(path, experiment)
        self.runs: dict[str, LoggedRun] = {}
        self._take_in(event for event, _ in read_events(path))

    def append(self, run: str, **content: Unpack[Content]) -> None:
        """Append an event of a run and sync it to disk. Raises `UserError` if it cannot be written."""
        self._log.append(run, **content)
        self._take_in([{"run": run, **content}])

    def extend(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Append events, with the times that they have, all or none. Raises `UserError` if they cannot be written."""
        events = list(events)
        self._log.extend(events)
        self._take_in(events)

    def update_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Log those of the tags of a sweep or a study that have changed."""
        logged = self.runs[run].tags
        if changed := {name: text for name, text in tags.items() if logged.get(name) != text}:
            self.append(run, tags=changed)

    def _take_in(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            self.runs.setdefault(event["run"], LoggedRun()).add(event)
