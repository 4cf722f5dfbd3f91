"""Winners at the edge of their search domain, where a wider domain may contain a better value."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from harness.config.search_domains import Choices, Domain, FloatDistribution, numbers
from reports.analyse import counted_runs
from reports.analyse.curves import searched_trials, to_number
from reports.analyse.search_domain_tags import domain

MARGIN = 0.05  # fraction of a range's width that counts as its edge
ORDERED = 3  # minimum number of numeric choices for the first and the last to be edges


@dataclass(frozen=True)
class Edge:
    """A winner at an end of its domain. cell: its leaderboard row; side: `low` or `high`."""

    cell: str
    path: str
    value: float
    domain: Domain
    side: str


def edges(runs: pd.DataFrame) -> list[Edge]:
    """The winners at an end of their search domain (Godbole et al., Deep Learning Tuning Playbook, 2023).

    A value is at the edge if it lies within `MARGIN` of the width (log-uniform: of the log width) from an end of a
    range, or is the first or last of at least `ORDERED` numbers; other choices have no order. Ends that cannot be moved
    are not edges: 0, and 1 if the domain is that of a share, a linear range within [0, 1] or choices from 0 to 1. The
    winner's value is that of its seed runs; before they exist, of the recorded winner, else of the best trial."""
    result = []
    for row, winner in _winners(runs):
        for column in (c for c in runs.columns if c.startswith("space:")):
            path = column.removeprefix("space:")
            for text in winner[f"param:{path}"].dropna().unique() if f"param:{path}" in winner else []:
                searched, value = domain(winner[column].iloc[0]), to_number(text)
                if searched is not None and (side := _side(searched, value)):
                    result.append(Edge(row, path, value, searched, side))
    return result


def _winners(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Leaderboard row and the runs with its winner's settings, cells in the order of the space."""
    tested, goal = counted_runs.tested(runs), counted_runs.goals(runs)[0]
    finished = searched_trials(runs, goal)
    for cell in runs.sort_values("order", kind="stable")["cell"].unique():
        seeds, trials = tested[tested["cell"] == cell], finished[finished["cell"] == cell]
        if len(seeds):
            yield from seeds.groupby("row", sort=True)
        elif len(trials):
            named = trials["winners"].iloc[0]
            if isinstance(named, str):
                trials = trials[trials["key"].isin([key for key in named.split(",") if key])]
            else:
                trials = trials.nlargest(1, goal)
            yield cell, trials


def _side(searched: Domain, value: float) -> str:
    """At which end of the domain a value lies, `low` or `high`; "" for neither, or if the end cannot be moved."""
    if math.isnan(value):
        return ""
    if isinstance(searched, Choices):
        values = numbers(searched)
        if len(set(values)) < ORDERED:
            return ""
        low, high = min(values), max(values)
        at_low, at_high = math.isclose(value, low, rel_tol=1e-6), math.isclose(value, high, rel_tol=1e-6)
        share = low == 0 and high == 1
    else:
        low, high = searched.low, searched.high
        if low == high:
            return ""
        scale = math.log if searched.log else float
        value = max(value, low) if searched.log else value  # text has nine digits; the logarithm needs a value > 0
        position = (scale(value) - scale(low)) / (scale(high) - scale(low))
        at_low, at_high = position <= MARGIN + 1e-9, position >= 1 - MARGIN - 1e-9
        share = isinstance(searched, FloatDistribution) and not searched.log and low >= 0 and high == 1
    if at_low:
        return "" if low == 0 else "low"
    return "high" if at_high and not share else ""
