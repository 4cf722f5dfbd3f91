"""MLflow tracking of a sweep: a run per sweep, nested in it one per teacher, per computation of maps and per study, and
in that one per trial and seed.

The tracker only appends to an event log on disk; `harness.tracking.delivery` writes that to MLflow. So no trial waits
for a server, and none is lost with it.
"""

import functools
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from harness.evaluation.checks.evidence import Check
from harness.storage.workspace import Workspace
from harness.sweep.job_types import Job, Outcome
from harness.tracking import event_log, sweep_logs
from harness.tracking.run_content import (
    check_tags,
    curve_tags,
    data_inputs,
    data_tags,
    job_params,
    job_tags,
    metric_tags,
    metrics_at,
    run_note,
    run_title,
    summary,
    texts,
)
from harness.tracking.run_log import RunLog
from harness.training.epoch_metrics import EpochMetrics

FLUSH = 5.0  # seconds, at least, between two writes of the metrics of running trials
RATE = 30  # writes per second that a store can take: with many concurrent trials, flushes are rarer
RESULT_FILES = ("result.json", "val.npz", "test.npz")  # of a trial
SWEEP = "sweep"  # name of the sweep's own run in the log
_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}  # MLflow shows KILLED like a failure


class Tracker:
    """Sweep callback that logs studies, trials and scores to an event log, each once, also after a restart."""

    def __init__(self, workspace: Workspace, experiment: str, tags: Mapping[str, str], name: str = ""):
        """Open or create the log `name` (default: that of the sweep), and read what it holds already."""
        self._workspace, self._tags = workspace, dict(tags)
        named = sweep_logs.log_file(workspace, experiment, tags["harness.sweep"])
        self.log = named.with_name(f"{name}.jsonl") if name else named
        self._log = RunLog(self.log, experiment)
        self._runs = self._log.runs  # by name: job ids, studies and `SWEEP`
        self._studies: set[str] = set()  # of this command
        self._searched: dict[str, tuple[str, tuple[str, ...]]] = {}  # study -> its cell and the searched paths
        self._curves: dict[str, dict[int, EpochMetrics]] = {}  # job id -> epoch -> metrics
        self._pending: dict[str, list[event_log.Metric]] = {}
        self._flushed = time.monotonic()

    def start_sweep(self, title: str, note: str) -> None:
        """Start the sweep's run, the parent of its studies and holder of its report.

        Whatever a killed command left running is logged as KILLED before; what continues is running again then.
        """
        self._kill_running()
        tags = {"harness.role": "sweep", "harness.job": SWEEP, "mlflow.note.content": note}
        self._begin(SWEEP, title, None, tags, {})

    def start_study(self, name: str, cell: str, tags: Mapping[str, str], searched: Mapping[str, str]) -> None:
        """Start the run of a study, nested in the sweep's. searched: path -> domain as text.

        The sweep takes over what only other sweeps of this output have of its trials and seed runs, or have ended.
        """
        self._searched[name] = cell, tuple(searched)
        tags = {"harness.role": "study", "harness.study": name, "harness.cell": cell, **tags}
        self._begin(name, cell, SWEEP, tags, {f"search.{path}": domain for path, domain in searched.items()})
        self._supersede(name, cell)
        self._take_over(name)

    @functools.cached_property
    def _elsewhere(self) -> dict[str, dict[str, list[event_log.Event]]]:
        return sweep_logs.runs_elsewhere(self.log)

    def _take_over(self, study: str) -> None:
        """Copy the runs of a study that are in other logs of this output and not in this one, or came further there."""
        copied: list[event_log.Event] = []
        for run, events in self._elsewhere.get(study, {}).items():
            known = self._runs.get(run)
            if known is None:
                copied += events
            elif sweep_logs.progress(sweep_logs.last_status(events)) > sweep_logs.progress(known.status):
                if known.status == "FAILED":
                    self._log.append(run, tags={"harness.reason": ""})
                copied += [event for event in events if "begin" not in event]
        for event in copied:
            if "begin" in event:
                event["begin"]["tags"]["harness.sweep"] = self._tags["harness.sweep"]
        self._log.extend(copied)

    def _all_studies(self) -> dict[str, Mapping[str, str]]:
        """The tags of the sweep's studies, of all commands."""
        return {name: run.tags for name, run in self._runs.items() if run.tags.get("harness.role") == "study"}

    def log_removed(self, space_cells: Collection[str]) -> None:
        """Log which cells of the sweep's space it has no more, and which it has again. space_cells: those of now."""
        for study, tags in self._all_studies().items():
            removed = "" if tags.get("harness.cell", "") in space_cells else "true"
            if tags.get("harness.made") == "false" and (removed or "harness.removed" in tags):
                self._log.update_tags(study, {"harness.removed": removed})

    def _supersede(self, study: str, cell: str) -> None:
        """Log which study is the cell's: a method whose defaults have changed since has an earlier one, too."""
        for other, tags in self._all_studies().items():
            superseded = bool(tags.get("harness.superseded"))
            if tags.get("harness.cell", "") == cell and (other == study) == superseded:
                self._log.append(other, tags={"harness.superseded": "" if other == study else study})

    def _begin(
        self, name: str, title: str, parent: str | None, tags: Mapping[str, str], params: Mapping[str, str]
    ) -> None:
        self._studies.add(name)
        if name in self._runs:
            self._log.append(name, status="RUNNING")
            self._log.update_tags(name, tags)
        else:
            begin: event_log.Begin = {"title": title, "parent": parent, "tags": {**self._tags, **tags}}
            self._log.append(name, begin=begin, params=texts(params))

    def on_winners(self, study: str, winners: list[str], duplicates: int) -> None:
        """Log the keys of a study's winners. Seed runs of earlier winners stay, but no longer count.

        duplicates: proposals with the settings of an earlier one, which have no run of their own.
        """
        self._log.append(
            study, tags={"harness.winners": ",".join(winners), "harness.duplicates": str(duplicates or "")}
        )

    def log_search(self, studies: Iterable[str], tags: Mapping[str, str]) -> None:
        """Log at the sweep and its studies what their search began with, or how it ended."""
        for name in (SWEEP, *studies):
            self._log.update_tags(name, {t: v for t, v in tags.items() if v or t in self._runs[name].tags})

    def log_winner(self, study: str, figures: Mapping[str, float]) -> None:
        """Log the report's figures of the winner on the study's run, so that MLflow's run list is a leaderboard."""
        metrics = metrics_at(figures, 0)
        if {name: (value, step) for name, value, step in metrics} != self._runs[study].metrics:
            self._log.append(study, metrics=metrics)

    def is_complete(self, job: Job) -> bool:
        """Whether the job's run is logged as complete."""
        return job.id in self._runs and self._runs[job.id].is_complete

    def measured(self, job: Job, split: str) -> dict[str, int]:
        """Names of a complete job's logged scores of a split, without it, and the versions they were measured by."""
        logged = self._runs[job.id].metrics
        names = {name.partition("/")[2] for name in logged if name.startswith((f"{split}/", f"{split}_n/"))}
        return {name: int(logged.get(f"{split}_version/{name}", (1, 0))[0]) for name in names}

    def on_start(self, job: Job) -> None:
        if job.id in self._runs:
            if self._runs[job.id].status == "FAILED":
                self._log.append(job.id, tags={"harness.state": "running", "harness.reason": ""}, status="RUNNING")
            elif self._runs[job.id].status == "KILLED":  # with its command
                self._log.append(job.id, status="RUNNING")
            return
        begin: event_log.Begin = {
            "title": run_title(job, self._searched[job.study][0] if job.study else ""),
            "parent": job.study or SWEEP,
            "tags": {**self._tags, **job_tags(job)},
        }
        self._log.append(job.id, begin=begin, params=job_params(job))

    def on_progress(self, job: Job, done: int, total: int) -> None:
        """No-op: only epochs are logged."""

    def on_epoch(self, job: Job, row: EpochMetrics) -> None:
        self._curves.setdefault(job.id, {})[int(row["epoch"])] = row
        run = self._runs[job.id]
        if row["epoch"] <= run.epoch:
            return
        run.epoch = int(row["epoch"])  # before it is logged
        self._pending.setdefault(job.id, []).extend(metrics_at(row, int(row["epoch"])))
        if time.monotonic() - self._flushed > max(FLUSH, len(self._pending) / RATE):
            self.flush()

    def on_worker_lost(self, job: Job, why: str) -> None:
        self._log.append(job.id, tags={"harness.lost": why})

    def on_end(self, job: Job, outcome: Outcome) -> None:
        if outcome.state == "duplicate":  # counted on its study
            return
        self.on_start(job)  # a job with a stored result may end before Ray reports its start
        curves, metrics = self._curves.pop(job.id, {}), self._pending.pop(job.id, [])
        if self.is_complete(job):
            self._measured_later(job, outcome)
            return
        tags, files, inputs = {"harness.state": outcome.state, **curve_tags(curves)}, [], []
        if outcome.reason:
            tags["harness.reason"] = outcome.reason
        metrics += metrics_at({f"seconds/{phase}": seconds for phase, seconds in outcome.seconds.items()}, 0)
        if outcome.result:
            metrics += metrics_at(summary(outcome.result), job.trial.epochs)
            # The machine that trained it, not necessarily this one.
            tags |= {f"harness.{name}": value for name, value in outcome.result.machine.items()}
            tags |= data_tags(outcome.result)
            tags |= check_tags(outcome.result.checks) | metric_tags(outcome.result.scores)
            inputs = data_inputs(outcome.result)
            names = RESULT_FILES + (("weights.pt", "gallery.npz") if job.role == "seed" else ())
            files = self._files(self._workspace.trial(job.trial.key) / name for name in names)
        if not job.is_shared:
            tags["mlflow.note.content"] = run_note(job, outcome, *self._searched[job.study])
        status = _STATUS[outcome.state]
        self._log.append(job.id, metrics=metrics, tags=tags, files=files, inputs=inputs, status=status)
        for run in (SWEEP, job.study):
            self._add_inputs(run, inputs)

    def _add_inputs(self, run: str, inputs: Iterable[tuple[str, str, str]]) -> None:
        """Log the data of a trial at the sweep or the study too, whose rows MLflow shows first."""
        if run in self._runs and (new := [data for data in inputs if data not in self._runs[run].inputs]):
            self._log.append(run, inputs=new)

    def _measured_later(self, job: Job, outcome: Outcome) -> None:
        """Log what was measured of a complete job since, or why that failed; nothing, if its study only lagged."""
        if not outcome.result:
            if outcome.state == "failed":  # the job stays complete: its scores of before count
                self._log.append(job.id, tags={"harness.later": f"failed: {outcome.reason}"})
            return
        if self._runs[job.id].tags.get("harness.later"):
            self._log.append(job.id, tags={"harness.later": ""})
        if later := self._not_logged(job.id, metrics_at(summary(outcome.result), job.trial.epochs)):
            files = self._files(self._workspace.trial(job.trial.key) / name for name in RESULT_FILES)
            self._log.append(job.id, metrics=later, tags=check_tags(outcome.result.checks), files=files)

    def _not_logged(self, run: str, metrics: Iterable[event_log.Metric]) -> list[event_log.Metric]:
        """Those of the metrics that a complete run has not, or with another value."""
        logged = self._runs[run].metrics
        return [(name, value, step) for name, value, step in metrics if name not in logged or logged[name][0] != value]

    def log_evaluation(
        self,
        name: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        checks: list[Check],
        files: list[Path],
    ) -> None:
        """Log a standalone run for a net measured outside a sweep, unless it is logged already."""
        measured = metrics_at(metrics, 0)
        if name in self._runs and self._runs[name].is_complete:
            if later := self._not_logged(name, measured):
                self._log.append(name, metrics=later, tags=check_tags(checks), files=self._files(files))
            return
        tags = {**self._tags, "harness.role": "evaluation", "harness.job": name, "harness.state": "running"}
        self._log.append(
            name,
            begin={"title": name, "parent": None, "tags": tags},
            params=texts(params),
            metrics=measured,
            tags={**check_tags(checks), "harness.state": "complete"},
            files=self._files(files),
            status="FINISHED",
        )

    def log_disk(self, sizes: Mapping[str, int]) -> None:
        """Log the bytes of the output folder by kind on the sweep's run, one step for every time that they changed."""
        values = {f"disk/{kind}": float(size) for kind, size in sizes.items()}
        logged = self._runs[SWEEP].metrics
        if values != {name: value for name, (value, _) in logged.items()}:
            step = max((step for _, step in logged.values()), default=0)
            self._log.append(SWEEP, metrics=metrics_at(values, step + 1))

    def attach(self, files: Iterable[Path], folder: str = "report") -> None:
        """Log files, by default those of the report, as artifacts of the sweep's run."""
        self._log.append(SWEEP, files=self._files(files, folder))

    def close(self, status: str = "FINISHED") -> None:
        """Flush, and log the status of the sweep and its studies. Trials that have not ended are KILLED."""
        self.flush()
        for name in sorted(self._studies):
            self._log.append(name, status=status)
        self._kill_running()

    def _kill_running(self) -> None:
        for name in sorted(name for name, run in self._runs.items() if run.status == "RUNNING"):
            self._log.append(name, status="KILLED")

    def flush(self) -> None:
        """Log pending metrics."""
        for job, metrics in self._pending.items():
            self._log.append(job, metrics=metrics)
        self._pending.clear()
        self._flushed = time.monotonic()

    def _files(self, paths: Iterable[Path], folder: str = "") -> list[tuple[str, str]]:
        existing = [path for path in paths if self._workspace.remote or path.exists()]  # or on another node
        return [(str(path.relative_to(self._workspace.out)), folder) for path in existing]
