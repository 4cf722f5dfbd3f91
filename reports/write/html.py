"""Report as one self-contained HTML page: no network, readable without scripts; light, dark, print."""

import base64
import hashlib
import re
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from reports.analyse.rows import Leaderboard
from reports.present import findings, plots, reading_guide
from reports.present.pictures import webp
from reports.present.sections import Item, Section
from reports.write.visible_text import visible

TEMPLATE = Path(__file__).with_name("page.html.jinja")
_POLICY = "the policy, whose hashes are of what is written"


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
        finalize=_visible,
    )
    environment.filters |= {"breakable": _breakable, "glued": _glued, "uri": webp.data_uri, "kind": _kind}
    page = environment.get_template(TEMPLATE.name).render(
        plots=Markup(plots.CSS), name=name, kind=kind, headline=headline, parts=parts, reading=reading, policy=_POLICY
    )
    return page.replace(_POLICY, _policy(page), 1)  # the first is that of the head, before any text of a store


def _policy(page: str) -> str:
    """The Content-Security-Policy of a page: its own style and script by their hashes, its pictures, nothing else."""
    hashes = {}
    for element in ("style", "script"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        hashes[element] = f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    sources = {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    sources |= {f"{element}-src": each for element, each in hashes.items()}
    return "; ".join(f"{kind} {source}" for kind, source in sources.items())


def _visible(value: object) -> object:
    return visible(value) if isinstance(value, str) else value


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
