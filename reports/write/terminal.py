"""The leaderboard as text for a terminal."""

import textwrap

from harness.errors import printable
from reports.analyse.rows import Leaderboard
from reports.present import findings, number_format, tables

WIDTH = 110  # columns of the terminal


def text(leaderboard: Leaderboard) -> str:
    """Headline, table (at most 110 columns if possible), and unfinished cells, for a terminal."""
    lines = textwrap.wrap("".join(findings.headline(leaderboard)), WIDTH)
    if leaderboard.finished:
        lines += ["", *_laid_out(leaderboard)]
    tuned = tables.settings(leaderboard)
    if tuned.rows:
        first, *entries = tuned.rows[0]
        pairs = zip((c.label for c in tuned.columns[1:]), (e.text for e in entries), strict=True)
        values = ", ".join(f"{path} {value}" for path, value in pairs if value != number_format.NONE)
        lines += ["", *textwrap.wrap(f"{first.text}: {values}", WIDTH, subsequent_indent="  ")]
    for i, (cell, reason) in enumerate(tables.unfinished(leaderboard).rows):
        lines += [] if i else [""]
        lines += textwrap.wrap(f"not finished: {cell.text}: {reason.text}", WIDTH, subsequent_indent="  ")
    for i, end in enumerate(leaderboard.ends):
        lines += [] if i else [""]
        lines += textwrap.wrap(f"note: {end}", WIDTH, subsequent_indent="  ")
    for i, (name, about) in enumerate(leaderboard.removed):
        lines += [] if i else [""]
        lines += textwrap.wrap(f"no longer in the space: {name}: {about}", WIDTH, subsequent_indent="  ")
    return "\n".join(map(printable, lines))


def _laid_out(leaderboard: Leaderboard) -> list[str]:
    """The ranking with trials and training time; columns are dropped from the right until it fits."""
    ranking = tables.ranking(leaderboard)
    columns = [[_small(column.label)] for column in ranking.columns]
    known = columns.index(["seeds"])
    for row in ranking.rows:
        for i, (column, entry) in enumerate(zip(columns, row, strict=True)):
            # From the seeds on, means only: the page has their intervals.
            short = entry.text if i < known else entry.text.partition(" ")[0]
            column.append(short if len(short) <= 40 else short[:39] + "…")
    columns = [[field.removesuffix("/255") for field in column] for column in columns]
    costs = [row.cost for row in leaderboard.finished]
    trials = [cost.trials for cost in costs]
    columns.append(["trials", *(f"{of.complete}/{of.pruned}/{of.failed}" for of in trials)])
    columns.append(["train s", *(number_format.seconds(cost.seconds.train) for cost in costs)])
    while len(columns) > 3 and sum(max(map(len, c)) + 2 for c in columns) - 2 > WIDTH:
        columns.pop()
    names, *numbers = columns
    columns = [[field.ljust(max(map(len, names))) for field in names]]
    columns += [[field.rjust(max(map(len, column))) for field in column] for column in numbers]
    return ["  ".join(line) for line in zip(*columns, strict=True)]


def _small(label: str) -> str:
    """A header in lower case, unless it starts with a name: `K (ART)`, `PGD-10`."""
    return label[:1].lower() + label[1:] if label[1:2].islower() else label
