"""The papers' tables as printed, with the measured scores below each row."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_lowercase

from reports.analyse import published
from reports.analyse.published import PublishedFigure
from reports.analyse.rows import Leaderboard
from reports.present import number_format
from reports.present.tables import Column, Entry, Table
from reports.read import score_names


@dataclass(frozen=True)
class Measured:
    """A measured score of a published figure. mean, half of its interval (NaN: one seed), difference: shares.

    covered: whether the interval contains the figure; None for one seed."""

    seeds: int
    experiment: str
    cell: str
    mean: float
    half: float
    difference: float
    covered: bool | None


def tables(leaderboards: Mapping[str, Leaderboard]) -> list[Table]:
    """Every published table, with the measured scores below each of its rows. leaderboards: experiment -> leaderboard.

    Of several leaderboard rows that match a figure, the one with most seeds is shown, of these the first by the names
    of experiment and cell, so that none is selected by its score. A figure that is printed in several tables has its
    score in each. A dash marks what is not measured."""
    measured = _measured_scores(leaderboards)
    by_table: dict[tuple[str, str], list[PublishedFigure]] = {}
    for figure in published.records():
        by_table.setdefault((figure["paper"], figure["table"]), []).append(figure)
    return [_table(paper, name, figures, measured) for (paper, name), figures in by_table.items()]


def counted(leaderboards: Mapping[str, Leaderboard]) -> tuple[int, int]:
    """Number of published figures with a measured score, and number of all."""
    return len(_measured_scores(leaderboards)), len(published.figures())


def _measured_scores(leaderboards: Mapping[str, Leaderboard]) -> dict[int, Measured]:
    """Id of a figure -> the measured score shown for it."""
    matches: dict[int, list[Measured]] = defaultdict(list)
    for experiment, leaderboard in leaderboards.items():
        for row in leaderboard.rows:
            for figure in row.figures.values():
                if known := figure.published:
                    own = figure.mean, figure.half, known.difference, known.covered
                    for same in published.alike(known.id):
                        matches[same].append(Measured(row.seeds, experiment, row.name, *own))
    return {
        figure: min(candidates, key=lambda score: (-score.seeds, score.experiment, score.cell))
        for figure, candidates in matches.items()
    }


def _table(paper: str, name: str, figures: list[PublishedFigure], measured: Mapping[int, Measured]) -> Table:
    printed: dict[str, dict[str, PublishedFigure]] = {}
    for figure in figures:
        printed.setdefault(figure["row"], {})[figure["column"]] = figure
    longest = max(printed.values(), key=len)  # a row may have gaps, the longest has every column
    labels = list(longest)
    letters = _letters(figures)
    rows: list[list[Entry]] = []
    for label, by_column in printed.items():
        position = float(len(rows))
        published_entries = [_published_entry(by_column.get(column), letters) for column in labels]
        rows.append([Entry(label, position), Entry("published", "published"), *published_entries])
        scores = [measured.get(by_column[column]["id"]) if column in by_column else None for column in labels]
        sources = list(dict.fromkeys(_source(score) for score in scores if score))
        source = f"measured, {'; '.join(sources)}" if sources else "not measured"
        entries = [_measured_entry(score, named=len(sources) > 1) for score in scores]
        rows.append([Entry(f"{label}, measured", position + 1), Entry(source, source), *entries])
    columns = [Column("Method", number=False), Column("Source", number=False)]
    columns += [Column(label, _score(label, figures)) for label in labels]
    key = re.sub(r"[^a-z0-9]+", "-", f"{paper} {name}".lower()).strip("-")
    return Table(key, f"{paper}, {name}, in per cent", columns, rows, _remark(figures, labels, measured, letters))


def _letters(figures: list[PublishedFigure]) -> dict[str, str]:
    """Note -> its reference letter; empty for a note on every figure."""
    notes = list(dict.fromkeys(f["note"] for f in figures if f["note"]))
    if len(notes) == 1 and all(f["note"] for f in figures):
        return {notes[0]: ""}
    return dict(zip(notes, ascii_lowercase, strict=False))


def _published_entry(figure: PublishedFigure | None, letters: Mapping[str, str]) -> Entry:
    if figure is None:
        return Entry(number_format.NONE, "")
    return Entry(figure["printed"], figure["value"] / 100, letters.get(figure["note"], ""))


def _measured_entry(score: Measured | None, named: bool) -> Entry:
    """The measured score, marked with its difference; named: also with its source, if the row has several."""
    if score is None:
        return Entry(number_format.NONE, "")
    verdict = {True: "in the interval", False: "not in the interval", None: "one seed"}[score.covered]
    marks = [number_format.points(score.difference), verdict, *([_source(score)] if named else [])]
    return Entry(number_format.with_interval(score.mean, score.half), score.mean, ", ".join(marks))


def _source(score: Measured) -> str:
    return f"{score.seeds} seed{'s' * (score.seeds != 1)}, {score.experiment}: {score.cell}"


def _score(column: str, figures: list[PublishedFigure]) -> str:
    """Label of the column's score in other tables; "" if it is the same."""
    score = next(f["score"] for f in figures if f["column"] == column and f["score"])
    return "" if score_names.label(score) == column else score_names.label(score)


def _remark(
    figures: list[PublishedFigure], labels: list[str], scores: Mapping[int, Measured], letters: Mapping[str, str]
) -> str:
    protocols: dict[str, list[str]] = defaultdict(list)
    for label, protocol in {label: f["protocol"] for label in labels for f in figures if f["column"] == label}.items():
        protocols[protocol].append(label)
    several = len(protocols) > 1
    texts = (f"{', '.join(columns)}: {protocol}" if several else protocol for protocol, columns in protocols.items())
    intro = f"How the published figures were measured: {'; '.join(texts)}."
    measured = sum(figure["id"] in scores for figure in figures)
    parts = [intro, f"{measured} of {len(figures)} figures are measured."]
    if any(score_names.attack(figure["score"]) for figure in figures):
        parts.append("In the measured scores an image counts as broken if any iterate of the attack breaks it.")
    if measured:
        parts.append(
            "Measured scores come with half of their 95 % interval over seeds, the difference to the published figure "
            "in percentage points, and whether the interval covers that figure. Net, epochs and tuning may differ. Of "
            "several rows that match a figure, the one with most seeds is shown, then the first by name."
        )
    notes = [
        f"{letter}: {note}." if letter else f"{number_format.capitalised(note)}." for note, letter in letters.items()
    ]
    return " ".join([*parts, *notes])
