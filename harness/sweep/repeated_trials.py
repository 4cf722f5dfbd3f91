"""Trials of an Optuna study that run again in the place of a failed one, whose rungs they take over.

A repeated trial goes on from the checkpoint of the failed one: what that reported, and the decisions at its rungs,
stand. So of the two only the later one counts at a rung.
"""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

REPEATS = "repeats"  # user attribute of a trial in the place of a failed one, whose number it is
RUNG = "completed_rung_"  # beginning of the system attributes by which Optuna's pruner knows who reached a rung


def enqueue(study: optuna.Study, failed: FrozenTrial) -> None:
    """Let a failed trial run again, as `Study.enqueue_trial` does, with the rungs that it has reached."""
    rungs = {name: value for name, value in failed.system_attrs.items() if name.startswith(RUNG)}
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            user_attrs={REPEATS: failed.number},
            system_attrs={"fixed_params": dict(failed.params), **rungs},
            intermediate_values=dict(failed.intermediate_values),
        )
    )


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without those in whose place there is a later one."""
    latest = {t.user_attrs[REPEATS]: t.number for t in trials if REPEATS in t.user_attrs}
    return [t for t in trials if t.number not in latest and latest.get(t.user_attrs.get(REPEATS), t.number) == t.number]


class CountingOnce:
    """A study, of whose trials a pruner sees those of `counted`."""

    def __init__(self, study: optuna.Study):
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return counted(self._study.get_trials(deepcopy, states))
