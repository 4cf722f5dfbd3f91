"""What a report consists of, in reading order."""

from dataclasses import dataclass, replace

import pandas as pd

from reports import analysis, figures, pictures, tables, trust, words
from reports.artifacts import Files
from reports.figures import Figure, Spread
from reports.pictures import Gallery
from reports.tables import Column, Entry, Table

Item = Table | Figure | Spread | Gallery


@dataclass(frozen=True)
class Part:
    """A heading and what stands below it."""

    key: str
    title: str
    items: list[Item]


def every(runs: pd.DataFrame, board: pd.DataFrame, files: Files) -> list[Part]:
    """All parts that have something to show, and in them only what has."""
    done = len(words.finished(board)) > 0
    galleries = {gallery.key: gallery for gallery in _galleries(board, files)}
    boxes = [galleries.pop("boxes")] if "boxes" in galleries else []
    price = [figures.strength(board), figures.fronts(board)] if done else []
    located = [tables.answers(board, question) for question in ("localization", "segmentation")]
    parts = [
        Part("leaderboard", "Leaderboard", [*_result(runs, board), tables.unfinished(board)]),
        Part("robustness", "Robustness and its price", price),
        Part("attributions", "Attributions", [tables.answers(board, "attribution")]),
        Part("corruptions", "Corruptions", [tables.answers(board, "corruption"), figures.corruptions(board)]),
        Part("localisation", "Localisation", [*located, *boxes]),
        Part("pictures", "Pictures", list(galleries.values())),
        Part("papers", "Beside the published figures", [tables.beside(board)]),
        Part("trust", "How far to trust it", _trust(runs, board) if done else [tables.failed(runs)]),
        Part("tuning", "What was tuned", _tuning(runs, board)),
        Part("training", "How it trained", [figures.learning(runs, board), figures.epoch_time(runs, board)]),
        Part("cost", "What it took", [tables.cost(board)]),
        Part("provenance", "Where the figures come from", [trust.provenance(runs)]),
    ]
    parts = [Part(part.key, part.title, [item for item in part.items if shows(item)]) for part in parts]
    return [part for part in parts if part.items]


def shows(item: Item) -> bool:
    """Whether there is anything in it."""
    return any(getattr(item, what, None) for what in ("rows", "drawings", "pictures", "why_not"))


def _result(runs: pd.DataFrame, board: pd.DataFrame) -> list[Item]:
    return [tables.ranking(board), figures.spread(board, runs)] if len(words.finished(board)) else []


def _trust(runs: pd.DataFrame, board: pd.DataFrame) -> list[Item]:
    asked = [trust.cautions(board), trust.rules(board), trust.image_by_image(board), trust.over_seeds(board, runs)]
    return [*asked, tables.failed(runs)]


def _tuning(runs: pd.DataFrame, board: pd.DataFrame) -> list[Item]:
    told = [tables.settings(board), edges(runs), figures.importance(runs), figures.fidelities(runs)]
    return [*told, *figures.hyperparameters(runs, board)]


def edges(runs: pd.DataFrame) -> Table:
    """Winners at the edge of what was searched: the best may lie beyond."""
    columns = [Column(label, number=False) for label in ("Cell", "Setting", "Winner's value", "At the", "Searched")]
    rows = []
    for edge in analysis.edges(runs):
        searched = _spoken(edge.path, edge.domain)
        said = [edge.path, words.setting(edge.path, repr(edge.value)), f"{edge.side} end", searched]
        rows.append([Entry(edge.cell, edge.cell), *(Entry(text, text) for text in said)])
    remark = "The best value may lie beyond: search these again with a wider domain before comparing the cells."
    return Table("edges", "Winners at the edge of what was searched", columns, rows, remark)


def _spoken(path: str, domain: analysis.Domain) -> str:
    """A searched domain as people write it: `0.01 to 0.1, log`, `4/255, 8/255`."""
    if domain.choices:
        return ", ".join(words.setting(path, repr(value)) for value in domain.choices)
    ends = f"{words.setting(path, repr(domain.low))} to {words.setting(path, repr(domain.high))}"
    return ends + (", log" if domain.log else "")


def _galleries(board: pd.DataFrame, files: Files) -> list[Gallery]:
    """Pictures of the controls and of the best rows, as many as there is room for, in the board's order."""
    there = board[[row in files.pictures for row in board["cell"]]]
    chosen = set(there.sort_values("control", ascending=False, kind="stable").head(pictures.ROWS)["cell"])
    found = pictures.galleries({row: files.pictures[row] for row in there["cell"] if row in chosen})
    if len(chosen) == len(there):
        return found
    return [replace(gallery, remark=f"{gallery.remark} Of the best rows and the controls only.") for gallery in found]
