"""Rank correlation (Kendall's tau) of early epochs with the final ranking of the trials."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.analyse import counted_runs
from reports.analyse.curves import curve, curve_name, searched_trials

CELLS, TRIALS = 2, 6  # minimum number per epoch for a correlation


@dataclass(frozen=True)
class Rung:
    """Rank correlation tau in [-1, 1] of n trials between an epoch and the end. curve: score of the curve."""

    epoch: int
    tau: float
    n: int
    curve: str


def rung_agreement(runs: pd.DataFrame) -> list[Rung]:
    """How well each epoch of the validation curve predicts the final ranking of the trials by the first goal.

    Kendall's tau-b between the curve at that epoch and the final goal on validation, over the pairs of complete trials
    of the same cell, pooled over cells. An epoch needs at least `TRIALS` trials in at least `CELLS` cells with two
    or more trials. If the goal has no curve, that of robust accuracy is used; `Rung.curve` names it.

    Only complete trials enter. Pruned ones are those that an early epoch separates most easily, so tau is biased low;
    good trials that were pruned are not visible."""
    goal = counted_runs.goals(runs)[0]
    finished = searched_trials(runs, goal)
    name = curve_name(finished, goal)
    if not name:
        return []
    values: dict[int, list[tuple[str, float, float]]] = {}  # epoch -> cell, value there, final value
    for cell, text, final in zip(finished["cell"], finished[f"curve:{name}"], finished[goal], strict=True):
        for epoch, value in curve(text):
            values.setdefault(epoch, []).append((cell, value, final))
    rungs = []
    for epoch, points in sorted(values.items()):
        sizes = Counter(cell for cell, _, _ in points)
        cells = [cell for cell, size in sizes.items() if size > 1]
        n = sum(sizes[cell] for cell in cells)
        if len(cells) < CELLS or n < TRIALS:
            continue
        tau = _tau([np.array([p[1:] for p in points if p[0] == cell]) for cell in cells])
        if math.isfinite(tau):
            rungs.append(Rung(epoch, tau, n, name))
    return rungs


def _tau(cells: list[np.ndarray]) -> float:
    """Kendall's tau-b of two columns over the pairs within each array (n, 2); NaN if all pairs of a column are tied."""
    agree = first = second = 0.0
    for points in cells:
        signs = np.sign(points[:, None] - points[None, :])  # every pair twice, which cancels in the ratio
        agree += float((signs[..., 0] * signs[..., 1]).sum())
        first += float(np.abs(signs[..., 0]).sum())
        second += float(np.abs(signs[..., 1]).sum())
    return agree / math.sqrt(first * second) if first and second else math.nan
