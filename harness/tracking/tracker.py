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
    metrics_at,
    run_note,
    run_title,
    summary,
    texts,
)
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
        self._log = event_log.EventLog(self.log, experiment)
        self._begun: set[str] = set()  # names of runs: job ids and studies
        self._status: dict[str, str] = {}  # of each of these, as MLflow shows it
        self._studies: set[str] = set()
        self._cells: dict[str, str] = {}  # study -> its cell, of all commands
        self._superseded: set[str] = set()  # studies
        self._logged_tags: dict[str, dict[str, str]] = {}  # of the sweep and of its studies
        self._inputs: dict[str, set[tuple[str, str, str]]] = {}  # run -> its data sets
        self._ended: dict[str, dict[str, float]] = {}  # run -> the metrics of its end
        self._failed: set[str] = set()  # runs that failed when they ran last
        self._unmeasured: set[str] = set()  # complete runs of which measuring what was new failed
        self._last: dict[str, int] = {}  # job id -> last logged epoch
        self._searched: dict[str, tuple[str, tuple[str, ...]]] = {}  # study -> its cell and the searched paths
        self._figures: dict[str, list[event_log.Metric]] = {}  # study -> last logged figures of its winner
        self._disk: tuple[int, dict[str, float]] = (0, {})  # step and last logged sizes of the output
        self._curves: dict[str, dict[int, EpochMetrics]] = {}  # job id -> epoch -> metrics
        self._pending: dict[str, list[event_log.Metric]] = {}
        self._flushed = time.monotonic()
        self._read_log()

    def _read_log(self) -> None:
        for event, _ in event_log.read_events(self.log):
            self._note(event)

    def _note(self, event: event_log.Event) -> None:
        """Take in what an event of an earlier command says."""
        run = event["run"]
        self._begun.add(run)
        self._status[run] = event.get("status", self._status.get(run, "RUNNING"))
        begun = event["begin"]["tags"] if "begin" in event else {}
        tags = {**begun, **event.get("tags", {})}
        if tags.get("harness.role") in ("sweep", "study") or run in self._logged_tags:
            self._logged_tags.setdefault(run, {}).update(tags)
        if tags.get("harness.role") == "study":
            self._cells[run] = tags.get("harness.cell", "")
        if "harness.superseded" in tags:
            (self._superseded.add if tags["harness.superseded"] else self._superseded.discard)(run)
        self._inputs.setdefault(run, set()).update((name, digest, use) for name, digest, use in event.get("inputs", ()))
        metrics = [(name, value, step) for name, value, step in event.get("metrics", ())]
        for name, value, _ in metrics:
            if name == "epoch":
                self._last[run] = max(self._last.get(run, 0), int(value))
        if run == SWEEP and metrics:
            self._disk = metrics[0][2], {name: value for name, value, _ in metrics}
        if metrics and metrics[0][2] == 0:  # figures of the report, not of an epoch
            self._figures[run] = metrics
        if "harness.state" in tags:
            (self._failed.add if tags["harness.state"] == "failed" else self._failed.discard)(run)
        if "harness.later" in tags:
            (self._unmeasured.add if tags["harness.later"] else self._unmeasured.discard)(run)
        if tags.get("harness.state") == "complete":  # failed jobs are run again
            self._ended[run] = {}
        if run in self._ended:  # also what was measured later
            self._ended[run] |= {name: value for name, value, _ in metrics}

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
            if run not in self._begun:
                copied += events
            elif sweep_logs.progress(sweep_logs.last_status(events)) > sweep_logs.progress(self._status[run]):
                if run in self._failed:
                    self._log.append(run, tags={"harness.reason": ""})
                copied += [event for event in events if "begin" not in event]
        for event in copied:
            if "begin" in event:
                event["begin"]["tags"]["harness.sweep"] = self._tags["harness.sweep"]
        self._log.extend(copied)
        for event in copied:
            self._note(event)

    def log_removed(self, space_cells: Collection[str]) -> None:
        """Log which cells of the sweep's space it has no more, and which it has again. space_cells: those of now."""
        for study, cell in self._cells.items():
            tags = self._logged_tags.get(study, {})
            if tags.get("harness.made") == "false":
                removed = "" if cell in space_cells else "true"
                self._update_tags(study, {"harness.removed": removed} if removed or "harness.removed" in tags else {})

    def _update_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Log those of the tags of the sweep or of a study that have changed."""
        logged = self._logged_tags.setdefault(run, {})
        if changed := {name: text for name, text in tags.items() if logged.get(name) != text}:
            self._log.append(run, tags=changed)
            logged |= changed

    def _supersede(self, study: str, cell: str) -> None:
        """Log which study is the cell's: a method whose defaults have changed since has an earlier one, too."""
        self._cells[study] = cell
        for other, its_cell in self._cells.items():
            if its_cell == cell and (other == study) == (other in self._superseded):
                self._log.append(other, tags={"harness.superseded": "" if other == study else study})
                self._superseded ^= {other}

    def _begin(
        self, name: str, title: str, parent: str | None, tags: Mapping[str, str], params: Mapping[str, str]
    ) -> None:
        self._studies.add(name)
        if name in self._begun:
            self._set_status(name, "RUNNING")
            self._update_tags(name, tags)
        else:
            begin: event_log.Begin = {"title": title, "parent": parent, "tags": {**self._tags, **tags}}
            self._log.append(name, begin=begin, params=texts(params))
            self._begun.add(name)
            self._status[name] = "RUNNING"
            self._logged_tags[name] = begin["tags"]

    def on_winners(self, study: str, winners: list[str], duplicates: int) -> None:
        """Log the keys of a study's winners. Seed runs of earlier winners stay, but no longer count.

        duplicates: proposals with the settings of an earlier one, which have no run of their own.
        """
        self._log.append(
            study, tags={"harness.winners": ",".join(winners), "harness.duplicates": str(duplicates or "")}
        )

    def log_winner(self, study: str, figures: Mapping[str, float]) -> None:
        """Log the report's figures of the winner on the study's run, so that MLflow's run list is a leaderboard."""
        metrics = metrics_at(figures, 0)
        if metrics != self._figures.get(study):
            self._figures[study] = metrics
            self._log.append(study, metrics=metrics)

    def is_complete(self, job: Job) -> bool:
        """Whether the job's run is logged as complete."""
        return job.id in self._ended

    def measured(self, job: Job, split: str) -> dict[str, int]:
        """Names of a complete job's logged scores of a split, without it, and the versions they were measured by."""
        logged = self._ended[job.id]
        names = {name.partition("/")[2] for name in logged if name.startswith((f"{split}/", f"{split}_n/"))}
        return {name: int(logged.get(f"{split}_version/{name}", 1)) for name in names}

    def on_start(self, job: Job) -> None:
        if job.id in self._begun:
            if job.id in self._failed:
                self._failed.discard(job.id)
                self._log.append(job.id, tags={"harness.state": "running", "harness.reason": ""}, status="RUNNING")
                self._status[job.id] = "RUNNING"
            elif self._status[job.id] == "KILLED":  # with its command
                self._set_status(job.id, "RUNNING")
            return
        tags = {
            "harness.role": job.role,
            "harness.study": job.study,
            "harness.job": job.id,
            "harness.key": job.key,
            "harness.number": str(job.number),
            "harness.winner": job.winner,
            "harness.state": "running",
        }
        begin: event_log.Begin = {
            "title": run_title(job, self._searched[job.study][0] if job.study else ""),
            "parent": job.study or SWEEP,
            "tags": {**self._tags, **tags},
        }
        maps = {f"maps.{name}": value for name, value in vars(job.maps).items()} if job.maps else {}
        self._log.append(job.id, begin=begin, params=texts({**job.trial.flat(), **maps}))
        self._begun.add(job.id)
        self._status[job.id] = "RUNNING"

    def on_progress(self, job: Job, done: int, total: int) -> None:
        """No-op: only epochs are logged."""

    def on_epoch(self, job: Job, row: EpochMetrics) -> None:
        self._curves.setdefault(job.id, {})[int(row["epoch"])] = row
        if row["epoch"] <= self._last.get(job.id, 0):
            return
        self._last[job.id] = int(row["epoch"])
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
        if job.id in self._ended:
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
            tags |= {f"harness.data.{part}": value for part, value in outcome.result.checksums.items()}
            tags |= check_tags(outcome.result.checks)
            inputs = data_inputs(outcome.result)
            names = RESULT_FILES + (("weights.pt", "gallery.npz") if job.role == "seed" else ())
            files = self._files(self._workspace.trial(job.trial.key) / name for name in names)
        if not job.is_shared:
            tags["mlflow.note.content"] = run_note(job, outcome, *self._searched[job.study])
        if outcome.state == "complete":
            self._ended[job.id] = {name: value for name, value, _ in metrics}
        elif outcome.state == "failed":
            self._failed.add(job.id)
        status = self._status[job.id] = _STATUS[outcome.state]
        self._log.append(job.id, metrics=metrics, tags=tags, files=files, inputs=inputs, status=status)
        for run in (SWEEP, job.study):
            self._add_inputs(run, inputs)

    def _add_inputs(self, run: str, inputs: Iterable[tuple[str, str, str]]) -> None:
        """Log the data of a trial at the sweep or the study too, whose rows MLflow shows first."""
        known = self._inputs.setdefault(run, set())
        if run in self._begun and (new := [data for data in inputs if data not in known]):
            self._log.append(run, inputs=new)
            known.update(new)

    def _measured_later(self, job: Job, outcome: Outcome) -> None:
        """Log what was measured of a complete job since, or why that failed; nothing, if its study only lagged."""
        if not outcome.result:
            if outcome.state == "failed":  # the job stays complete: its scores of before count
                self._log.append(job.id, tags={"harness.later": f"failed: {outcome.reason}"})
                self._unmeasured.add(job.id)
            return
        if job.id in self._unmeasured:
            self._log.append(job.id, tags={"harness.later": ""})
            self._unmeasured.discard(job.id)
        ended, measured = self._ended[job.id], metrics_at(summary(outcome.result), job.trial.epochs)
        if later := [metric for metric in measured if ended.get(metric[0]) != metric[1]]:
            files = self._files(self._workspace.trial(job.trial.key) / name for name in RESULT_FILES)
            self._log.append(job.id, metrics=later, tags=check_tags(outcome.result.checks), files=files)
            ended |= {name: value for name, value, _ in later}

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
        if name in self._ended:
            if later := [metric for metric in measured if self._ended[name].get(metric[0]) != metric[1]]:
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
        self._ended[name] = {name: value for name, value, _ in measured}

    def log_disk(self, sizes: Mapping[str, int]) -> None:
        """Log the bytes of the output folder by kind on the sweep's run, one step for every time that they changed."""
        values = {f"disk/{kind}": float(size) for kind, size in sizes.items()}
        step, last = self._disk
        if values != last:
            self._disk = step + 1, values
            self._log.append(SWEEP, metrics=metrics_at(values, step + 1))

    def attach(self, report: Iterable[Path]) -> None:
        """Log the report's files as artifacts of the sweep's run."""
        self._log.append(SWEEP, files=self._files(report, "report"))

    def close(self, status: str = "FINISHED") -> None:
        """Flush, and log the status of the sweep and its studies. Trials that have not ended are KILLED."""
        self.flush()
        for name in sorted(self._studies):
            self._set_status(name, status)
        self._kill_running()

    def _kill_running(self) -> None:
        for name in sorted(name for name, status in self._status.items() if status == "RUNNING"):
            self._set_status(name, "KILLED")

    def _set_status(self, run: str, status: str) -> None:
        self._log.append(run, status=status)
        self._status[run] = status

    def flush(self) -> None:
        """Log pending metrics."""
        for job, metrics in self._pending.items():
            self._log.append(job, metrics=metrics)
        self._pending.clear()
        self._flushed = time.monotonic()

    def _files(self, paths: Iterable[Path], folder: str = "") -> list[tuple[str, str]]:
        existing = [path for path in paths if self._workspace.remote or path.exists()]  # or on another node
        return [(str(path.relative_to(self._workspace.out)), folder) for path in existing]
