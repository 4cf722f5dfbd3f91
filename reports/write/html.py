"""Report as one self-contained HTML page: no network, readable without scripts; light, dark, print."""

from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from reports.analyse.rows import Leaderboard
from reports.present import findings, plots, reading_guide
from reports.present.pictures import webp
from reports.present.sections import Item, Section

TEMPLATE = Path(__file__).with_name("page.html.jinja")


def html(runs: pd.DataFrame, leaderboard: Leaderboard, parts: list[Section], name: str) -> str:
    """The page of a report. Equal input gives equal text; all text is escaped."""
    sweep = runs.iloc[0].get("sweep")
    return _page(
        name=name,
        kind=f"leaderboard{f', sweep {sweep}' if isinstance(sweep, str) and sweep else ''}",
        headline=findings.headline(leaderboard),
        parts=parts,
        reading=reading_guide.reading(runs, leaderboard),
    )


def papers(parts: list[Section], headline: list[str], name: str) -> str:
    """The page of the papers' tables."""
    return _page(name=name, kind="published and measured", headline=headline, parts=parts, reading=[])


def _page(*, name: str, kind: str, headline: list[str], parts: list[Section], reading: list[tuple[str, str]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"breakable": _breakable, "glued": _glued, "uri": webp.data_uri, "kind": _kind}
    return environment.get_template(TEMPLATE.name).render(
        plots=Markup(plots.CSS), name=name, kind=kind, headline=headline, parts=parts, reading=reading
    )


def _kind(item: Item) -> str:
    return type(item).__name__.lower()


def _breakable(name: str) -> Markup:
    """A name with optional line breaks after underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def _glued(text: str) -> str:
    """Non-breaking spaces before intervals, units and brackets."""
    for part in (" ± ", " %", " ("):
        text = text.replace(part, part.replace(" ", "\N{NO-BREAK SPACE}"))
    return text
