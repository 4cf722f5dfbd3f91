"""The one module that writes to MLflow: a run per sweep, in it one per study, in that one per trial and per seed.

Only the driver writes, in batches: a write costs tens of milliseconds whatever it holds, and SQLite bears one writer.
"""

import functools
import math
import os
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from harness import provenance
from harness.checks import Check
from harness.config import PROTOCOL
from harness.errors import Mistake, one_line
from harness.jobs import Job, Outcome
from harness.place import Place
from harness.scores import Score
from harness.space import spoken
from harness.train import Row
from harness.trial import Result

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # its migrations announce themselves

FLUSH = 5.0  # seconds between two writes of a running trial's curves
BATCH = 1000  # metrics that one call may hold
PARAM = 6000  # characters of a parameter
CURVES = ("robust", "clean")  # kept as a tag too: a report of a thousand runs cannot ask for each one's history
POINTS = 400  # of such a curve; a tag holds 8,000 characters
SWEEP = "sweep"  # what the sweep's own run is called among jobs and studies
_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}  # what else there is looks like a failure
_ROLES = {"search": "trial", "seed": "seed"}  # as people call them


def _storing(write: Callable) -> Callable:
    """The method, its failures turned into one line that names the store: stores fail in their drivers' own ways."""

    @functools.wraps(write)
    def storing(self: "Tracker", *args, **kwargs):
        try:
            return write(self, *args, **kwargs)
        except Mistake:
            raise
        except Exception as error:
            raise Mistake(
                f"the tracking store {self.uri!r} failed: {one_line(error)};"
                " results are on disk, the same command tracks them later"
            ) from error

    return storing


