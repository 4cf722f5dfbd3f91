"""Winner selection: the best complete trial above the floor, or the Pareto front of several goals."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState


def select_winners(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Non-dominated complete trials above the floor; with a single goal the earliest of the best.

    A trial's constraints are floor minus score (feasible if <= 0). Pruned and failed trials never win.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    above = [t for t in complete if all(deficit <= 0 for deficit in t.constraints.values())]
    front = [t for t in above if not any(dominates(other.values, t.values) for other in above)]
    single = bool(front) and len(front[0].values) == 1
    return front[:1] if single else front


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a is at least as good as b in every goal, and better in one."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))
