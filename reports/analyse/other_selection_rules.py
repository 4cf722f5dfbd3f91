"""Scores of a leaderboard row under alternative selection rules (best seed, best epoch, by clean accuracy)."""

import math
from dataclasses import dataclass

import pandas as pd

from reports.analyse import counted_runs
from reports.analyse.curves import gaps, searched_trials
from reports.analyse.missing import column_of


@dataclass(frozen=True)
class Rule:
    """The reported score of a row, and those under other selection rules; NaN if unknown.

    On test: reported, the mean over seeds; best_seed, the highest of them, selected on test. First goal on validation:
    searched, of the winner in the search that selected it; fresh, mean of its seed runs, free of selection bias;
    published, of the published setting; by_clean, of the trial with the best clean accuracy. best_epoch: gain of the
    best epoch of the validation curve over the last (`gaps`).
    """

    row: str
    reported: float
    best_seed: float
    searched: float
    fresh: float
    published: float
    by_clean: float
    best_epoch: float


def rules(runs: pd.DataFrame) -> list[Rule]:
    """The scores of every leaderboard row under each selection rule; sorted by row."""
    tested, goal, ranked = counted_runs.tested(runs), counted_runs.goals(runs)[0], counted_runs.ranked_by(runs)
    finished, gap = searched_trials(runs, goal), gaps(runs)
    result = []
    for row, seeds in tested.groupby("row", sort=True):
        trials = finished[finished["cell"] == seeds["cell"].iloc[0]]
        winners = set(column_of(seeds, "winner").dropna()) - {""}
        goals = column_of(trials, goal)
        clean = column_of(trials, "val/clean").dropna().sort_values(ascending=False, kind="stable")
        rule = Rule(
            row=row,
            reported=float(seeds[ranked].mean()),
            best_seed=float(seeds[ranked].max()),
            searched=float(goals[trials["key"].isin(winners)].max()),
            fresh=float(column_of(seeds, goal).mean()),
            published=float(goals[(trials["number"] == 0).fillna(False)].max()),
            by_clean=float(goals[clean.index[0]]) if len(clean) else math.nan,
            best_epoch=gap[row].gain if row in gap else math.nan,
        )
        result.append(rule)
    return result
