"""Figures from papers, and which of them may stand beside one of ours.

`published.csv` has one figure a line, in per cent as printed in the authors' slides (ablations: as in their plotting
scripts), row by row of each table. `row` and `column` are the table's own, `protocol` says in words how the figure was
measured. `settings` names what has to agree with our run besides data set, method, saliency, teacher and the score's
name (which holds steps, restarts and eps), so an ablation's figure meets only a run at that very point. Names joined by
| are equally good. An empty teacher means that the maps need none (boxes, masks), an empty score that nothing of ours
is to stand there."""

import math
from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path

import pandas as pd

from reports.scores import attack

FIGURES = Path(__file__).with_name("published.csv")
# Suites that measure as the papers did, whatever a run's own settings are: steps of the attack, and its step.
_SUITES = {"paper-sat": (5, 2 / 255), "paper-art": (40, 2 / 255)}


@cache
def figures() -> pd.DataFrame:
    """All figures, a row each, numbered from 0, their `id`; in the order in which the tables are printed.

    Columns: paper, table, row, column, data, method, saliency, teacher, settings, score, printed (the value's text),
    value (in %), protocol, note."""
    text = pd.read_csv(FIGURES, dtype=str, keep_default_na=False).rename(columns={"value": "printed"})
    return text.assign(value=text["printed"].astype(float))


def lookup(params: Mapping[str, str], score: str) -> dict[str, object] | None:
    """The published figure for a run with these parameters (dotted path -> text) and a score, if any.

    A figure is a row of `figures` and its `id`. Of several that agree, the one that fixes the most settings. Runs on a
    part of the images have no counterpart."""
    if _number(params.get("data.limit", "0")) != 0:
        return None
    saliency, teacher = params.get("maps.saliency", ""), params.get("maps.teacher", "")
    ours = {**params, "measure.step": step(params, score)}
    fitting = [
        figure
        for figure in _asked().get((params.get("data", ""), params.get("method", ""), score), ())
        if saliency in figure["saliency"].split("|")
        and figure["teacher"] in ("", teacher)
        and _agrees(figure["settings"], ours)
    ]
    found = max(fitting, key=lambda figure: len(figure["settings"].split()), default=None)
    return None if found is None else dict(found)


@cache
def alike(figure: int) -> tuple[int, ...]:
    """The ids of this figure and of those that repeat it in other tables: equal in value and in what they are of.

    So a run that meets it, by its id, stands beside all of them: they ask for no more settings than it does."""
    this = figures().loc[figure]
    fixed = set(this["settings"].split())
    return tuple(
        other["id"]
        for other in _asked()[this["data"].split("|")[0], this["method"], this["score"]]
        if all(other[of] == this[of] for of in ("data", "saliency", "teacher", "value"))
        and fixed.issuperset(other["settings"].split())
    )


@cache
def _asked() -> dict[tuple[str, str, str], list[dict[str, object]]]:
    """Data set, method and score -> the figures for them: reports look up thousands of scores."""
    found = defaultdict(list)
    for figure, row in enumerate(figures().to_dict("records")):
        for data in row["data"].split("|"):
            found[data, row["method"], row["score"]].append({"id": figure, **row})
    return dict(found)


def _agrees(settings: str, ours: Mapping[str, str | float]) -> bool:
    pairs = (setting.partition("=")[::2] for setting in settings.split())
    return all(_same(ours.get(path), wanted) for path, wanted in pairs)


def _same(ours: str | float | None, wanted: str) -> bool:
    number = _number(wanted)
    return ours == wanted if math.isnan(number) else math.isclose(_number(ours), number, rel_tol=1e-6, abs_tol=1e-9)


def step(params: Mapping[str, str], score: str) -> float:
    """The step of the attack behind the score: that of a paper's suite, else, of the run's own attack, `measure.step`.

    All other attacks, and those where that is 0, are made in steps of 2.5 * eps / steps."""
    eps, steps, restarts = attack(score) or (math.nan, 1, 1)
    for suite, (its_steps, its_step) in _SUITES.items():
        if suite in params.get("measure.suites", "") and steps == its_steps:
            return its_step
    is_own = all(
        path not in params or _number(params[path]) == count
        for path, count in (("measure.steps", steps), ("measure.restarts", restarts))
    )
    size = _number(params.get("measure.step", "0")) if is_own else 0
    return size if size != 0 else 2.5 * eps / 255 / steps


@cache
def _number(text: str | float | None) -> float:
    try:
        return float(Fraction(text))
    except (TypeError, ValueError, ZeroDivisionError):
        return math.nan
