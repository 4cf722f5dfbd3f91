"""Build the leaderboard: one row per cell, test scores of its winner over several seeds."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from harness.evaluation.metrics import DEPENDS_ON_WEIGHTS
from harness.evaluation.score_name import ScoreName
from reports.analyse import counted_runs, curves, other_selection_rules, published, rank_groups, stats
from reports.analyse.missing import column_of
from reports.analyse.rows import (
    Cost,
    Difference,
    Figure,
    Images,
    Leaderboard,
    Published,
    Resampled,
    Row,
    Seconds,
    Setting,
    Trials,
    WithRandomWeights,
)
from reports.read import score_names
from reports.read.artifacts import Files

LEVEL = 0.95


def build_leaderboard(runs: pd.DataFrame, files: Files | None = None) -> Leaderboard:
    """One row per cell of the sweep in `runs` (of `reports.read.runs.read`): best first, unfinished ones last.

    Means are over the runs of `reports.analyse.counted_runs.tested`. A cell with several winners (several goals) has a
    row for each. files: artifacts of the runs; without them there are no paired comparisons."""
    tested = counted_runs.tested(runs)
    goals = tuple(score_names.on(goal, "test") for goal in counted_runs.goals(runs))
    ranked, scores = goals[0], _measured(tested, goals)
    cells = runs.drop_duplicates("cell").sort_values("order", kind="stable")
    control_runs = _control_runs(cells, tested)
    rows = list(_rows(cells["cell"], runs, tested, ranked, scores))
    rows.sort(key=lambda row: -row.figure(ranked).mean if row.seeds else math.inf)
    seeds = {name: tested[tested["row"] == name] for name in (row.name for row in rows if row.seeds)}
    rows = _against(rows, seeds, control_runs, ranked)
    rows = _grouped(rows, seeds, ranked, scores)
    rows = _paired(rows, seeds, ranked, files or Files())
    rows = _selected_otherwise(rows, runs)
    rows = _on_front(rows, goals)
    return Leaderboard(tuple(rows), ranked, goals, scores, _first(_texts(control_runs, "row")))


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


# Rows by themselves


def _rows(
    cells: Iterable[str], runs: pd.DataFrame, tested: pd.DataFrame, ranked: str, scores: Sequence[str]
) -> Iterator[Row]:
    """The rows in the order of the cells, not yet compared with each other."""
    reasons = counted_runs.failures(runs).groupby("cell")["reason"].agg(list).to_dict()
    place = itertools.count()
    for cell in cells:
        cell_runs, cell_tested = runs[runs["cell"] == cell], tested[tested["cell"] == cell]
        if cell_tested.empty:
            row = _row(cell, next(place), cell_runs, cell_runs, cell_tested, ranked, scores)
            yield replace(row, not_finished=counted_runs.unfinished(cell_runs, reasons.get(cell, [])))
        for position, (name, seeds) in enumerate(cell_tested.groupby("row", sort=True)):
            # Of several winners the first is charged the cost of the whole cell without the other winners' seeds.
            charged = cell_runs if not position else seeds
            charged = charged[~charged["run_id"].isin(cell_tested.loc[cell_tested["row"] != name, "run_id"])]
            row = _row(name, next(place), cell_runs, charged, seeds, ranked, scores)
            yield replace(row, settings=_settings(cell_runs, seeds))


def _row(
    name: str,
    place: int,
    cell_runs: pd.DataFrame,
    charged: pd.DataFrame,
    seeds: pd.DataFrame,
    ranked: str,
    scores: Sequence[str],
) -> Row:
    """A row of these seed runs, which may be none. charged: the runs that its cost is of."""
    doubts = counted_runs.failed_checks(seeds)
    return Row(
        name=name,
        cell=str(cell_runs.iloc[0]["cell"]),
        place=place,
        control=bool(cell_runs.iloc[0]["control"]),
        method=_first(_texts(cell_runs, "param:method")),
        data=_first(_texts(cell_runs, "param:data")),
        cost=_cost(charged, seeds),
        figures=_figures(seeds, ranked, scores),
        seeds=len(seeds),
        winner=_first(_texts(seeds, "winner")),
        val=stats.interval(column_of(seeds, score_names.on(ranked, "val")), LEVEL)[0],
        val_images=_most_images(seeds, "val"),
        test_images=_most_images(seeds, "test"),
        doubts=None if doubts is None else tuple(doubts),
        random_weights=_random_weights(seeds),
    )


def _figures(seeds: pd.DataFrame, ranked: str, scores: Sequence[str]) -> dict[str, Figure]:
    columns = [c for c in seeds.columns if c.startswith("param:") and not c.startswith("param:search.")]
    params = {c.removeprefix("param:"): texts[0] for c in columns if (texts := _texts(seeds, c))}
    figures = {}
    for name in scores:
        mean, half = stats.interval(seeds[name], LEVEL)
        figures[name] = Figure(
            mean,
            half,
            seeds=int(seeds[name].notna().sum()),
            measured=bool(_measures(seeds, name).any()),
            versions=_versions(seeds, name),
            images=_images(seeds, name),
            published=_published(params, name, mean, half),
            resampled=_resampled(seeds[name]) if name == ranked else None,
        )
    return figures


def _measures(seeds: pd.DataFrame, name: str) -> pd.Series:
    """Which runs measured a score, be it on no image."""
    return seeds[name].notna() | column_of(seeds, score_names.on(name, "test_n")).notna()


def _versions(seeds: pd.DataFrame, name: str) -> tuple[int, ...]:
    """The distinct versions of measuring, oldest first; a run that recorded none is of version 1."""
    versions = column_of(seeds, score_names.on(name, "test_version"))[_measures(seeds, name)].fillna(1)
    return tuple(sorted({int(version) for version in versions}))


def _images(seeds: pd.DataFrame, name: str) -> Images:
    if not score_names.attribution(name) or score_names.is_minor(name):
        return Images()
    kinds = {"counted": "n", "wrong": "wrong", "dropped": "dropped", "failed": "failed"}
    columns = {kind: score_names.on(name, f"test_{prefix}") for kind, prefix in kinds.items()}
    return Images(**{kind: float(seeds[column].mean()) for kind, column in columns.items() if column in seeds})


def _published(params: Mapping[str, str], name: str, mean: float, half: float) -> Published | None:
    figure = published.lookup(params, name)
    if figure is None or math.isnan(mean):
        return None
    value = figure["value"] / 100
    return Published(
        id=figure["id"],
        value=value,
        difference=mean - value,
        covered=None if math.isnan(half) else abs(mean - value) <= half,
        source=f"{figure['paper']}, {figure['table']}",
        note=figure["note"],
    )


def _most_images(seeds: pd.DataFrame, part: str) -> float:
    sizes = [c for c in seeds.columns if c.startswith(f"{part}_n/")]
    return float(seeds[sizes].max(axis=None)) if sizes and len(seeds) else math.nan


def _cost(charged: pd.DataFrame, seeds: pd.DataFrame) -> Cost:
    search = charged.loc[charged["role"] == "search", "state"]
    complete, pruned, failed, running = (
        int((search == state).sum()) for state in ("complete", "pruned", "failed", "running")
    )
    teacher, maps, train = (
        float(column_of(seeds, f"seconds/{phase}").mean()) for phase in ("teacher", "maps", "train")
    )
    evaluation = _row_sum(seeds, ["seconds/val", "seconds/test"]).mean()
    all_runs = _row_sum(charged, ["seconds/train", "seconds/val", "seconds/test"]).sum(min_count=1)
    return Cost(
        trials=Trials(complete, pruned, failed, running),
        seeds_failed=int(((charged["role"] == "seed") & (charged["state"] == "failed")).sum()),
        touches=int(column_of(charged, "test_touches").sum()),
        seconds=Seconds(teacher, maps, train, float(evaluation), float(all_runs)),
    )


def _random_weights(seeds: pd.DataFrame) -> dict[str, WithRandomWeights]:
    """Beside the nets with random weights: the maps that a run was checked for."""
    start, end = f"check/{DEPENDS_ON_WEIGHTS}/", "/rank"
    found = {}
    for column in sorted(c for c in seeds.columns if c.startswith(start) and c.endswith(end)):
        name = column.removeprefix(start).removesuffix(end)
        if checked := int(seeds[column].notna().sum()):
            similarities = ("rank", "ssim", "rank_random", "ssim_random")
            means = {what: float(column_of(seeds, f"{start}{name}/{what}").mean()) for what in similarities}
            depends = int((column_of(seeds, f"{start}{name}/depends") == 1).sum())
            found[name] = WithRandomWeights(**means, seeds=checked, depends=depends)
    return found


def _settings(cell_runs: pd.DataFrame, seeds: pd.DataFrame) -> dict[str, Setting]:
    settings = {}
    for column in cell_runs.columns:
        path = column.removeprefix("param:search.")
        if path != column and (domain := _texts(cell_runs, column)):
            settings[path] = Setting(tuple(_texts(seeds, f"param:{path}")), domain[0])
    return settings


def _resampled(values: pd.Series) -> Resampled | None:
    if len(values) < stats.SEEDS:
        return None
    low, high = stats.bootstrap(values, level=LEVEL)
    iqm_low, iqm_high = stats.bootstrap(values, stats.interquartile_mean, LEVEL)
    return Resampled(low, high, stats.interquartile_mean(values), iqm_low, iqm_high)


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


# Columns of the table of runs


def _row_sum(rows: pd.DataFrame, names: Iterable[str]) -> pd.Series:
    """Sum of columns per row, with missing values as 0; missing if all are."""
    return pd.DataFrame({n: column_of(rows, n) for n in names}, index=rows.index).sum(axis=1, min_count=1)


def _texts(rows: pd.DataFrame, column: str) -> list[str]:
    """The distinct values of a text column, in order of appearance."""
    return [str(v) for v in rows[column].dropna().unique()] if column in rows else []


def _first(texts: list[str]) -> str:
    return texts[0] if texts else ""
