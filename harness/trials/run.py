"""Run one trial: load data, prepare maps, train, validate, test.

A trial's folder is named by its key. Finished steps are not repeated; interrupted ones are resumed.
"""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping

from torch import nn

import methods
from harness.config.trial import Trial
from harness.data import datasets
from harness.data.datasets import Data, Split
from harness.errors import UserError, one_line
from harness.evaluation import evaluator, gallery, suites
from harness.evaluation.evaluator import Progress, no_progress
from harness.evaluation.scores import Ledger, Score, load_images
from harness.storage import plugin_copies
from harness.storage.files import CorruptFile, quarantine
from harness.storage.sealed_json import read_json, write_json
from harness.storage.weights import load_weights
from harness.storage.workspace import Workspace
from harness.training import training_maps
from harness.training.epoch_metrics import EpochMetrics
from harness.training.teacher_maps import Teacher
from harness.trials import test_evaluations
from harness.trials.measure import Part, measure, missing, part_of, same_measurements, versions_of
from harness.trials.nets import CHECKPOINT, WEIGHTS, initial_net, load_net, no_report, read_weights, train_net
from harness.trials.prerequisites import teacher_of
from harness.trials.result import (
    GALLERY,
    RESULT,
    Result,
    check_same_data,
    describe_machine,
    load_result,
    record_test_evaluation,
    store_result,
    weights_fault,
)
from harness.trials.teachers import teacher_trial


def run(
    trial: Trial,
    workspace: Workspace,
    *,
    report: Callable[[EpochMetrics], None] = no_report,
    progress: Progress = no_progress,
    test: bool = False,
) -> Result:
    """Train and validate a trial, and with `test` measure it on the test images; finished steps are skipped.

    report(row) is called for every epoch, including those of an earlier, interrupted run. progress(done, of, key) is
    called before each measurement of the trained net, first on the validation and then on the test images. No lock is
    taken: a sweep runs equal trials one after the other, and a command calls `run_alone`. Raises `UserError` for bad
    input, `Diverged` for a loss that is not finite.
    """
    return _run(trial, workspace, report, progress, test)[0]


def run_alone(
    trial: Trial, workspace: Workspace, *, report: Callable[[EpochMetrics], None] = no_report, test: bool = False
) -> Result:
    """`run` for a command: it waits for others that run the same trial. Raises `UserError` while a sweep runs."""
    with workspace.writing(workspace.trial(trial.key)):
        return run(trial, workspace, report=report, test=test)


def trained_model(trial: Trial, workspace: Workspace, *, retrain: bool = False) -> tuple[nn.Module, Result]:
    """The trained net on the device, in evaluation mode, and its result; trains it first if it never was.

    retrain: train it again if it has a result and no weights, as a search trial that won nothing; otherwise that raises
    `UserError`.
    """
    folder = workspace.trial(trial.key)
    ended, stored = workspace.has(folder / RESULT), workspace.has(folder / WEIGHTS)
    if ended and not stored and not retrain:
        raise _no_weights(trial)
    if ended and stored:
        with contextlib.suppress(CorruptFile):  # then it is trained again
            return _evaluated(trial, workspace, may_train=False)  # what a sweep removes meanwhile stays removed
    with workspace.writing(folder):
        return _evaluated(trial, workspace)


def _evaluated(trial: Trial, workspace: Workspace, may_train: bool = True) -> tuple[nn.Module, Result]:
    result, net = _run(trial, workspace, no_report, no_progress, test=False, needs_net=True, may_train=may_train)
    return net().eval(), result


def _no_weights(trial: Trial) -> UserError:
    return UserError(
        f"trial {trial.key} has a result and no weights, which are kept of winners and seeds; --retrain trains it again"
    )


def _run(
    trial: Trial,
    workspace: Workspace,
    report: Callable[[EpochMetrics], None],
    progress: Progress,
    test: bool,
    needs_net: bool = False,
    may_train: bool = True,
) -> tuple[Result, Callable[[], nn.Module]]:
    """The result, and a function for the trained net, whose weights are loaded at most once.

    A trial with a result and no weights is trained again if the net is needed, as for its first test.
    """
    data = datasets.load(trial.data, workspace)
    evaluator.check(trial.measure, trial.attribution, data, trial.data.name)
    folder = workspace.trial(trial.key)
    with workspace.synchronised(folder, alone=True) as push_if_due:
        stored = (folder / WEIGHTS).exists()
        weights = read_weights(folder)
        if weights is None and not may_train:
            raise CorruptFile(f"the weights of trial {trial.key} are damaged") if stored else _no_weights(trial)
        if stored and weights is None and (folder / RESULT).exists():
            quarantine(folder / RESULT)  # of the net whose weights are damaged
        result = load_result(trial, folder, data)
        if result and weights is None and (needs_net or (test and not result.of("test"))):
            if result.test_evaluations:
                raise UserError(
                    f"trial {trial.key} was tested with weights that are gone, and is not trained again;"
                    f" restore {str(folder / WEIGHTS)!r}"
                )
            (folder / RESULT).unlink()  # of weights that nothing has: on a GPU, others may come out
            result = None
        if result is None:

            def on_epoch(row: EpochMetrics) -> None:
                push_if_due()
                report(row)

            result, trained = _train(trial, workspace, data, on_epoch, progress)
        else:
            trained = None
            for row in result.rows:
                report(row)

        @functools.cache
        def net() -> nn.Module:
            return trained or load_net(trial, data, workspace, weights or load_weights(folder / WEIGHTS))

        if test and (lacking := missing(trial, data.test, versions_of(result.of("test")))):
            result = _test(result, net, workspace, data, lacking, progress)
        if test and not (folder / GALLERY).exists():
            _store_gallery(trial, net, workspace, data)
    return result, net


