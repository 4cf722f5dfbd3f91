"""Build the leaderboard: one row per cell, test scores of its winner over several seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from harness.evaluation.score_name import ScoreName
from reports.analyse import counted_runs, curves, other_selection_rules, rank_groups, stats
from reports.analyse.cell_rows import LEVEL, cell_rows, first_of, texts_of
from reports.analyse.rows import Difference, Leaderboard, Row
from reports.read import score_names
from reports.read.artifacts import Files


def build_leaderboard(runs: pd.DataFrame, files: Files | None = None) -> Leaderboard:
    """One row per cell of the sweep in `runs` (of `reports.read.runs.read`): best first, unfinished ones last.

    Means are over the runs of `reports.analyse.counted_runs.tested`. A cell with several winners (several goals) has a
    row for each. files: artifacts of the runs; without them there are no paired comparisons."""
    tested = counted_runs.tested(runs)
    goals = tuple(score_names.on(goal, "test") for goal in counted_runs.goals(runs))
    ranked, scores = goals[0], _measured(tested, goals)
    cells = runs.drop_duplicates("cell").sort_values("order", kind="stable")
    control_runs = _control_runs(cells, tested)
    rows = list(cell_rows(cells["cell"], runs, tested, ranked, scores))
    rows.sort(key=lambda row: -row.figure(ranked).mean if row.seeds else math.inf)
    seeds = {name: tested[tested["row"] == name] for name in (row.name for row in rows if row.seeds)}
    rows = _against(rows, seeds, control_runs, ranked)
    rows = _grouped(rows, seeds, ranked, scores)
    rows = _paired(rows, seeds, ranked, files or Files())
    rows = _selected_otherwise(rows, runs)
    rows = _on_front(rows, goals)
    control = first_of(texts_of(control_runs, "row"))
    return Leaderboard(tuple(rows), ranked, goals, scores, control, _removed(runs), _ends(runs))


def _ends(runs: pd.DataFrame) -> tuple[str, ...]:
    """What ended the search before all trials, a sentence each."""
    return tuple(runs["search_end"].dropna().unique()) if "search_end" in runs else ()


def _removed(runs: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """The cells of the column `removed`: name, and what there is."""
    texts = runs["removed"].dropna().unique() if "removed" in runs else []
    pairs = (line.partition("\t") for text in texts for line in text.split("\n"))
    return tuple((name, about) for name, _, about in pairs)


def cell_figures(leaderboard: Leaderboard, cell: str) -> dict[str, float]:
    """The figures of a cell's first row: scores that tables show, their validation counterpart, number of seeds."""
    row = next((row for row in leaderboard.rows if row.name in (cell, f"{cell} #1")), None)
    if row is None:
        return {}
    figures = {name: row.figure(name).mean for name in leaderboard.shown}
    figures |= {score_names.on(leaderboard.ranked_by, "val"): row.val, "seeds": float(row.seeds)}
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def _measured(tested: pd.DataFrame, goals: Sequence[str]) -> tuple[str, ...]:
    names = [c for c in tested.columns if c.startswith("test/") and tested[c].notna().any()]
    return tuple(sorted(names, key=lambda name: score_names.sort_key(name, *goals)))


def _control_runs(cells: pd.DataFrame, tested: pd.DataFrame) -> pd.DataFrame:
    """The seed runs that differences refer to: those of the first control's first winner."""
    control = next(iter(cells.loc[cells["control"], "cell"]), None)
    control_runs = tested[tested["cell"] == control]
    return control_runs[control_runs["row"] == control_runs["row"].min()]


# Rows beside each other, the best first; seeds: name of a finished row -> its seed runs


def _against(
    rows: Sequence[Row], seeds: Mapping[str, pd.DataFrame], control_runs: pd.DataFrame, ranked: str
) -> list[Row]:
    """With the difference to the control."""
    control = control_runs[ranked]
    others = [name for name in seeds if name not in set(control_runs["row"])]
    differences = {name: Difference(*stats.difference(seeds[name][ranked], control, LEVEL)) for name in others}
    return [replace(row, difference=differences.get(row.name, Difference())) for row in rows]


def _grouped(rows: Sequence[Row], seeds: Mapping[str, pd.DataFrame], ranked: str, scores: Sequence[str]) -> list[Row]:
    """With rank groups, and in every column with the best figures."""
    groups = dict(zip(seeds, rank_groups.tied([list(of[ranked]) for of in seeds.values()], LEVEL), strict=True))
    signs = {score: {"higher": 1, "lower": -1, "": 0}[ScoreName.parse(score).about.better] for score in scores}
    best = {
        score: rank_groups.best([list(sign * of[score]) for of in seeds.values()], LEVEL)  # the highest is best
        for score, sign in signs.items()
        if sign
    }
    among_best = {name: {score: of[i] for score, of in best.items()} for i, name in enumerate(seeds)}
    result = []
    for row in rows:
        figures = {n: replace(f, best=among_best.get(row.name, {}).get(n, False)) for n, f in row.figures.items()}
        result.append(replace(row, group=groups.get(row.name), figures=figures))
    return result


def _paired(rows: Sequence[Row], seeds: Mapping[str, pd.DataFrame], ranked: str, files: Files) -> list[Row]:
    """With the comparison of every row with the first, image by image."""
    stacks = {name: _stack(of["run_id"], ranked, files) for name, of in seeds.items()}
    first = next(iter(stacks), "")
    pairs = {
        name: stats.paired(stack, stacks[first], LEVEL)
        for name, stack in stacks.items()
        if name != first and stack.size and stack.shape[1] == stacks[first].shape[1]
    }
    corrected = stats.holm(pair.p for pair in pairs.values())
    pairs = {name: replace(pair, p=p) for (name, pair), p in zip(pairs.items(), corrected, strict=True)}
    return [replace(row, paired=pairs.get(row.name)) for row in rows]


def _stack(run_ids: Iterable[str], score: str, files: Files) -> np.ndarray:
    """Per-image values of every seed run, (S, N) float64; (0, 0) if any run has none."""
    arrays = [files.images.get(run_id, {}).get(score) for run_id in run_ids]
    known = [a for a in arrays if a is not None]
    if not known or len(known) < len(arrays) or any(a.shape != known[0].shape for a in known):
        return np.empty((0, 0))
    return np.stack(known).astype(np.float64)


def _selected_otherwise(rows: Sequence[Row], runs: pd.DataFrame) -> list[Row]:
    """With the scores under other selection rules, and the gap between best and last epoch."""
    rules, gaps = {rule.row: rule for rule in other_selection_rules.rules(runs)}, curves.gaps(runs)
    return [replace(row, rule=rules.get(row.name), gap=gaps.get(row.name)) for row in rows]


def _on_front(rows: Sequence[Row], goals: Sequence[str]) -> list[Row]:
    """With several goals: whether each row that has all of them is on the Pareto front."""
    if len(goals) < 2:
        return list(rows)
    means = [[row.figure(goal).mean for goal in goals] for row in rows]
    on = zip(rows, means, stats.front(means), strict=True)
    return [replace(row, front=None if any(map(math.isnan, of)) else strong) for row, of, strong in on]
