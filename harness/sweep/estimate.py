"""Estimate of the device time of a sweep (`--dry-run`)."""

from typing import TYPE_CHECKING

from harness.sweep.forecast import Shape, task
from harness.sweep.plan import Plan

if TYPE_CHECKING:
    from harness.config.space import Cell
    from harness.config.trial import Trial
    from harness.data.datasets import Data
    from harness.storage.workspace import Workspace

CHECK_PASSES, CHECK_IMAGES = 60, 256  # of the checks of a tested net and its gallery, roughly


def estimate_cost(planned: Plan, workspace: "Workspace") -> str:
    """Upper bound on device time, from one timed training step per method, without teachers and their maps."""
    from harness.data import datasets
    from harness.trials import teachers
    from harness.trials.step_cost import epoch_seconds

    cache: dict[tuple, float] = {}

    def seconds_per_image(trial: "Trial", shape: tuple[int, int, int]) -> float:
        kind = (trial.method, trial.model, trial.batch, shape)
        if kind not in cache:
            cache[kind] = epoch_seconds(trial, trial.batch, shape, workspace.device) / trial.batch
        return cache[kind]

    training = evaluation = 0.0
    for cell in planned.studies.values():
        trial, data = cell.trial, datasets.load(cell.trial.data, workspace)
        shape = data.val.shape  # after cropping
        runs = planned.trials + planned.seeds
        training += runs * trial.epochs * len(data.train) * seconds_per_image(trial, shape)
        plain = teachers.teacher_trial(trial, "standard")
        passes = _image_passes(cell, data)
        evaluation += seconds_per_image(plain, shape) * (runs * passes["val"] + planned.seeds * passes["test"])
    return (
        f"at most about {(training + evaluation) / 60:.1f} minutes of one {workspace.device} device"
        f" ({training / 60:.1f} to train, {evaluation / 60:.1f} to measure), by one step of each method;"
        " teachers and their maps not included"
    )


def pass_seconds(planned: Plan, workspace: "Workspace") -> float:
    """Seconds of a pass of an image, as far as one training step of the plain method on this machine tells."""
    from harness.data import datasets
    from harness.trials import teachers
    from harness.trials.step_cost import epoch_seconds

    trial = next(iter(planned.studies.values())).trial
    shape = datasets.load(trial.data, workspace).val.shape
    return epoch_seconds(teachers.teacher_trial(trial, "standard"), trial.batch, shape, workspace.device) / trial.batch


def _image_passes(cell: "Cell", data: "Data") -> dict[str, int]:
    from harness.evaluation import cost
    from harness.evaluation.measurements import EvaluationContext

    trial, boxes, masks = cell.trial, data.val.boxes is not None, data.val.masks is not None
    context = EvaluationContext(trial.measure, trial.attribution, data.val.shape, boxes=boxes, masks=masks)
    return cost.image_passes(context, trial.epochs, len(data.val), len(data.test))


def shapes(planned: Plan, workspace: "Workspace") -> dict[str, Shape]:
    """What is known of the trials of each study, and of the maps that they need, before any is timed."""
    from harness.data import datasets
    from harness.explain.maps import for_training
    from harness.sweep.job_types import Job
    from harness.trials.prerequisites import prerequisites

    found = {}
    for study, cell in planned.studies.items():
        trial, data = cell.trial, datasets.load(cell.trial.data, workspace)
        passes, watch = _image_passes(cell, data), trial.measure.watch
        found[study] = Shape(
            watch=watch,
            halving=planned.space.halving if len(planned.space.goals) == 1 else 0,
            train=len(data.train),
            curve=passes["curve"] / -(-trial.epochs // watch),
            val=passes["val"] - passes["curve"],
            test=passes["test"] + CHECK_PASSES * min(CHECK_IMAGES, len(data.test)),
        )
        for needed in prerequisites(trial):
            if needed.maps:
                cost = for_training(needed.maps.saliency).passes * len(data.train)
                found[task(Job.of(needed)).kind] = Shape(watch=0, train=cost)
    return found


def dry_run(planned: Plan, workspace: "Workspace") -> str:
    """Text of --dry-run: cells, domains, number of trials, estimated cost."""
    from harness.config.setting_text import format_setting

    lines = [f"{planned.named.name} on {planned.data}: {planned.named.question}", ""]
    for cell in planned.studies.values():
        control = "  (control)" if cell.control else ""
        lines.append(f"{cell.name}{control}: {cell.trial.model}, {cell.trial.epochs} epochs")
        for path, value in cell.published().items():
            inside, published = (format_setting(cell.trial, path, one) for one in (cell.search[path], value))
            lines.append(f"    {path:<16} {inside}; published {published}")
    cells = len(planned.studies)
    least = "at least " if len(planned.space.goals) > 1 else ""  # every trial of a Pareto front is repeated
    lines += [
        "",
        f"{cells} cells x {planned.trials} trials = {cells * planned.trials} trials,"
        f" goal {', '.join(planned.space.goals)};"
        f" then {planned.seeds} seeds of each winner = {least}{cells * planned.seeds} trials, tested once each",
        estimate_cost(planned, workspace),
    ]
    return "\n".join(lines)
