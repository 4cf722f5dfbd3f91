"""What MLflow's runs contain, as the event log has it: params, metrics, tags, and the notes of their pages."""

import math
from collections.abc import Mapping

import methods
from harness.config.setting_text import format_setting
from harness.config.trial_key import TRAINING_VERSION
from harness.evaluation.checks.evidence import Check
from harness.evaluation.metrics import DEPENDS_ON_WEIGHTS, METRICS, OURS, as_text
from harness.evaluation.score_name import ScoreName
from harness.evaluation.scores import Score
from harness.storage import provenance
from harness.sweep.job_types import Job, Outcome
from harness.tracking.event_log import Metric
from harness.training.epoch_metrics import EpochMetrics
from harness.trials.result import Result

PARAM = 6000  # characters: limit on the value of a param
CURVES = ("robust", "clean")  # also stored as tags: a report of a thousand runs cannot query the history of each
POINTS = 400  # of a curve in a tag, whose limit is 8,000 characters


def run_title(job: Job, cell: str) -> str:
    """The name of a job's run. cell: that of its study, if it has one."""
    if job.is_shared:
        saliency = f"{job.maps.saliency} of " if job.maps else ""
        return f"{job.role}: {saliency}{methods.name(job.trial.method)}, seed {job.trial.seed}"
    return f"{'trial' if job.role == 'search' else job.role} {job.number}: {cell}"


def job_tags(job: Job) -> dict[str, str]:
    """Tags of a run that begins: which job it is of."""
    return {
        "harness.role": job.role,
        "harness.study": job.study,
        "harness.job": job.id,
        "harness.key": job.key,
        "harness.number": str(job.number),
        "harness.winner": job.winner,
        "harness.state": "running",
    }


def job_params(job: Job) -> dict[str, str]:
    """The settings of a job as params: those of its trial, and of the maps that it computes, if any."""
    maps = {f"maps.{name}": value for name, value in vars(job.maps).items()} if job.maps else {}
    return texts({**job.trial.flat(), **maps})


def metrics_at(values: Mapping[str, float], step: int) -> list[Metric]:
    """The finite ones of these metrics, at a step."""
    return [(name, float(value), step) for name, value in values.items() if math.isfinite(value)]


def texts(values: Mapping[str, object]) -> dict[str, str]:
    """Settings as MLflow params; numbers in plain notation, for its plots."""
    texts = {path: f"{value:.9g}" if isinstance(value, float) else str(value) for path, value in values.items()}
    return {path: text[:PARAM] for path, text in texts.items()}


def curve_tags(rows: Mapping[int, EpochMetrics]) -> dict[str, str]:
    """The validation curves of a run as tags, `6:0.2303 12:0.3125`: epoch and value."""
    tags: dict[str, str] = {}
    for name in CURVES:
        points = [f"{epoch}:{row[key]:.4f}" for epoch, row in sorted(rows.items()) if (key := f"curve/{name}") in row]
        stride = -(-len(points) // POINTS) or 1
        thinned = points[-1::-stride][::-1]  # always with the last point
        tags |= {f"harness.curve.{name}": " ".join(thinned)} if thinned else {}
    return tags


def summary(result: Result) -> dict[str, float]:
    """All scores with standard errors and n, numbers of checks, seconds by phase, the number of test evaluations."""
    seconds = {f"seconds/{phase}": seconds for phase, seconds in result.seconds.items()}
    scores = {**score_metrics(result.scores), **check_metrics(result.checks)}
    return {"test_touches": result.test_evaluations, **scores, **seconds}


def check_metrics(checks: list[Check]) -> dict[str, float]:
    """The numbers of the check whose numbers tables show: `check/depends_on_weights/<map>/rank` and others."""
    shown = [check for check in checks if check.name == DEPENDS_ON_WEIGHTS]
    return {f"check/{check.name}/{name}": number for check in shown for name, number in check.numbers.items()}


def score_metrics(scores: list[Score]) -> dict[str, float]:
    """All scores with standard errors and counts, named so that MLflow groups them by split.

    n is logged once per split, as `images`, and for each score of fewer images.
    """
    summary: dict[str, float] = {}
    for score in scores:
        split, _, name = score.name.partition("/")
        whole = max(s.n for s in scores if s.name.startswith(f"{split}/"))
        summary |= {score.name: score.mean, f"{split}_stderr/{name}": score.stderr, f"{split}_n/images": whole}
        summary |= {f"{split}_{kind}/{name}": count for kind, count in score.counts.items()}
        summary |= {f"{split}_version/{name}": score.version} if score.version > 1 else {}
        summary |= {f"{split}_n/{name}": score.n} if score.counts or score.n < whole else {}
    return summary


def data_inputs(result: Result) -> list[tuple[str, str, str]]:
    """The data sets of a run: name, digest and what each is used for; the test images once the net was tested."""
    used = {"train": "training", "val": "validation"} | ({"test": "test"} if result.of("test") else {})
    name = result.trial.data.name
    return [(name, result.checksums[part], use) for part, use in used.items() if part in result.checksums]


def data_tags(result: Result) -> dict[str, str]:
    """Tags with the checksum of every part, and how many damaged images were left out of which."""
    tags = {f"harness.data.{part}": checksum for part, checksum in result.checksums.items()}
    counts = ", ".join(f"{part} {n}" for part, n in result.damaged.items())
    return tags | ({"harness.data.damaged": counts} if counts else {})


def run_note(job: Job, outcome: Outcome, cell: str, searched: tuple[str, ...]) -> str:
    """Markdown note of a run for its MLflow page: role, settings, outcome, failed checks."""
    title = f"Repetition {job.number} of the winner" if job.role == "seed" else f"Trial {job.number}"
    title += " (the published setting)" if job.role == "search" and job.number == 0 else ""
    values = {path: value for path, value in job.trial.flat().items() if path in searched}
    settings = ", ".join(f"`{path}` {format_setting(job.trial, path, value)}" for path, value in values.items())
    lines = [f"{title} of **{cell}**{f': {settings}' if settings else ''}.", f"It is {outcome.state}"]
    lines[1] += f" after {outcome.epoch} epochs{f': {outcome.reason}' if outcome.reason else ''}."
    if outcome.result and outcome.result.checks:
        failed = [f"- {c.name}: {c.about}" for c in outcome.result.checks if c.passed is False]
        passed = ", ".join(c.name for c in outcome.result.checks if c.passed)
        lines += ["Checks in doubt:\n" + "\n".join(failed)] if failed else []
        lines += [f"Checks passed: {passed}."]
    return "\n\n".join(lines)


def metric_tags(scores: list[Score]) -> dict[str, str]:
    """A tag per metric of a plug-in: how reports show it."""
    found = {name for score in scores if (name := ScoreName.parse(score.name).metric) in METRICS.keys() - OURS}
    return {f"harness.metric.{name}": as_text(METRICS[name]) for name in sorted(found)}


def check_tags(checks: list[Check]) -> dict[str, str]:
    """A tag per check: verdict and message; the message alone says that a check was not asked."""
    verdicts = {True: "passed: ", False: "doubt: ", None: ""}
    return {f"harness.check.{c.name}": verdicts[c.passed] + c.about for c in checks}


def environment_tags() -> dict[str, str]:
    """Tags with package versions, git commit and protocol version."""
    code = {f"harness.{name}": text for name, text in provenance.code().items()}
    source = {"mlflow.source.name": "saliency-harness", "mlflow.source.type": "LOCAL"}
    if commit := provenance.commit():
        source["mlflow.source.git.commit"] = commit.split()[0]
    return {"harness.protocol": str(TRAINING_VERSION), **code, **source}
