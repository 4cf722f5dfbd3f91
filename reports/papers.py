"""The papers' tables in their own layout, ours below each of their rows: what is reproduced, and what is not yet."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_lowercase

import pandas as pd

from reports import published, scores, words
from reports.tables import Column, Entry, Table
from reports.words import missing

Figure = Mapping[str, object]  # a row of `published.figures` and its id


@dataclass(frozen=True)
class Ours:
    """A score that meets a figure. mean, half of its interval (NaN: one seed), difference: shares; covered: yes, no."""

    seeds: int
    experiment: str
    cell: str
    mean: float
    half: float
    difference: float
    covered: str


def tables(boards: Mapping[str, pd.DataFrame]) -> list[Table]:
    """Every published table, all of its rows, each with ours below it. boards: experiment -> its board.

    The boards are those of `reports.leaderboard.table`. Where several rows of ours meet a figure, the one with most
    seeds stands there, of these the first by the name of its experiment, then of its cell: none is chosen by its score.
    A figure that is printed in several tables has ours in each. Where there is nothing of ours, a dash stands."""
    beside = _beside(boards)
    figures = published.figures().assign(id=range(len(published.figures())))
    each = figures.groupby(["paper", "table"], sort=False)
    return [_table(paper, name, some.to_dict("records"), beside) for (paper, name), some in each]


def counted(boards: Mapping[str, pd.DataFrame]) -> tuple[int, int]:
    """How many of the published figures have one of ours beside them, and how many there are."""
    return len(_beside(boards)), len(published.figures())


def _beside(boards: Mapping[str, pd.DataFrame]) -> dict[int, Ours]:
    """The id of a figure -> what stands there."""
    found = defaultdict(list)
    for experiment, board in boards.items():
        names = [c.removeprefix("published_id:") for c in board.columns if c.startswith("published_id:")]
        for row in board.to_dict("records"):
            for name in (n for n in names if not missing(row[f"published_id:{n}"])):
                of = (row[f"{kind}{name}"] for kind in ("", "half:", "published_difference:", "published_covered:"))
                ours = Ours(int(row["seeds"]), experiment, row["cell"], *of)
                for figure in published.alike(int(row[f"published_id:{name}"])):
                    found[figure].append(ours)
    return {figure: min(some, key=lambda o: (-o.seeds, o.experiment, o.cell)) for figure, some in found.items()}


def _table(paper: str, name: str, figures: list[Figure], beside: Mapping[int, Ours]) -> Table:
    printed: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        printed.setdefault(figure["row"], {})[figure["column"]] = figure
    labels = list(max(printed.values(), key=len))  # a row may have dashes, the fullest has every column
    letters = _letters(figures)
    rows = []
    for label, there in printed.items():
        place = float(len(rows))
        theirs = [_theirs(there.get(column), letters) for column in labels]
        rows.append([Entry(label, place), Entry("published", "published"), *theirs])
        ours = [beside.get(there[column]["id"]) if column in there else None for column in labels]
        sources = list(dict.fromkeys(_source(o) for o in ours if o))
        source = f"ours, {'; '.join(sources) or 'not measured'}"
        entries = [_ours(o, named=len(sources) > 1) for o in ours]
        rows.append([Entry(f"{label}, ours", place + 1), Entry(source, source), *entries])
    columns = [Column("Method", number=False), Column("Source", number=False)]
    columns += [Column(label, _score(label, figures)) for label in labels]
    key = re.sub(r"[^a-z0-9]+", "-", f"{paper} {name}".lower()).strip("-")
    return Table(key, f"{paper}, {name}, in per cent", columns, rows, _remark(figures, labels, beside, letters))


def _letters(figures: list[Figure]) -> dict[str, str]:
    """Note -> the letter that stands for it beside figures; none for a note on every figure."""
    notes = list(dict.fromkeys(f["note"] for f in figures if f["note"]))
    if len(notes) == 1 and all(f["note"] for f in figures):
        return {notes[0]: ""}
    return dict(zip(notes, ascii_lowercase, strict=False))


def _theirs(figure: Figure | None, letters: Mapping[str, str]) -> Entry:
    if figure is None:
        return Entry(words.NONE, "")
    return Entry(figure["printed"], figure["value"] / 100, letters.get(figure["note"], ""))


def _ours(ours: Ours | None, named: bool) -> Entry:
    """Our figure, by how far it is off; named: and whose it is, since the row has several sources."""
    if ours is None:
        return Entry(words.NONE, "")
    how = {"yes": "in our interval", "no": "not in our interval"}.get(ours.covered, "one seed")
    said = [words.points(ours.difference), how, *([_source(ours)] if named else [])]
    return Entry(words.with_interval(ours.mean, ours.half), ours.mean, ", ".join(said))


def _source(ours: Ours) -> str:
    return f"{ours.seeds} seed{'s' * (ours.seeds != 1)}, {ours.experiment}: {ours.cell}"


def _score(column: str, figures: list[Figure]) -> str:
    """What the column's score is called elsewhere, unless that says no more."""
    score = next(f["score"] for f in figures if f["column"] == column and f["score"])
    return "" if scores.label(score) == column else scores.label(score)


def _remark(figures: list[Figure], labels: list[str], beside: Mapping[int, Ours], letters: Mapping[str, str]) -> str:
    protocols = defaultdict(list)
    for label, protocol in {label: f["protocol"] for label in labels for f in figures if f["column"] == label}.items():
        protocols[protocol].append(label)
    several = len(protocols) > 1
    said = (f"{', '.join(of)}: {protocol}" if several else protocol for protocol, of in protocols.items())
    how = f"How the published figures were measured: {'; '.join(said)}."
    done = sum(figure["id"] in beside for figure in figures)
    parts = [how, f"{done} of {len(figures)} figures are measured."]
    if any(scores.attack(figure["score"]) for figure in figures):
        parts.append("In ours an image counts as broken by any of the attack's iterates.")
    if done:
        parts.append(
            "Ours come with half of their 95 % interval over seeds, their difference to the published figure in "
            "percentage points, and whether the interval covers that. Net, epochs and tuning are ours and may differ. "
            "Of several rows that meet a figure, the one with most seeds stands here, then the first by name."
        )
    notes = [f"{letter}: {note}." if letter else f"{words.capitalised(note)}." for note, letter in letters.items()]
    return " ".join([*parts, *notes])
