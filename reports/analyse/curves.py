"""Validation curves: best against last epoch, training time per epoch, and the finished trials of the search.

All functions take the table of `reports.read.runs.read` and skip pruned and failed runs. Missing columns give no row,
or NaN; a malformed curve raises `UserError`."""

import math
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
import pandas as pd

from harness.errors import UserError
from reports.analyse import counted_runs, stats
from reports.analyse.missing import column_of, is_missing
from reports.read import score_names


@dataclass(frozen=True)
class Gap:
    """Best and last value of a validation curve, means over seeds; epoch: median best epoch; curve: its score."""

    best: float
    last: float
    epoch: float
    curve: str

    @property
    def gain(self) -> float:
        """Of the best epoch over the last."""
        return self.best - self.last


def curve(text: str | float | None) -> list[tuple[int, float]]:
    """Parse a field such as `6:0.23 12:0.31` into (epoch, value); empty if missing, without non-finite values.

    Raises `UserError` for any other text."""
    points = []
    for point in "" if is_missing(text) else str(text).split():
        epoch, _, value = point.partition(":")
        try:
            points.append((int(epoch), float(value)))
        except ValueError:
            raise UserError(f"a curve is made of points such as 6:0.23, not {point!r}") from None
    return [point for point in points if math.isfinite(point[1])]


def gaps(runs: pd.DataFrame) -> dict[str, Gap]:
    """Leaderboard row -> gap between best and last epoch over its seed runs.

    The curve is that of the goal, else of robust accuracy. A last epoch well below the best indicates robust
    overfitting (Rice et al., ICML 2020). The best of many epochs is biased upwards, so a small gap is no evidence."""
    tested = counted_runs.tested(runs)
    name = curve_name(tested, counted_runs.goals(runs)[0])
    gaps_by_row = {}
    for row, seeds in tested.groupby("row", sort=True) if name else []:
        curves = [points for points in map(curve, seeds[f"curve:{name}"]) if points]
        if curves:
            best = [max(points, key=lambda point: point[1]) for points in curves]  # ties: the earliest
            epoch = float(median(epoch for epoch, _ in best))
            gaps_by_row[row] = Gap(fmean(v for _, v in best), fmean(points[-1][1] for points in curves), epoch, name)
    return gaps_by_row


def epoch_seconds(runs: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Leaderboard row -> device-seconds of training per epoch: mean over its seed runs, half of its 95 % interval."""
    tested = counted_runs.tested(runs)
    epochs = pd.to_numeric(column_of(tested, "param:epochs"), errors="coerce")
    per_epoch = (column_of(tested, "seconds/train") / epochs).where(epochs > 0)
    return {row: stats.interval(per_epoch[seeds.index]) for row, seeds in tested.groupby("row", sort=True)}


def searched_trials(runs: pd.DataFrame, goal: str) -> pd.DataFrame:
    """The complete trials of the search that have a finite goal."""
    done = runs[(runs["role"] == "search") & (runs["state"] == "complete")]
    return done[np.isfinite(column_of(done, goal))]


def curve_name(rows: pd.DataFrame, goal: str) -> str:
    """Name of the goal's curve, or of robust accuracy's if the goal has none; "" if neither exists."""
    names = (score_names.on(goal, ""), "robust")
    return next((name for name in names if f"curve:{name}" in rows and rows[f"curve:{name}"].notna().any()), "")


def to_number(text: str) -> float:
    """A setting's text as a number, NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
