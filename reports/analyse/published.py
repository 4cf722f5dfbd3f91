"""Published figures from papers, and the lookup of the one that is comparable with a run.

`published.csv` has one figure per line, in per cent as printed in the authors' slides (ablations: as in their plotting
scripts), row by row of each table. `row` and `column` are those of the table, `protocol` describes how the figure was
measured. `settings` lists what has to agree with a run besides data set, method, saliency, teacher and the score's
name (which contains steps, restarts and eps), so an ablation's figure matches only runs with exactly that setting.
| separates alternatives. An empty teacher means that the maps need none (boxes, masks), an empty score that no
measured score is comparable."""

import math
from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TypedDict, cast

import pandas as pd

from reports.read.score_names import attack


class PublishedFigure(TypedDict):
    """A line of `published.csv`. id: its index in `figures`; printed: the value's text; value: in per cent."""

    id: int
    paper: str
    table: str
    row: str
    column: str
    data: str
    method: str
    saliency: str
    teacher: str
    settings: str
    score: str
    printed: str
    value: float
    protocol: str
    note: str


FIGURES = Path(__file__).parents[1] / "published.csv"
# Suites with the papers' attacks, independent of the run's settings: number of steps, and step size.
_SUITES = {"paper-sat": (5, 2 / 255), "paper-art": (40, 2 / 255)}


@cache
def figures() -> pd.DataFrame:
    """All figures, one per row, in the order of the printed tables. The index, from 0, is their `id`.

    Columns: paper, table, row, column, data, method, saliency, teacher, settings, score, printed (the value's text),
    value (in %), protocol, note."""
    text = pd.read_csv(FIGURES, dtype=str, keep_default_na=False).rename(columns={"value": "printed"})
    return text.assign(value=text["printed"].astype(float))


@cache
def records() -> list[PublishedFigure]:
    """All figures, as `figures` has them."""
    return [cast(PublishedFigure, {"id": i, **row}) for i, row in enumerate(figures().to_dict("records"))]


def lookup(params: Mapping[str, str], score: str) -> PublishedFigure | None:
    """The published figure comparable with a score of a run with these parameters (dotted path -> text), if any.

    Of several that match, the one with the most settings. Runs on a subset of
    the images match none."""
    if _number(params.get("data.limit", "0")) != 0:
        return None
    saliency, teacher = params.get("maps.saliency", ""), params.get("maps.teacher", "")
    settings: dict[str, str | float] = {
        **params,
        "measure.step": step(params, score),
        "attribution.step": _number(params.get("attribution.step", "0"))
        or _number(params.get("attribution.eps", "0")) / 8,
    }
    matching = [
        figure
        for figure in _by_key().get((params.get("data", ""), params.get("method", ""), score), ())
        if saliency in figure["saliency"].split("|")
        and figure["teacher"] in ("", teacher)
        and _agrees(figure["settings"], settings)
    ]
    best = max(matching, key=lambda figure: len(figure["settings"].split()), default=None)
    return None if best is None else best.copy()


@cache
def alike(figure: int) -> tuple[int, ...]:
    """The ids of this figure and of its repetitions in other tables: equal value, data, maps and teacher.

    A run that matches this figure matches all of them: they require no further settings."""
    this = records()[figure]
    fixed = set(this["settings"].split())
    return tuple(
        candidate["id"]
        for candidate in _by_key()[this["data"].split("|")[0], this["method"], this["score"]]
        if _what(candidate) == _what(this) and fixed.issuperset(candidate["settings"].split())
    )


def _what(figure: PublishedFigure) -> tuple[str, str, str, float]:
    return figure["data"], figure["saliency"], figure["teacher"], figure["value"]


@cache
def _by_key() -> dict[tuple[str, str, str], list[PublishedFigure]]:
    """(data set, method, score) -> figures. An index, since reports look up thousands of scores."""
    by_key: dict[tuple[str, str, str], list[PublishedFigure]] = defaultdict(list)
    for figure in records():
        for data in figure["data"].split("|"):
            by_key[data, figure["method"], figure["score"]].append(figure)
    return dict(by_key)


def _agrees(settings: str, run_settings: Mapping[str, str | float]) -> bool:
    pairs = (setting.partition("=")[::2] for setting in settings.split())
    return all(_same(run_settings.get(path), wanted) for path, wanted in pairs)


def _same(actual: str | float | None, wanted: str) -> bool:
    number = _number(wanted)
    return actual == wanted if math.isnan(number) else math.isclose(_number(actual), number, rel_tol=1e-6, abs_tol=1e-9)


def step(params: Mapping[str, str], score: str) -> float:
    """Step size of the attack behind a score: that of a paper's suite, else, for the run's own attack, `measure.step`.

    For all other attacks, and if that is 0, it is 2.5 * eps / steps."""
    eps, steps, restarts = attack(score) or (math.nan, 1, 1)
    for suite, (suite_steps, suite_step) in _SUITES.items():
        if suite in params.get("measure.suites", "") and steps == suite_steps:
            return suite_step
    is_own = all(
        path not in params or _number(params[path]) == count
        for path, count in (("measure.steps", steps), ("measure.restarts", restarts))
    )
    size = _number(params.get("measure.step", "0")) if is_own else 0
    return size if size != 0 else 2.5 * eps / 255 / steps


@cache
def _number(text: str | float | None) -> float:
    try:
        return math.nan if text is None else float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return math.nan