class Tracker:
    """Writes studies, trials and scores of one sweep into one MLflow experiment."""

    def __init__(self, uri: str, experiment: str, place: Place, tags: Mapping[str, str]):
        """Open the store at `uri`, made if it is a new SQLite file. Raises `Mistake` where it cannot be reached."""
        _reachable(uri)
        self.uri, self._place, self._tags = uri, place, dict(tags)
        self._runs: dict[str, str] = {}  # job id or study -> run id
        self._studies: set[str] = set()
        self._ended: set[str] = set()
        self._last: dict[str, int] = {}  # job id -> last epoch that was logged
        self._about: dict[str, tuple[str, tuple[str, ...]]] = {}  # study -> its cell and the searched paths
        self._curves: dict[str, dict[int, Row]] = {}  # job id -> epoch -> its numbers
        self._pending: dict[str, list] = {}
        self._flushed = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of SQLAlchemy, about MLflow's own use of it
                from mlflow import MlflowClient

                self._client = MlflowClient(tracking_uri=uri)
                self.experiment = self._experiment(uri, experiment)
                self._recall()
        except Mistake:
            raise
        except Exception as error:  # stores fail in their drivers' own ways
            raise Mistake(f"cannot use the tracking store {uri!r}: {one_line(error)}") from None

    def _experiment(self, uri: str, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        local = str(self._place.out / "artifacts") if uri.startswith("sqlite") else None
        made = self._client.create_experiment(name, artifact_location=local)
        about = "A run for every sweep; in it one for every cell; in that its trials and the seeds of its winner."
        self._client.set_experiment_tag(made, "mlflow.note.content", about)
        return made

    def _recall(self) -> None:
        """Find the runs of this sweep that an earlier call wrote."""
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment],
                f"tags.`harness.sweep` = '{self._tags['harness.sweep']}'",
                max_results=1000,
                page_token=token,
            )
            for run in page:
                tags = run.data.tags
                name = tags.get("harness.job") or tags["harness.study"]
                self._runs[name] = run.info.run_id
                self._last[name] = int(run.data.metrics.get("epoch", 0))
                if tags.get("harness.state") == "complete":  # what failed is tried again
                    self._ended.add(name)
            token = page.token
            if not token:
                return

    @_storing
    def sweep(self, name: str, about: str) -> None:
        """The run that holds the sweep's studies and its report, unless it is there."""
        self._studies.add(SWEEP)
        if SWEEP in self._runs:
            self._client.update_run(self._runs[SWEEP], status="RUNNING")
            return
        tags = {"harness.role": "sweep", "harness.job": SWEEP, "mlflow.note.content": about}
        self._runs[SWEEP] = self._client.create_run(
            self.experiment, run_name=name, tags={**self._tags, **tags}
        ).info.run_id

    @_storing
    def study(self, name: str, cell: str, tags: Mapping[str, str], searched: Mapping[str, str]) -> None:
        """The run of a study within the sweep's, unless it is there."""
        self._studies.add(name)
        self._about[name] = cell, tuple(searched)
        if name in self._runs:
            self._client.update_run(self._runs[name], status="RUNNING")
            return
        run = self._client.create_run(
            self.experiment,
            run_name=cell,
            tags={
                **self._tags,
                "mlflow.parentRunId": self._runs[SWEEP],
                "harness.role": "study",
                "harness.study": name,
                "harness.cell": cell,
                **tags,
            },
        )
        self._runs[name] = run.info.run_id
        self._log(run.info.run_id, params={f"search.{path}": domain for path, domain in searched.items()})

    @_storing
    def crown(self, study: str, winners: list[str]) -> None:
        """Say which trials the study's repetitions belong to; those of an earlier winner stay, but count no more."""
        self._client.set_tag(self._runs[study], "harness.winners", ",".join(winners))

    @_storing
    def reported(self, study: str, figures: Mapping[str, float]) -> None:
        """What the report says of the study's winner, on the study's run: MLflow's list of them is a leaderboard."""
        self._log(self._runs[study], metrics=_metrics(figures, 0))

    def is_complete(self, job: Job) -> bool:
        """Whether the job's run was brought to its end."""
        return job.id in self._ended

    @_storing
    def started(self, job: Job) -> None:
        if job.id in self._runs:
            return
        flat = {path: _text(value) for path, value in job.trial.flat().items()}
        run = self._client.create_run(
            self.experiment,
            run_name=f"{_ROLES[job.role]} {job.number}: {self._about[job.study][0]}",
            tags={
                **self._tags,
                "mlflow.parentRunId": self._runs[job.study],
                "harness.role": job.role,
                "harness.study": job.study,
                "harness.job": job.id,
                "harness.key": job.trial.key,
                "harness.number": str(job.number),
                "harness.winner": job.winner,
                "harness.state": "running",
            },
        )
        self._runs[job.id] = run.info.run_id
        self._log(run.info.run_id, params=flat)

    @_storing
    def heard(self, job: Job, row: Row) -> None:
        self._curves.setdefault(job.id, {})[int(row["epoch"])] = row
        if row["epoch"] <= self._last.get(job.id, 0):
            return
        self._last[job.id] = row["epoch"]
        self._pending.setdefault(job.id, []).extend(_metrics(row, int(row["epoch"])))
        if time.monotonic() - self._flushed > FLUSH:
            self.flush()

    @_storing
    def ended(self, job: Job, outcome: Outcome) -> None:
        self.started(job)  # a job whose result lay ready may end before Ray says it started
        run = self._runs[job.id]
        metrics = self._pending.pop(job.id, [])
        tags = {"harness.state": outcome.state, **_curves(self._curves.pop(job.id, {}))}
        if outcome.reason:
            tags["harness.reason"] = outcome.reason
        if outcome.result:
            metrics += _metrics(_summary(outcome.result), job.trial.epochs)
            # Of the one that trained it, which may have been another than writes this.
            tags |= {f"harness.{name}": value for name, value in outcome.result.machine.items()}
            tags |= {f"harness.data.{part}": value for part, value in outcome.result.checksums.items()}
            tags |= _checked(outcome.result.checks)
        tags["mlflow.note.content"] = _described(job, outcome, *self._about[job.study])
        self._log(run, metrics=metrics, tags=tags)
        folder = self._place.trial(job.trial.key)
        if outcome.result:
            names = ["result.json", "val.npz", "test.npz"]
            names += ["weights.pt", "gallery.npz"] if job.role == "seed" else []
            for file in (folder / name for name in names):
                if file.exists():
                    self._client.log_artifact(run, str(file))
        self._client.set_terminated(run, _STATUS[outcome.state])
        self._ended.add(job.id)

    @_storing
    def evaluated(
        self,
        name: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        checks: list[Check],
        files: list[Path],
    ) -> None:
        """A run of its own for a net that was measured outside a sweep, unless it is there."""
        if name in self._ended:
            return
        tags = {**self._tags, "harness.role": "evaluation", "harness.job": name, "harness.state": "running"}
        if name not in self._runs:
            self._runs[name] = self._client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
        run = self._runs[name]
        texts = {path: _text(value)[:PARAM] for path, value in params.items()}
        self._log(run, metrics=_metrics(metrics, 0), params=texts, tags=_checked(checks))
        for file in files:
            self._client.log_artifact(run, str(file))
        self._client.set_tag(run, "harness.state", "complete")
        self._client.set_terminated(run, "FINISHED")

    @_storing
    def close(self, status: str = "FINISHED", report: Iterable[Path] = ()) -> None:
        """Write what is pending, attach the report's files to the sweep's run, and close it and its studies'."""
        self.flush()
        for file in report:
            self._client.log_artifact(self._runs[SWEEP], str(file), "report")
        for name, run in self._runs.items():
            if name in self._studies:
                self._client.set_terminated(run, status)

    @_storing
    def flush(self) -> None:
        """Write what is pending."""
        for job, metrics in self._pending.items():
            self._log(self._runs[job], metrics=metrics)
        self._pending.clear()
        self._flushed = time.monotonic()

    def _log(self, run: str, metrics: list | None = None, params: Mapping | None = None, tags: Mapping | None = None):
        from mlflow.entities import Param, RunTag

        metrics = metrics or []
        params = [Param(k, v) for k, v in (params or {}).items()]
        tags = [RunTag(k, v) for k, v in (tags or {}).items()]
        for at in range(0, max(len(metrics), 1), BATCH):
            self._client.log_batch(run, metrics=metrics[at : at + BATCH], params=params, tags=tags)
            params, tags = [], []


