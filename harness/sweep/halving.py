"""Asynchronous successive halving (ASHA): whether a trial continues past a rung.

Optuna's pruner decides, so the rungs are stored in the study and survive an interruption. Rungs are validated epochs,
spaced by powers of the reduction factor; the best 1/factor of the trials that reached a rung continue. Li et al.
(2020), A System for Massively Parallel Hyperparameter Tuning.
"""

from typing import cast

import optuna
from optuna.trial import FrozenTrial

from harness.sweep.repeated_trials import CountingOnce
from harness.training.epoch_metrics import EpochMetrics

STOPPED = "stopped"  # user attribute of a pruned trial: the epoch of pruning


def pruner(factor: int, goals: int, first: int) -> optuna.pruners.BasePruner:
    """The Optuna pruner. factor: reduction factor, 0 for no pruning; goals: number of goals; first: first rung's epoch.

    With several goals no trial is pruned: Optuna's pruners compare a single value.
    """
    if not factor or goals > 1:
        return optuna.pruners.NopPruner()
    return _Halving(min_resource=first, reduction_factor=factor)


class _Halving(optuna.pruners.SuccessiveHalvingPruner):
    """Optuna's pruner, for which a trial that runs again in the place of a failed one counts once."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return super().prune(cast(optuna.Study, CountingOnce(study)), trial)


def stops(proposal: optuna.trial.Trial, goal: str, row: EpochMetrics, reported: set[int]) -> bool:
    """Report the goal's curve at this epoch to Optuna; whether to prune the trial. goal: such as `val/robust`.

    reported: epochs that were reported before a restart, or by the trial that this one repeats; their decision stands.
    """
    curve = goal.replace("val/", "curve/")
    if curve not in row:
        return False
    epoch = int(row["epoch"])
    if epoch in reported:
        return proposal.user_attrs.get(STOPPED) == epoch
    proposal.report(row[curve], epoch)
    stop = proposal.should_prune()
    if stop:
        proposal.set_user_attr(STOPPED, epoch)
    return stop
