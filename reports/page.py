"""A report as one HTML page that needs nothing else: no network, no script to read it; light, dark, print."""

from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from reports import pictures, plots, words
from reports.parts import Item, Part

TEMPLATE = Path(__file__).with_name("page.html.jinja")


def html(runs: pd.DataFrame, board: pd.DataFrame, parts: list[Part], name: str) -> str:
    """The page of a board's parts and the runs it was made of. Equal input gives equal text; all of it is escaped."""
    sweep = runs.iloc[0].get("sweep")
    return _page(
        name=name,
        kind=f"leaderboard{f', sweep {sweep}' if isinstance(sweep, str) and sweep else ''}",
        headline=words.headline(board),
        parts=parts,
        reading=words.reading(runs, board),
    )


def papers(parts: list[Part], headline: list[str], name: str) -> str:
    """The page of the papers' tables."""
    return _page(name=name, kind="published and measured", headline=headline, parts=parts, reading=[])


def _page(**content: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"breakable": _breakable, "glued": _glued, "uri": pictures.data_uri, "kind": _kind}
    return environment.get_template(TEMPLATE.name).render(plots=Markup(plots.CSS), **content)


def _kind(item: Item) -> str:
    return type(item).__name__.lower()


def _breakable(name: str) -> Markup:
    """A name that may break after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def _glued(text: str) -> str:
    """Numbers that keep their interval and unit on the same line, and scores what stands in brackets behind them."""
    for part in (" ± ", " %", " ("):
        text = text.replace(part, part.replace(" ", "\N{NO-BREAK SPACE}"))
    return text
