"""A report in Markdown."""

import re

import pandas as pd

from reports import tables, words


def markdown(runs: pd.DataFrame, board: pd.DataFrame, name: str) -> str:
    """The whole report: the finding, every table, how to read it. Text from outside stays text."""
    pieces = [_name(p) if i % 2 else p for i, p in enumerate(words.headline(board))]
    parts = [f"# {_plain(name)}", "".join(pieces)]
    for table in tables.every(runs, board):
        heads = [_plain(f"{c.label} ({c.remark})" if c.remark else c.label) for c in table.columns]
        lines = [heads, ["--:" if c.number else ":--" for c in table.columns]]
        lines += [[_name(row[0].text), *(_plain(entry.text) for entry in row[1:])] for row in table.rows]
        parts += [f"## {table.caption}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        parts += [table.remark] if table.remark else []
    if pairs := words.reading(runs, board):
        items = [f"- **{_plain(term)}**: {_plain(said)}" for term, said in pairs]
        parts += ["## How to read it", "\n".join(items)]
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Text as itself: no tags, no table bars, no links, no emphasis, one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`*|\[\]~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def _name(name: str) -> str:
    """A cell's name as code, where that cannot be misread."""
    return f"`{name}`" if re.fullmatch(r"[\w.+\-/=#, ]+", name) else _plain(name)
