"""The rows of the cells by themselves: figures, cost and settings of each winner's seed runs, not yet compared."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from harness.evaluation.metrics import DEPENDS_ON_WEIGHTS
from reports.analyse import counted_runs, published, stats
from reports.analyse.missing import column_of
from reports.analyse.rows import (
    Cost,
    Figure,
    Images,
    Published,
    Resampled,
    Row,
    Seconds,
    Setting,
    Trials,
    WithRandomWeights,
)
from reports.read import score_names

LEVEL = 0.95


def cell_rows(
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
        method=first_of(texts_of(cell_runs, "param:method")),
        data=first_of(texts_of(cell_runs, "param:data")),
        cost=_cost(charged, seeds),
        figures=_figures(seeds, ranked, scores),
        seeds=len(seeds),
        winner=first_of(texts_of(seeds, "winner")),
        val=stats.interval(column_of(seeds, score_names.on(ranked, "val")), LEVEL)[0],
        val_images=_most_images(seeds, "val"),
        test_images=_most_images(seeds, "test"),
        doubts=None if doubts is None else tuple(doubts),
        random_weights=_random_weights(seeds),
    )


def _figures(seeds: pd.DataFrame, ranked: str, scores: Sequence[str]) -> dict[str, Figure]:
    columns = [c for c in seeds.columns if c.startswith("param:") and not c.startswith("param:search.")]
    params = {c.removeprefix("param:"): texts[0] for c in columns if (texts := texts_of(seeds, c))}
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
        if path != column and (domain := texts_of(cell_runs, column)):
            settings[path] = Setting(tuple(texts_of(seeds, f"param:{path}")), domain[0])
    return settings


def _resampled(values: pd.Series) -> Resampled | None:
    if len(values) < stats.SEEDS:
        return None
    low, high = stats.bootstrap(values, level=LEVEL)
    iqm_low, iqm_high = stats.bootstrap(values, stats.interquartile_mean, LEVEL)
    return Resampled(low, high, stats.interquartile_mean(values), iqm_low, iqm_high)


# Columns of the table of runs


def _row_sum(rows: pd.DataFrame, names: Iterable[str]) -> pd.Series:
    """Sum of columns per row, with missing values as 0; missing if all are."""
    return pd.DataFrame({n: column_of(rows, n) for n in names}, index=rows.index).sum(axis=1, min_count=1)


def texts_of(rows: pd.DataFrame, column: str) -> list[str]:
    """The distinct values of a text column, in order of appearance."""
    return [str(v) for v in rows[column].dropna().unique()] if column in rows else []


def first_of(texts: list[str]) -> str:
    """The first of these texts; "" if there is none."""
    return texts[0] if texts else ""
