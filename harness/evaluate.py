"""Evaluate a net: a trial by its key, a cell of a space, or an external model.

    python -m harness.evaluate --trial 1973b1de3595 --suite full --test          # a finished trial, by its key
    python -m harness.evaluate --space attribution --cell art --suite attribution,attribution-legacy
    python -m harness.evaluate --model resnet18 --weights FILE --data cifar10 --suite autoattack --test --images 1000
    python -m harness.evaluate --model package.module:callable --data cifar10 --suite paper-sat --test
    python -m harness.evaluate --model package.module:callable --data cub --suite localization --features layer4
    python -m harness.evaluate --model nets.py:make --weights FILE --weights-key state_dict_ema --data cifar10
    python -m harness.evaluate --model timm:resnet18 --weights FILE --data cifar10 --suite autoattack,autoattack-l2
    python -m harness.evaluate --model hf:FOLDER --data cifar10 --test

Results are stored and not measured again; an interrupted evaluation is resumed. The verdicts of the checks are printed
after the scores.
"""

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path

from torch import nn

from harness import cli
from harness.arguments import filled, path, whole
from harness.config.chosen_cells import choose
from harness.config.trial import Trial, build, check_settings_used
from harness.errors import UserError, complain, exit_status
from harness.evaluation import suites
from harness.evaluation.checks.evidence import format_checks
from harness.evaluation.evaluator import format_score, no_progress
from harness.evaluation.external.outputs import failures_of
from harness.evaluation.external.weights import silent
from harness.storage.workspace import Workspace
from harness.sweep.progress import EvaluationProgress
from harness.tracking.mlflow_client import check_writable
from harness.trials import run
from harness.trials.evaluate_stored import (
    Evaluation,
    Target,
    evaluate,
    external_target,
    load_trial,
    synthesise,
    trial_target,
)


def log_to_mlflow(evaluation: Evaluation, extra: list[Path], uri: str, workspace: Workspace) -> str:
    """Log an evaluation to the MLflow experiment `evaluations`. extra: further artifacts.

    Returns what the store did not take, with the command that delivers it; "" if it took everything.
    """
    from harness.tracking import delivery
    from harness.tracking.run_content import check_metrics, environment_tags, score_metrics
    from harness.tracking.tracker import Tracker

    name = f"{evaluation.file.parent.name} {evaluation.file.stem}"
    tags = {"harness.sweep": "evaluations", **environment_tags()}
    tracker = Tracker(workspace, "evaluations", tags, f"evaluations-{name.replace(' ', '-')}")
    file = evaluation.file
    artifacts = (file, file.with_suffix(".npz"), file.with_name(f"{file.stem}-attacked.npz"), *extra)
    files = [path for path in artifacts if path.exists()]
    metrics = {**score_metrics(evaluation.scores), **check_metrics(evaluation.checks)}
    tracker.log_evaluation(name, evaluation.settings, metrics, evaluation.checks, files)
    return delivery.deliver_all(uri, tracker.log, workspace).failure()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = cli.parser("harness.evaluate", __doc__, single=True)
    p.set_defaults(space=None)
    p.add_argument("--trial", metavar="KEY", help="a trial under --out, instead of a space and a cell")
    p.add_argument(
        "--model",
        help="external model: package.module:callable, file.py:callable, timm:NAME, hf:FOLDER, or a net here",
    )
    p.add_argument("--weights", type=path, metavar="FILE", help="weights of --model, by torch.save or safetensors")
    p.add_argument(
        "--weights-key", type=filled, metavar="KEY", help="the state dict in --weights to load, such as state_dict_ema"
    )
    p.add_argument("--features", metavar="LAYER", help="last feature layer of --model, such as layer4, for CAM maps")
    p.add_argument(
        "--suite", default="standard", help=f"comma-separated: {', '.join(suites.SUITES)} (default standard)"
    )
    p.add_argument("--other", metavar="KEY", help="a trial of another seed, for the transfer check")
    p.add_argument(
        "--samples", type=whole(0), default=0, metavar="N", help="also synthesise N images per class with the net"
    )
    p.add_argument(
        "--retrain", action="store_true", help="train a trial again whose weights were not kept, as it won nothing"
    )
    p.add_argument("--tracking-uri", type=filled, metavar="URI", help="also log the result to this MLflow store")
    p.add_argument(
        "--images",
        type=whole(0, 1_000_000_000),
        default=0,
        metavar="N",
        help="measure on the first N images only (0: all)",
    )
    return p.parse_args(argv)


