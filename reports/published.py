"""Figures from papers, and which of them may stand beside one of ours.

`published.csv` has one figure a line, in per cent as printed. `settings` names what has to agree with our run
besides data set, method, saliency, teacher and the score's name (which holds steps, restarts and eps), so an
ablation's figure meets only a run at that very point. An empty teacher means that the maps need none (boxes,
masks)."""

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path

import pandas as pd

from reports.scores import attack

FIGURES = Path(__file__).with_name("published.csv")


@cache
def figures() -> pd.DataFrame:
    """All figures: paper, table, data, method, saliency, teacher, settings, score, value (in %), note."""
    text = pd.read_csv(FIGURES, dtype=str, keep_default_na=False)
    return text.assign(value=text["value"].astype(float))


def lookup(params: Mapping[str, str], score: str) -> dict[str, object] | None:
    """The published figure for a run with these parameters (dotted path -> text) and a score, if any.

    Of several that agree, the one that fixes the most settings. Runs on a part of the images have no
    counterpart."""
    if _number(params.get("data.limit", "0")) != 0:
        return None
    about = {"data": params.get("data"), "method": params.get("method"), "score": score}
    about["saliency"] = params.get("maps.saliency", "")
    table = figures()
    for name, value in about.items():
        table = table[table[name] == value]
    table = table[table["teacher"].isin(["", params.get("maps.teacher", "")])]
    fitting = [row for row in table.to_dict("records") if _agrees(row["settings"], params, score)]
    return max(fitting, key=lambda row: len(row["settings"].split()), default=None)


def _agrees(settings: str, params: Mapping[str, str], score: str) -> bool:
    for setting in settings.split():
        path, _, wanted = setting.partition("=")
        ours = _step(params, score) if path == "measure.step" else _number(params.get(path))
        if not math.isclose(ours, _number(wanted), rel_tol=1e-6, abs_tol=1e-9):
            return False
    return True


def _step(params: Mapping[str, str], score: str) -> float:
    """The step of the attack behind the score; a setting of 0 stands for 2.5 * eps / steps."""
    step = _number(params.get("measure.step"))
    eps, steps, _ = attack(score) or (math.nan, 1, 1)
    return step if step != 0 else 2.5 * eps / 255 / steps


def _number(text: str | None) -> float:
    try:
        return float(Fraction(text))
    except (TypeError, ValueError, ZeroDivisionError):
        return math.nan