def _metrics(values: Mapping[str, float], step: int) -> list:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in values.items() if math.isfinite(value)]


def _curves(rows: Mapping[int, Row]) -> dict[str, str]:
    """The validation curves of a run as tags, `6:0.2303 12:0.3125`: epoch and value."""
    tags = {}
    for name in CURVES:
        points = [f"{epoch}:{row[key]:.4f}" for epoch, row in sorted(rows.items()) if (key := f"curve/{name}") in row]
        stride = -(-len(points) // POINTS) or 1
        thinned = points[-1::-stride][::-1]  # the last one always
        tags |= {f"harness.curve.{name}": " ".join(thinned)} if thinned else {}
    return tags


def _summary(result: Result) -> dict[str, float]:
    """Every score with its standard error and n, the seconds by phase, the touches of the test images."""
    seconds = {f"seconds/{phase}": seconds for phase, seconds in result.seconds.items()}
    return {"test_touches": result.touches, **summed(result.scores), **seconds}


def summed(scores: list[Score]) -> dict[str, float]:
    """Every score with its standard error and counts, under the names that MLflow's pages group by split.

    n stands once for the split, as `images`, and beside the scores that rest on fewer.
    """
    summary: dict[str, float] = {}
    for score in scores:
        split, _, name = score.name.partition("/")
        whole = max(s.n for s in scores if s.name.startswith(f"{split}/"))
        summary |= {score.name: score.mean, f"{split}_stderr/{name}": score.stderr, f"{split}_n/images": whole}
        summary |= {f"{split}_{what}/{name}": count for what, count in score.counts.items()}
        summary |= {f"{split}_n/{name}": score.n} if score.counts or score.n < whole else {}
    return summary


def _described(job: Job, outcome: Outcome, cell: str, searched: tuple[str, ...]) -> str:
    """A run in Markdown, for MLflow's page of it: what it is, how it ended, what speaks against it."""
    what = f"Repetition {job.number} of the winner" if job.role == "seed" else f"Trial {job.number}"
    what += " (the published setting)" if job.role == "search" and job.number == 0 else ""
    values = {path: value for path, value in job.trial.flat().items() if path in searched}
    settings = ", ".join(f"`{path}` {spoken(path, value)}" for path, value in values.items())
    lines = [f"{what} of **{cell}**{f': {settings}' if settings else ''}.", f"It is {outcome.state}"]
    lines[1] += f" after {outcome.epoch} epochs{f': {outcome.reason}' if outcome.reason else ''}."
    if outcome.result and outcome.result.checks:
        doubts = [f"- {c.name}: {c.about}" for c in outcome.result.checks if c.passed is False]
        passed = ", ".join(c.name for c in outcome.result.checks if c.passed)
        lines += ["Checks in doubt:\n" + "\n".join(doubts)] if doubts else []
        lines += [f"Checks passed: {passed}."]
    return "\n\n".join(lines)


def _checked(checks: list[Check]) -> dict[str, str]:
    """A tag for every check: its verdict and its sentence, which says by itself where it was not asked."""
    verdicts = {True: "passed: ", False: "doubt: ", None: ""}
    return {f"harness.check.{c.name}": verdicts[c.passed] + c.about for c in checks}


def _text(value: object) -> str:
    """A setting as MLflow keeps it; numbers stay plain, for its plots."""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def environment() -> dict[str, str]:
    """Tags that say what writes these runs: package versions, the state of the code, how it measures."""
    made = {f"harness.{name}": text for name, text in provenance.code().items()}
    commit = made["harness.git"].split()[0]
    source = {"mlflow.source.name": "saliency-harness", "mlflow.source.type": "LOCAL"}
    return {"harness.protocol": str(PROTOCOL), **made, **source, "mlflow.source.git.commit": commit}


def _reachable(uri: str) -> None:
    """Raise `Mistake` for a store that is not there, before MLflow retries for minutes."""
    scheme, _, rest = uri.partition("://")
    if scheme in ("http", "https"):
        try:
            urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=5).close()
        except (OSError, urllib.error.URLError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise Mistake(f"no MLflow server answers at {uri!r}: {reason}") from None
    elif scheme == "sqlite":
        file = Path(rest.removeprefix("/"))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "ab"):
                pass
        except OSError as error:
            raise Mistake(f"cannot write the tracking database {str(file)!r}: {error.strerror}") from None
    elif scheme not in ("postgresql", "mysql", "mssql", "databricks"):
        raise Mistake(f"--tracking-uri takes sqlite:///path, http(s)://server or a database, not {uri!r}")
