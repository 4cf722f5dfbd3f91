"""A report as one HTML page that needs nothing else: no network, no script to read it; light, dark, print."""

from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from reports import plots, scores, selection, tables, words

TEMPLATE = Path(__file__).with_name("page.html.jinja")


def html(runs: pd.DataFrame, board: pd.DataFrame, name: str) -> str:
    """The page of a board and the runs it was made of. Equal input gives equal text; all of it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"breakable": _breakable, "glued": _glued}
    first, *others = tables.every(runs, board)
    done = words.finished(board)
    return environment.get_template(TEMPLATE.name).render(
        name=name,
        headline=words.headline(board),
        sweep=_text(runs.iloc[0].get("sweep")),
        ranking=first if first.key == "ranking" else None,
        tables=others if first.key == "ranking" else [first, *others],
        ranked=_ranked(done.iloc[0]["ranked_by"]) if len(done) else "",
        control=words.against(done),
        spread=_spread(runs, done) if len(done) else None,
        curves=_curves(done),
        attack=scores.family(*family) if (family := _family(done)) else "",
        reading=words.reading(runs, board),
    )


def _spread(runs: pd.DataFrame, done: pd.DataFrame) -> dict[str, object]:
    """The plot of the ranked score: (cell, number, SVG) of every row, and the SVG of the scale."""
    score = done.iloc[0]["ranked_by"]
    tested = selection.tested(runs)
    rows = done.to_dict("records")
    dots = [
        plots.Dot(
            row[score],
            row[f"half:{score}"],
            tuple(tested.loc[tested["row"] == row["cell"], score]),
            "control" if row["control"] else "best" if row["group"] == 1 else "rest",
        )
        for row in rows
    ]
    control = [row[score] for row in rows if row["cell"] == words.against(done)]
    drawn, axis = plots.intervals(dots, *control, least=scores.least(score))
    numbers = [words.with_interval(row[score], row[f"half:{score}"]) for row in rows]
    return {"rows": list(zip((row["cell"] for row in rows), numbers, drawn, strict=True)), "axis": axis}


def _ranked(score: str) -> str:
    """`Robust accuracy`, `IN (strong)`."""
    return words.capitalised(scores.label(score)) + (" accuracy" if scores.accuracy(score) else "")


def _curves(done: pd.DataFrame) -> list[tuple[str, str]]:
    """(cell, SVG) of accuracy against eps, where at least one attack was measured."""
    family = _family(done)
    attacks = {name: found for name in words.shown(done) if (found := scores.attack(name))}
    strengths = [(0.0, "test/clean"), *sorted((a[0], name) for name, a in attacks.items() if a[1:] == family)]
    curves = []
    for row in done.to_dict("records"):
        there = [(eps, name) for eps, name in strengths if not words.missing(row.get(name))]
        if len(there) > 1:
            points = tuple((eps, row[name], row[f"half:{name}"]) for eps, name in there)
            curves.append(plots.Curve(row["cell"], points))
    return [(own.name, plots.curve(own, [c for c in curves if c is not own])) for own in curves]


def _family(done: pd.DataFrame) -> tuple[int, int] | None:
    """Steps and restarts of the attack that the curves show: of several, the one measured at most eps."""
    families = [found[1:] for name in words.shown(done) if (found := scores.attack(name))]
    return max(families, key=lambda family: (families.count(family), family), default=None)


def _breakable(name: str) -> Markup:
    """A name that may break after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def _glued(text: str) -> str:
    """Numbers that keep their interval and unit on the same line, and scores what stands in brackets behind them."""
    for part in (" ± ", " %", " ("):
        text = text.replace(part, part.replace(" ", "\N{NO-BREAK SPACE}"))
    return text


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
