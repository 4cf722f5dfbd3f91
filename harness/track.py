"""What a sweep tells MLflow: a run per sweep, in it one per study, in that one per trial and per seed.

It is told to a log on disk, which `harness.deliver` passes on: no trial waits for a server, and none is lost with it.
"""

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness import events, provenance
from harness.checks import Check
from harness.config import PROTOCOL
from harness.jobs import Job, Outcome
from harness.place import Place
from harness.scores import Score
from harness.space import spoken
from harness.train import Row
from harness.trial import Result

FLUSH = 5.0  # seconds, at least, between two writes of a running trial's curves
RATE = 30  # of such writes a second that a store can follow: with more trials at once they come less often
PARAM = 6000  # characters of a parameter
CURVES = ("robust", "clean")  # kept as a tag too: a report of a thousand runs cannot ask for each one's history
POINTS = 400  # of such a curve; a tag holds 8,000 characters
SWEEP = "sweep"  # what the sweep's own run is called among jobs and studies
_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}  # what else there is looks like a failure
_ROLES = {"search": "trial", "seed": "seed"}  # as people call them


class Tracker:
    """Tells the log of one sweep what becomes of its studies, trials and scores; each thing once."""

    def __init__(self, place: Place, experiment: str, tags: Mapping[str, str], name: str = ""):
        """Open the log of that name (the sweep's of the experiment), and learn from it what was told before."""
        self._place, self._tags = place, dict(tags)
        name = name or f"{experiment}-{tags['harness.sweep']}"
        self.log = place.out / events.FOLDER / f"{name}.jsonl"
        self._log = events.Log(self.log, experiment)
        self._begun: set[str] = set()  # runs: job ids and studies
        self._studies: set[str] = set()
        self._ended: set[str] = set()
        self._last: dict[str, int] = {}  # job id -> last epoch that was told
        self._about: dict[str, tuple[str, tuple[str, ...]]] = {}  # study -> its cell and the searched paths
        self._figures: dict[str, list] = {}  # study -> what its winner was last reported with
        self._curves: dict[str, dict[int, Row]] = {}  # job id -> epoch -> its numbers
        self._pending: dict[str, list] = {}
        self._flushed = time.monotonic()
        self._recall()

    def _recall(self) -> None:
        for event, _ in events.read(self.log):
            run = event["run"]
            self._begun.add(run)
            metrics = [tuple(metric) for metric in event.get("metrics", ())]
            for name, value, _ in metrics:
                if name == "epoch":
                    self._last[run] = max(self._last.get(run, 0), int(value))
            if metrics and metrics[0][2] == 0:  # of no epoch
                self._figures[run] = metrics
            if event.get("tags", {}).get("harness.state") == "complete":  # what failed is tried again
                self._ended.add(run)

    def sweep(self, title: str, about: str) -> None:
        """The run that holds the sweep's studies and its report."""
        tags = {"harness.role": "sweep", "harness.job": SWEEP, "mlflow.note.content": about}
        self._begin(SWEEP, title, None, tags, {})

    def study(self, name: str, cell: str, tags: Mapping[str, str], searched: Mapping[str, str]) -> None:
        """The run of a study within the sweep's."""
        self._about[name] = cell, tuple(searched)
        tags = {"harness.role": "study", "harness.study": name, "harness.cell": cell, **tags}
        self._begin(name, cell, SWEEP, tags, {f"search.{path}": domain for path, domain in searched.items()})

    def _begin(
        self, name: str, title: str, parent: str | None, tags: Mapping[str, str], params: Mapping[str, str]
    ) -> None:
        self._studies.add(name)
        if name in self._begun:
            self._log.tell(name, status="RUNNING")
        else:
            begin = {"title": title, "parent": parent, "tags": {**self._tags, **tags}}
            self._log.tell(name, begin=begin, params=_texts(params))
            self._begun.add(name)

    def crown(self, study: str, winners: list[str]) -> None:
        """Say which trials the study's repetitions belong to; those of an earlier winner stay, but count no more."""
        self._log.tell(study, tags={"harness.winners": ",".join(winners)})

    def reported(self, study: str, figures: Mapping[str, float]) -> None:
        """What the report says of the study's winner, on the study's run: MLflow's list of them is a leaderboard."""
        metrics = _metrics(figures, 0)
        if metrics != self._figures.get(study):
            self._figures[study] = metrics
            self._log.tell(study, metrics=metrics)

    def is_complete(self, job: Job) -> bool:
        """Whether the job's run was brought to its end."""
        return job.id in self._ended

    def started(self, job: Job) -> None:
        if job.id in self._begun:
            return
        tags = {
            "harness.role": job.role,
            "harness.study": job.study,
            "harness.job": job.id,
            "harness.key": job.trial.key,
            "harness.number": str(job.number),
            "harness.winner": job.winner,
            "harness.state": "running",
        }
        title = f"{_ROLES[job.role]} {job.number}: {self._about[job.study][0]}"
        begin = {"title": title, "parent": job.study, "tags": {**self._tags, **tags}}
        self._log.tell(job.id, begin=begin, params=_texts(job.trial.flat()))
        self._begun.add(job.id)

    def heard(self, job: Job, row: Row) -> None:
        self._curves.setdefault(job.id, {})[int(row["epoch"])] = row
        if row["epoch"] <= self._last.get(job.id, 0):
            return
        self._last[job.id] = row["epoch"]
        self._pending.setdefault(job.id, []).extend(_metrics(row, int(row["epoch"])))
        if time.monotonic() - self._flushed > max(FLUSH, len(self._pending) / RATE):
            self.flush()

    def lost(self, job: Job, why: str) -> None:
        self._log.tell(job.id, tags={"harness.lost": why})

    def ended(self, job: Job, outcome: Outcome) -> None:
        self.started(job)  # a job whose result lay ready may end before Ray says it started
        curves, metrics = self._curves.pop(job.id, {}), self._pending.pop(job.id, [])
        if job.id in self._ended:  # told by a command that was killed before the study heard of it
            return
        tags, files = {"harness.state": outcome.state, **_curves(curves)}, []
        if outcome.reason:
            tags["harness.reason"] = outcome.reason
        if outcome.result:
            metrics += _metrics(_summary(outcome.result), job.trial.epochs)
            # Of the one that trained it, which may have been another than writes this.
            tags |= {f"harness.{name}": value for name, value in outcome.result.machine.items()}
            tags |= {f"harness.data.{part}": value for part, value in outcome.result.checksums.items()}
            tags |= _checked(outcome.result.checks)
            names = ["result.json", "val.npz", "test.npz"]
            names += ["weights.pt", "gallery.npz"] if job.role == "seed" else []
            files = self._files(self._place.trial(job.trial.key) / name for name in names)
            self._ended.add(job.id)
        tags["mlflow.note.content"] = _described(job, outcome, *self._about[job.study])
        self._log.tell(job.id, metrics=metrics, tags=tags, files=files, status=_STATUS[outcome.state])

    def evaluated(
        self,
        name: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        checks: list[Check],
        files: list[Path],
    ) -> None:
        """A run of its own for a net that was measured outside a sweep, unless it was told before."""
        if name in self._ended:
            return
        tags = {**self._tags, "harness.role": "evaluation", "harness.job": name, "harness.state": "running"}
        self._log.tell(
            name,
            begin={"title": name, "parent": None, "tags": tags},
            params=_texts(params),
            metrics=_metrics(metrics, 0),
            tags={**_checked(checks), "harness.state": "complete"},
            files=self._files(files),
            status="FINISHED",
        )
        self._ended.add(name)

    def attach(self, report: Iterable[Path]) -> None:
        """Add the report's files to the sweep's run."""
        self._log.tell(SWEEP, files=self._files(report, "report"))

    def close(self, status: str = "FINISHED") -> None:
        """Tell what is pending, and how the sweep and its studies stand."""
        self.flush()
        for name in sorted(self._studies):
            self._log.tell(name, status=status)

    def flush(self) -> None:
        """Tell what is pending."""
        for job, metrics in self._pending.items():
            self._log.tell(job, metrics=metrics)
        self._pending.clear()
        self._flushed = time.monotonic()

    def _files(self, paths: Iterable[Path], folder: str = "") -> list[tuple[str, str]]:
        there = [path for path in paths if self._place.store or path.exists()]  # another node may have written it
        return [(str(path.relative_to(self._place.out)), folder) for path in there]


def _metrics(values: Mapping[str, float], step: int) -> list[tuple[str, float, int]]:
    return [(name, float(value), step) for name, value in values.items() if math.isfinite(value)]


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    """Settings as MLflow keeps them; numbers stay plain, for its plots."""
    texts = {path: f"{value:.9g}" if isinstance(value, float) else str(value) for path, value in values.items()}
    return {path: text[:PARAM] for path, text in texts.items()}


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


def environment() -> dict[str, str]:
    """Tags that say what writes these runs: package versions, the state of the code, how it measures."""
    made = {f"harness.{name}": text for name, text in provenance.code().items()}
    commit = made["harness.git"].split()[0]
    source = {"mlflow.source.name": "saliency-harness", "mlflow.source.type": "LOCAL"}
    return {"harness.protocol": str(PROTOCOL), **made, **source, "mlflow.source.git.commit": commit}