def _train(
    trial: Trial, workspace: Workspace, data: Data, report: Callable[[EpochMetrics], None], progress: Progress
) -> tuple[Result, nn.Module]:
    folder = workspace.trial(trial.key)
    stored = read_json(folder / "trial.json")
    if stored and (folder / CHECKPOINT).exists():
        check_same_data(stored["checksums"], trial, folder, data)
    else:
        Ledger(folder / "measuring-val").clear()  # scores of earlier weights
    plugin_copies.keep(trial.plugins, workspace)
    write_json(folder / "trial.json", {"settings": trial.flat(), "checksums": data.checksums})

    val = data.val.to(workspace.device)
    if trial.measures_attribution:
        evaluator.check_net(initial_net(trial, data, workspace), trial.measure, trial.attribution, val)
    prepared = _prepare_maps(trial, data, workspace)
    watched = val.head(trial.measure.images)
    last: list[Score] = []  # of the trained net, on all validation images

    def watch(net: nn.Module, done: int) -> EpochMetrics:
        if done % trial.measure.watch and done != trial.epochs:
            return {}
        scores = evaluator.evaluate(net, watched, trial.measure, name="curve", suite=suites.robust_suite)
        if done == trial.epochs and len(watched) == len(val):
            last.extend(scores)
        return {s.name: s.mean for s in scores}

    net, rows = train_net(trial, data, workspace, folder, maps=prepared.maps, watch=watch, report=report)
    known = same_measurements(last, trial, Part("val", val))
    measured = measure(net, Part("val", val), trial, folder / "measuring-val", stored=known, progress=progress)
    seconds = {**prepared.seconds, "train": sum(row["seconds"] for row in rows), "val": measured.seconds}
    machine = describe_machine(workspace.device)
    result = Result(trial, measured.scores, rows, seconds, data.checksums, machine, damaged=data.damaged)
    store_result(result, folder, "val")
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result, net


def _prepare_maps(trial: Trial, data: Data, workspace: Workspace) -> training_maps.TrainingMaps:
    """The maps that the method trains on, if any; their teacher is trained first if needed."""
    if not methods.reads_maps(trial.method):
        return training_maps.TrainingMaps()
    training_maps.check(trial.maps, data, trial.data.name)

    def teacher(method: str) -> Teacher:
        return teacher_of(teacher_trial(trial, method), workspace)

    return training_maps.prepare_maps(trial.maps, data, workspace, teacher, seed=trial.seed)


def _test(
    result: Result,
    net: Callable[[], nn.Module],
    workspace: Workspace,
    data: Data,
    lacking: list[str],
    progress: Progress,
) -> Result:
    """Measure on the test images what the result lacks: everything, or what its suites have gained since it was tested.

    The test evaluation is recorded first, so that an interrupted one counts. Validation scores stay as they are: they
    selected the winners.
    """
    trial, folder = result.trial, workspace.trial(result.trial.key)
    before = result.of("test")
    if before and not (folder / WEIGHTS).exists():  # damaged ones were noticed when they were read
        _warn_lacking(trial, lacking, weights_fault(folder))
        return result
    model = net()
    part = part_of(data, "test", trial, workspace)
    result = record_test_evaluation(result, workspace)
    stored, examples = load_images(folder / "test.npz", before), folder / "attacked.npz"
    measured = measure(
        model, part, trial, folder / "measuring-test", stored=stored, examples=examples, progress=progress
    )
    seconds = {**result.seconds, "test": result.seconds.get("test", 0.0) + measured.seconds}
    scores = result.of("val") + measured.scores
    evaluations = test_evaluations.count(folder, result.test_evaluations)  # with those of other commands meanwhile
    result = dataclasses.replace(
        result, scores=scores, seconds=seconds, checks=measured.checks, test_evaluations=evaluations
    )
    if not before:
        (folder / GALLERY).unlink(missing_ok=True)  # of earlier weights
    store_result(result, folder, "test")
    return result


def measured_later(trial: Trial, measured: Mapping[str, int], test: Split, workspace: Workspace) -> list[str]:
    """What `run` would measure on the stored weights of a tested trial, which its suites have gained since.

    measured: its test scores by name, without `test/`, and the versions they were measured by. test: the images. Where
    the weights are gone or damaged a warning says so, and there is nothing to measure.
    """
    lacking = missing(trial, test, measured)
    if not lacking:
        return []
    folder = workspace.fetched(workspace.trial(trial.key))
    if reason := weights_fault(folder) or ("" if read_json(folder / RESULT) else "it has no result.json"):
        _warn_lacking(trial, lacking, reason)
        return []
    return lacking


def _warn_lacking(trial: Trial, lacking: list[str], reason: str) -> None:
    warnings.warn(f"trial {trial.key} has no {', '.join(lacking)}, which cannot be measured: {reason}", stacklevel=3)


def _store_gallery(trial: Trial, net: Callable[[], nn.Module], workspace: Workspace, data: Data) -> None:
    """Store the gallery of a tested net. Failure is a warning only: the scores are stored already."""
    try:
        file = workspace.trial(trial.key) / GALLERY
        gallery.store_gallery(file, net(), data, trial.measure, trial.attribution, device=workspace.device)
    except (RuntimeError, UserError) as error:  # such as out of memory
        warnings.warn(f"no gallery of trial {trial.key}: {one_line(error)}", stacklevel=2)
