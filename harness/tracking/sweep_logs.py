"""The event logs of an output folder's sweeps: which of them a sweep goes on with, and what others hold of its studies.

Two sweeps may share a study, since that belongs to a cell: where a setting changes some cells of a space, and where
an earlier version made another sweep of a space with a cell more.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.storage.workspace import Workspace
from harness.sweep.plan import Plan
from harness.tracking import event_log
from harness.tracking.event_log import Event


def log_file(workspace: Workspace, experiment: str, sweep: str) -> Path:
    """The log of a sweep."""
    return workspace.out / event_log.FOLDER / f"{experiment}-{sweep}.jsonl"


def continued(planned: Plan, workspace: Workspace) -> Plan:
    """The plan, of the sweep by its former id where the output has that one only."""
    files = {sweep: log_file(workspace, planned.experiment, sweep) for sweep in (planned.sweep, planned.former_sweep)}
    if files[planned.sweep].exists() or not files[planned.former_sweep].exists():
        return planned
    return dataclasses.replace(planned, sweep=planned.former_sweep)


def runs_elsewhere(log: Path) -> dict[str, dict[str, list[Event]]]:
    """What the other logs of its experiment hold: study -> name of a trial or seed run -> events, all of one log.

    Of several logs that have a run, the one in which it came furthest, and of those the oldest.
    """
    experiment = event_log.read_header(log)["experiment"]
    found: dict[str, dict[str, list[Event]]] = {}
    for other in sorted((file for file in log.parent.glob("*.jsonl") if file != log), key=_began):
        runs: dict[str, tuple[str, list[Event]]] = {}  # name -> study and events, of this log
        for event in _events(other, experiment):
            if "begin" in event and (study := event["begin"]["parent"]):
                runs.setdefault(event["run"], (study, []))
            if event["run"] in runs:
                runs[event["run"]][1].append(event)
        for run, (study, events) in runs.items():
            known = found.setdefault(study, {})
            if run not in known or progress(last_status(events)) > progress(last_status(known[run])):
                known[run] = events
    return found


def last_status(events: Sequence[Event]) -> str:
    """The status of a run after these events; "" if they say none."""
    return next((event["status"] for event in reversed(events) if "status" in event), "")


def progress(status: str) -> int:
    """How far a run with this status came: 2 if it finished, 1 if it failed, else 0."""
    return {"FINISHED": 2, "FAILED": 1}.get(status, 0)


def _events(log: Path, experiment: str) -> Iterator[Event]:
    """The events of a log, up to where it is damaged, which its own sweep says; none of another experiment."""
    with contextlib.suppress(UserError):
        if event_log.read_header(log)["experiment"] == experiment:
            for event, _ in event_log.read_events(log):
                yield event_log.checked(event)


def _began(log: Path) -> int:
    with contextlib.suppress(UserError):
        return next((event_log.checked(event)["time"] for event, _ in event_log.read_events(log)), 0)
    return 0
