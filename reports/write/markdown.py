"""Report as Markdown: headline, tables and reading guide."""

import re

import pandas as pd

from reports.analyse.rows import Leaderboard
from reports.present import findings, reading_guide
from reports.present.sections import Section
from reports.present.tables import Entry, Table
from reports.write.visible_text import visible


def markdown(runs: pd.DataFrame, leaderboard: Leaderboard, parts: list[Section], name: str) -> str:
    """Headline, every table, reading guide; text is escaped. Plots and pictures are in the HTML page only."""
    pieces = [code(p) if i % 2 else p for i, p in enumerate(findings.headline(leaderboard))]
    blocks = [f"# {plain(name)}", "".join(pieces), *sections(parts)]
    if pairs := reading_guide.reading(runs, leaderboard):
        items = [f"- **{plain(term)}**: {plain(text)}" for term, text in pairs]
        blocks += ["## How to read it", "\n".join(items)]
    return "\n\n".join(blocks) + "\n"


def sections(parts: list[Section]) -> list[str]:
    """The tables of the sections under their headings."""
    blocks = []
    for part in parts:
        tables = [item for item in part.items if isinstance(item, Table)]
        blocks += [f"## {plain(part.title)}"] if tables else []
        for table in tables:
            heads = [plain(f"{c.label} ({c.remark})" if c.remark else c.label) for c in table.columns]
            lines = [heads, ["--:" if c.number else ":--" for c in table.columns]]
            lines += [[code(row[0].text), *map(_figure, row[1:])] for row in table.rows]
            blocks += [f"### {plain(table.caption)}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
            blocks += [plain(table.remark)] if table.remark else []
    return blocks


def _figure(entry: Entry) -> str:
    text = plain(f"{entry.text} ({entry.mark})" if entry.mark else entry.text)
    return f"**{text}**" if entry.best else text


def plain(text: str) -> str:
    """Escape text: no tags, table bars, links, emphasis or formulas, on one line."""
    text = visible(" ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = text.replace("://", "&#58;//").replace("www.", "www&#46;")
    return re.sub(r"[\\`*|\[\]~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def code(name: str) -> str:
    """A cell's name as code, or escaped if that is not safe."""
    return f"`{name}`" if re.fullmatch(r"[\w.+\-/=#, ]+", name) and visible(name) == name else plain(name)
