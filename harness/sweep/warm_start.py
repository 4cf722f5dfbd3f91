"""Outcomes of an earlier study of the same output that a new one is told: its sampler knows them, nothing else does.

Only complete trials are taken, with the settings and scores of their stored results: of the cell of the same name, with
the same method and goal protocol, and inside the new domains. Other settings may differ, such as the epochs.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from harness.config.search_domains import contains
from harness.config.space import Cell
from harness.config.trial import Trial, build
from harness.data import datasets
from harness.data.datasets import Data
from harness.errors import UserError, unknown_name
from harness.evaluation.scores import Score
from harness.storage.sealed_json import read_json
from harness.storage.workspace import Workspace
from harness.sweep.plan import Plan
from harness.sweep.study import DUPLICATE_OF, KNOWN_FROM
from harness.trials import measure
from harness.trials.result import RESULT
from methods import Setting

UNRELATED = ("measure.suites", "measure.watch", "measure.images")  # to how a goal is measured in the end


@dataclass(frozen=True)
class Known:
    """The outcome of an earlier trial. values: of the searched paths. scores: by name. source: its study and number.

    differing: paths of the other settings that the new study has otherwise.
    """

    values: Mapping[str, Setting]
    scores: Mapping[str, float]
    source: str
    differing: tuple[str, ...] = ()


@dataclass(frozen=True)
class WarmStart:
    """known: study -> outcomes that it is told. skipped: why others are not taken -> their number."""

    experiment: str
    known: Mapping[str, Sequence[Known]]
    skipped: Mapping[str, int]

    def __str__(self) -> str:
        told = sum(map(len, self.known.values()))
        cells = sum(map(bool, self.known.values()))
        left = ", ".join(f"{number} {why}" for why, number in self.skipped.items())
        differing = sorted({path for outcomes in self.known.values() for known in outcomes for path in known.differing})
        other = f", trained or measured with other {', '.join(differing)}" if differing else ""
        return (
            f"warm start from {self.experiment}: the search of {cells} of {len(self.known)} cells knows {told} trials"
            f"{other}; not taken: {left or 'none'}"
        )


def read(planned: Plan, experiment: str, storage: BaseStorage, workspace: Workspace) -> WarmStart:
    """What the studies of an experiment tell those of a plan.

    Raises `UserError` for an unknown experiment, and for trials of other data or of another version of training or
    measuring, whose scores are not comparable.
    """
    names = optuna.get_all_study_names(storage)
    if not any(name.startswith(f"{experiment}/") for name in names):
        raise unknown_name("--warm-start: experiment", experiment, {name.partition("/")[0] for name in names})
    skipped: collections.Counter[str] = collections.Counter()
    known: dict[str, list[Known]] = {}
    for study, cell in planned.studies.items():
        known[study] = []
        data = datasets.load(cell.trial.data, workspace)
        for name in names:
            if name != study and name.startswith(f"{experiment}/{cell.name} @"):
                trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
                for found in _outcomes(name, trials, planned, cell, data, workspace):
                    if isinstance(found, Known):
                        known[study].append(found)
                    else:
                        skipped[found] += 1
    return WarmStart(experiment, known, skipped)


def _outcomes(
    study: str, trials: Sequence[FrozenTrial], planned: Plan, cell: Cell, data: Data, workspace: Workspace
) -> Iterator[Known | str]:
    """The outcomes, or in words why a trial is not taken."""
    for trial in trials:
        if {DUPLICATE_OF, KNOWN_FROM} & trial.user_attrs.keys() or not trial.state.is_finished():
            continue
        if trial.state != TrialState.COMPLETE:
            yield "pruned or failed"
            continue
        key = str(trial.user_attrs.get("key", ""))
        record = read_json(workspace.fetched(workspace.trial(key)) / RESULT) if key else None
        if record is None:
            yield "without a stored result"
            continue
        yield _outcome(f"{study} #{trial.number}", key, record, planned, cell, data)


def _outcome(source: str, key: str, record: Mapping[str, Any], planned: Plan, cell: Cell, data: Data) -> Known | str:
    settings = {path: tuple(v) if isinstance(v, list) else v for path, v in record["trial"].items()}
    earlier, new = build(settings), cell.trial.flat()
    flat = earlier.flat()
    if flat["method"] != new["method"] or not cell.search.keys() <= flat.keys():
        return "of another method"
    _check_comparable(source, key, earlier, record, cell, data)
    measured = [path for path in new if path.startswith(("measure.", "attribution.")) and path not in UNRELATED]
    if any(flat.get(path) != new[path] for path in measured):
        return "measured by another protocol"
    scores = {score["name"]: score["mean"] for score in record["scores"]}
    if any(name not in scores for name in (*planned.space.goals, *planned.space.floor)):
        return "without the goal"
    values = {path: flat[path] for path in cell.search}
    if not all(contains(cell.search[path], value) for path, value in values.items()):
        return "outside the domains"
    differing = tuple(p for p, value in new.items() if p not in {*cell.search, "seed"} and flat.get(p) != value)
    return Known(values, scores, source, differing)


def _check_comparable(source: str, key: str, earlier: Trial, record: Mapping[str, Any], cell: Cell, data: Data) -> None:
    if earlier.key != key:
        raise UserError(f"--warm-start: {source} was trained by another version; its scores are not comparable")
    if record["checksums"] != data.checksums:
        raise UserError(f"--warm-start: {source} has other data than cell {cell.name!r}; its scores are not comparable")
    measured = measure.versions_of(Score(**score) for score in record["scores"] if score["name"].startswith("val/"))
    if lacking := measure.missing(earlier, data.val, measured):
        raise UserError(
            f"--warm-start: {source} has {lacking[0]} by another version of measuring; its scores are not comparable"
        )
