"""The sections of a report, in reading order."""

from dataclasses import dataclass, replace

import pandas as pd

from harness.config.search_domains import Choices, Domain
from harness.evaluation.metrics import KINDS
from reports.analyse import winners_at_edge
from reports.analyse.rows import Leaderboard
from reports.present import figures, number_format, reliability, tables
from reports.present.figures import Figure, Spread
from reports.present.pictures import galleries as pictures_galleries
from reports.present.pictures.galleries import Gallery
from reports.present.tables import Column, Entry, Table
from reports.read.artifacts import Files

_PLACED = ("accuracy", "attribution", "corruption", "localization", "segmentation")  # kinds with a section, or ranked
Item = Table | Figure | Spread | Gallery


@dataclass(frozen=True)
class Section:
    """A heading and its items."""

    key: str
    title: str
    items: list[Item]


def all_sections(runs: pd.DataFrame, leaderboard: Leaderboard, files: Files) -> list[Section]:
    """All non-empty sections with their non-empty items."""
    done = bool(leaderboard.finished)
    galleries = {gallery.key: gallery for gallery in _galleries(leaderboard, files)}
    boxes = [galleries.pop("boxes")] if "boxes" in galleries else []
    trade_offs: list[Item] = [figures.strength(leaderboard), figures.fronts(leaderboard)] if done else []
    localisation = [tables.scores_of_kind(leaderboard, kind) for kind in ("localization", "segmentation")]
    others = [kind for kind in KINDS if kind not in _PLACED]
    parts = [
        Section(
            "leaderboard",
            "Leaderboard",
            [*_result(runs, leaderboard), tables.unfinished(leaderboard), tables.removed(leaderboard)],
        ),
        Section("robustness", "Robustness and trade-offs", trade_offs),
        Section("attributions", "Attributions", [tables.scores_of_kind(leaderboard, "attribution")]),
        Section(
            "corruptions",
            "Corruptions",
            [tables.scores_of_kind(leaderboard, "corruption"), figures.corruptions(leaderboard)],
        ),
        Section("localisation", "Localisation", [*localisation, *boxes]),
        Section("other", "Other scores", [tables.scores_of_kind(leaderboard, kind) for kind in others]),
        Section("pictures", "Pictures", list(galleries.values())),
        Section("papers", "Comparison with published figures", [tables.published_figures(leaderboard)]),
        Section("trust", "How far to trust it", _trust(runs, leaderboard) if done else [tables.failed(runs)]),
        Section("tuning", "Hyperparameters", _tuning(runs, leaderboard)),
        Section("training", "Training", [figures.learning(runs, leaderboard), figures.epoch_time(runs, leaderboard)]),
        Section("cost", "Cost", [tables.cost(leaderboard)]),
        Section("provenance", "Provenance", [reliability.provenance(runs)]),
    ]
    parts = [Section(part.key, part.title, [item for item in part.items if shows(item)]) for part in parts]
    return [part for part in parts if part.items]


def shows(item: Item) -> bool:
    """Whether an item has anything to show."""
    return any(getattr(item, what, None) for what in ("rows", "drawings", "pictures", "why_not"))


def _result(runs: pd.DataFrame, leaderboard: Leaderboard) -> list[Item]:
    return [tables.ranking(leaderboard), figures.spread(leaderboard, runs)] if leaderboard.finished else []


def _trust(runs: pd.DataFrame, leaderboard: Leaderboard) -> list[Item]:
    items: list[Item] = [
        reliability.cautions(leaderboard),
        reliability.rules(leaderboard),
        reliability.image_by_image(leaderboard),
        reliability.over_seeds(leaderboard, runs),
    ]
    return [*items, tables.failed(runs)]


def _tuning(runs: pd.DataFrame, leaderboard: Leaderboard) -> list[Item]:
    items: list[Item] = [tables.settings(leaderboard), edges(runs), figures.importance(runs), figures.fidelities(runs)]
    return [*items, *figures.hyperparameters(runs, leaderboard)]


def edges(runs: pd.DataFrame) -> Table:
    """Winners at the edge of their search domain."""
    columns = [
        Column(label, number=False) for label in ("Cell", "Hyperparameter", "Winner's value", "At the", "Searched")
    ]
    rows = []
    for edge in winners_at_edge.edges(runs):
        searched = _domain_text(edge.path, edge.domain)
        fields = [edge.path, number_format.setting(edge.path, repr(edge.value)), f"{edge.side} end", searched]
        rows.append([Entry(edge.cell, edge.cell), *(Entry(text, text) for text in fields)])
    remark = "The best value may lie outside: search again with a wider domain before comparing the cells."
    return Table("edges", "Winners at the edge of the search domain", columns, rows, remark)


def _domain_text(path: str, domain: Domain) -> str:
    """Format a search domain: `0.01 to 0.1, log`, `4/255, 8/255`."""
    if isinstance(domain, Choices):
        return ", ".join(number_format.setting(path, repr(value)) for value in domain.choices)
    ends = f"{number_format.setting(path, repr(domain.low))} to {number_format.setting(path, repr(domain.high))}"
    return ends + (", log" if domain.log else "")


def _galleries(leaderboard: Leaderboard, files: Files) -> list[Gallery]:
    """Galleries of the controls and the best rows, at most `ROWS`, in the leaderboard's order."""
    available = [row for row in leaderboard.rows if row.name in files.pictures]
    chosen = {row.name for row in sorted(available, key=lambda row: not row.control)[: pictures_galleries.ROWS]}
    pictures = {row.name: files.pictures[row.name] for row in available if row.name in chosen}
    result = pictures_galleries.galleries(pictures)
    if len(chosen) == len(available):
        return result
    return [replace(gallery, remark=f"{gallery.remark} Of the best rows and the controls only.") for gallery in result]
