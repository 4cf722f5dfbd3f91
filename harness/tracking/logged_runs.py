"""The runs that an event log describes, as MLflow has them once the log is delivered."""

from pathlib import Path
from typing import TYPE_CHECKING

from harness.tracking import event_log

if TYPE_CHECKING:
    from mlflow.entities import Run


def logged_runs(log: Path, out: Path) -> list["Run"]:
    """The runs of a log by their names, in the order of their start. Their artifacts are those of their trial in `out`.

    Raises `UserError` for a damaged line.
    """
    runs: dict[str, _Run] = {}
    for event, _ in event_log.read_events(log):
        if "begin" in event:
            runs.setdefault(event["run"], _Run(event["time"], event["begin"]))
        runs[event["run"]].add(event)
    return [run.entity(name, out) for name, run in runs.items()]


class _Run:
    """What the events of a run add up to."""

    def __init__(self, start: int, begin: event_log.Begin):
        self._start, self._title, self._status = start, begin["title"], "RUNNING"
        self._tags = dict(begin["tags"])
        if begin["parent"]:
            self._tags["mlflow.parentRunId"] = begin["parent"]
        self._params: dict[str, str] = {}
        self._metrics: dict[str, tuple[int, int, float]] = {}  # name -> step, time and value; the largest is the last

    def add(self, event: event_log.Event) -> None:
        self._tags |= event.get("tags", {})
        self._params = event.get("params", {}) | self._params  # MLflow takes no second value
        self._status = event.get("status", self._status)
        for name, value, step in event.get("metrics", ()):
            self._metrics[name] = max(self._metrics.get(name, (step, 0, value)), (step, event["time"], value))

    def entity(self, name: str, out: Path) -> "Run":
        from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag

        trial = out / "trials" / self._tags["harness.key"] if self._tags.get("harness.key") else None
        info = RunInfo(name, "", "", self._status, self._start, None, "active", str(trial or ""), self._title)
        metrics = [Metric(name, value, time, step) for name, (step, time, value) in self._metrics.items()]
        params = [Param(name, value) for name, value in self._params.items()]
        return Run(info, RunData(metrics, params, [RunTag(name, text) for name, text in self._tags.items()]))