def _resolve(args: argparse.Namespace, workspace: Workspace) -> tuple[Trial, Trial | None]:
    """The requested measurement settings, and the trial to measure; None for an external model."""
    overrides = cli.overrides(args)
    measuring = {path: value for path, value in overrides.items() if path.startswith(("measure.", "attribution."))}
    training = {path: value for path, value in overrides.items() if path not in measuring}
    named = [f"--{n}" for n in ("trial", "space", "model") if getattr(args, n) is not None]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} each name what is measured; give one")
    if args.cell is not None and named and named != ["--space"]:
        raise UserError(f"--cell needs --space, but {named[0]} names what is measured")
    if args.weights and not args.model:
        raise UserError("--weights needs --model: a net of harness.models, or package.module:callable")
    if args.weights_key is not None and not args.weights:
        raise UserError("--weights-key needs --weights: it names a part of that file")
    if args.features is not None and not args.model:
        raise UserError("--features needs --model: it names a layer of that net")
    suite = ",".join(dict.fromkeys(name.strip() for name in args.suite.split(",")))
    if args.model is not None:
        wrong = next((path for path in training if path != "data" and not path.startswith("data.")), None)
        if wrong:
            raise UserError(f"{wrong} is fixed by --model; only data, measure.* and attribution.* can be set")
        trial, requested = None, build({**training, **measuring, "measure.suites": suite})
    else:
        if args.trial is not None and training:
            raise UserError(f"{next(iter(training))} is fixed by --trial; only measure.* and attribution.* can be set")
        if args.trial is not None:
            trial = load_trial(args.trial, workspace)
        else:
            chosen = choose(
                cli.space("sat" if args.space is None else args.space),
                [] if args.cell is None else [args.cell],
                training,
            )
            cell = cli.choose_cell(chosen.cells, None)
            trial = dataclasses.replace(cell.trial, seed=args.seed)
        requested = build({**trial.flat(), "measure.suites": suite, **measuring})
    check_settings_used(requested, measuring)
    return requested, trial


def _other(key: str, target: Target, workspace: Workspace, retrain: bool) -> tuple[str, nn.Module]:
    """Key and net of another trial on the same data. Raises `UserError` for the same trial or other data."""
    if key == target.metadata.get("trial"):
        raise UserError(f"--other {key} is the trial that is measured; name one of another seed")
    trial = load_trial(key, workspace)
    net, result = run.trained_model(trial, workspace, retrain=retrain)
    if result.checksums != target.data.checksums:
        raise UserError(f"--other {key} was trained on other data, {trial.data.name!r}")
    return key, net


def main() -> int:
    args = arguments()
    cli.use_kept_plugins(args)
    workspace = cli.workspace(args)
    requested, trial = _resolve(args, workspace)
    if not args.quiet:
        print(f"{f'trial {trial.key}' if trial else args.model} ({args.suite}) on {workspace.device}", flush=True)
        if names := ", ".join(requested.plugins):
            print(f"plug-ins, as they were kept: {names}" if trial else f"plug-ins: {names}", flush=True)
    if args.other is not None:  # said before hours of training
        load_trial(args.other, workspace)
    if args.tracking_uri is not None:
        check_writable(args.tracking_uri)
    if trial:
        target = trial_target(trial, requested, workspace, retrain=args.retrain)
    else:
        say = silent if args.quiet else print
        target = external_target(
            args.model, args.weights, requested, workspace, args.features, key=args.weights_key, say=say
        )
    other = _other(args.other, target, workspace, args.retrain) if args.other is not None else None
    counter = EvaluationProgress()
    progress = no_progress if args.quiet else counter
    split = "test" if args.test else "val"
    with failures_of(args.model) if args.model else contextlib.nullcontext():
        evaluation = evaluate(
            target, requested, workspace, split=split, images=args.images, other=other, progress=progress
        )
    counter.close()
    for text in (*map(format_score, evaluation.scores), *format_checks(evaluation.checks)):
        print(text)
    pages = [synthesise(target, workspace, args.samples)] if args.samples else []
    for page in pages:
        print(f"samples: {page}")
    if args.tracking_uri is not None and (failure := log_to_mlflow(evaluation, pages, args.tracking_uri, workspace)):
        complain(f"error: {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
