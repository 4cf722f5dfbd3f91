"""Which runs count: a step of its own, so that nothing pruned, failed or superseded slips into a mean."""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

# What changes a test score and does not stand in its name: runs that differ in it never share a column. `robust` is a
# mean over the grid of eps; suites of papers have steps of their own, and the full one attacks fewer attributions.
MEASURED_BY = ("protocol", "tag:data.test", "suites")
MEASURED_BY += tuple(f"param:measure.{name}" for name in ("eps", "steps", "step", "restarts"))
OWN = ("paper-sat", "paper-art", "full")


def ranked_by(runs: pd.DataFrame) -> str:
    """The test counterpart of the first goal: `test/robust` of `val/robust`."""
    return "test/" + goals(runs)[0].partition("/")[2]


def goals(runs: pd.DataFrame) -> list[str]:
    """The scores on validation that were searched for, the first one first."""
    goal = next((g for g in runs["goal"] if isinstance(g, str) and g), "val/robust")
    return [g.strip() for g in goal.split(",")]


def tested(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that count: complete seed runs of a present winner whose ranked score is finite.

    A trial (key) counts once, its last run. A winner that was later overtaken (`winners` names the present
    ones) does not count, nor does a run that was measured in another way than the others (`foreign`). The column
    `row` is added: the cell's name, with the winner's place where the cell has several."""
    ranked = ranked_by(runs)
    if ranked not in runs:
        return runs.iloc[:0].assign(row="", **{ranked: pd.Series(dtype=float)})
    rows = _measured(runs)
    rows = rows[foreign(rows) == ""]
    named = rows["key"].notna() & (rows["key"] != "")
    again = rows.sort_values("started", kind="stable").duplicated(["cell", "key"], keep="last")
    rows = rows[~(named & again.reindex(rows.index))]
    labels = [_label(row) for row in rows.reindex(columns=["cell", "winners", "winner"]).to_dict("records")]
    return runs.loc[rows.index].assign(row=labels)


def _measured(runs: pd.DataFrame) -> pd.DataFrame:
    """The complete seed runs of present winners that have a figure, however it was measured.

    Of their columns those alone that say which of them count: a table of runs is hundreds of columns wide."""
    telling = ("cell", "key", "started", "winners", "winner")
    columns = [c for c in runs.columns if c in telling or _tells_how(c) or c == "param:measure.suites"]
    seeds = (runs["role"] == "seed") & (runs["state"] == "complete") & np.isfinite(runs[ranked_by(runs)])
    rows = runs.loc[seeds, columns]
    present = [_present(row) for row in rows.reindex(columns=["winners", "winner"]).to_dict("records")]
    return rows[pd.Series(present, index=rows.index, dtype=bool)]


def _tells_how(column: str) -> bool:
    """Whether a column says how a run was measured."""
    return column in MEASURED_BY or column.startswith("param:attribution.")


def doubted(rows: pd.DataFrame) -> list[str] | None:
    """The names of the checks that doubt a test score of any of these runs; None where no check was asked."""
    checks = [c for c in rows.columns if c.startswith("check:") and rows[c].notna().any()]
    if not checks:
        return None
    return [c.removeprefix("check:") for c in checks if rows[c].astype(str).str.startswith("doubt: ").any()]


def failures(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs that did not give what they should have: cell, role, number, key, reason."""
    ranked = ranked_by(runs)
    failed = runs[runs["state"] == "failed"]
    scores = runs[ranked] if ranked in runs else pd.Series(math.nan, index=runs.index)
    done = (runs["role"] == "seed") & (runs["state"] == "complete")
    missing = runs[done & ~scores.map(math.isfinite)].assign(reason=f"finished without a number for {ranked}")
    other = foreign(_measured(runs)) if ranked in runs else pd.Series(dtype=object)
    other = runs.loc[other.index].assign(reason=other)[other != ""]
    rows = pd.concat([failed, missing, other]).sort_index()
    rows = rows.assign(reason=rows["reason"].fillna("").replace("", "no reason recorded"))
    return rows[["cell", "role", "number", "key", "reason"]].reset_index(drop=True)


def foreign(runs: pd.DataFrame) -> pd.Series:
    """How the measuring of each run differs from that of most runs under the newest protocol; "" where it does not.

    Compared are the protocol's version, the test images and the settings of `MEASURED_BY`, of equally frequent ones the
    first; a setting that a run does not have touches none of its scores."""
    runs = runs.assign(suites=_suites(runs))
    columns = [column for column in runs.columns if _tells_how(column)]
    said = pd.Series("", index=runs.index, dtype=object)
    standard = runs
    for column in sorted(columns, key=lambda c: c != "protocol"):
        values = runs[column] if column.startswith("param:") else runs[column].fillna("not recorded")
        known = values[standard.index].dropna()
        if known.empty:
            continue
        usual = max(known, key=_version) if column == "protocol" else Counter(known).most_common(1)[0][0]
        other = values.notna() & (values != usual) & (said == "")
        name = {"tag:data.test": "checksum of the test images"}.get(column, column.rpartition(":")[2])
        words = [f"measured in another way than the others: {name} {v} here, {usual} there" for v in values[other]]
        said[other] = words
        if column == "protocol":
            standard = runs[~other]
    return said


def _suites(runs: pd.DataFrame) -> pd.Series:
    """The suites of each run that measure in a way of their own."""
    texts = runs["param:measure.suites"] if "param:measure.suites" in runs else pd.Series("", index=runs.index)
    return texts.fillna("").map(lambda text: ", ".join(name for name in OWN if name in text) or "none of its own")


def _version(text: str) -> int:
    return int(text) if text.isdigit() else -1


def unfinished(mine: pd.DataFrame, apart: Iterable[str] = ()) -> str:
    """In a line, how far a cell without a single run that counts has come. apart: how its runs were measured apart."""
    search, seeds = mine[mine["role"] == "search"], mine[mine["role"] == "seed"]
    reasons = [r for r in mine["reason"].dropna() if r] + [r for r in apart if r]
    why = f"; {reasons[-1]}" if reasons else ""
    if len(seeds):
        return f"no seed run of the winner counts yet: {_counted(seeds['state'])}{why}"
    if not len(search):
        return "no trial yet"
    if (search["state"] == "failed").all():
        return f"every trial failed ({len(search)}){why}"
    if _winners(mine.iloc[0]) == [""]:
        return f"no trial was good enough to be repeated: {_counted(search['state'])}"
    return f"no seed run yet; trials: {_counted(search['state'])}"


def _winners(row: pd.Series | dict) -> list[str] | None:
    """The keys of the cell's present winners; None where none were named."""
    named = row.get("winners")
    return named.split(",") if isinstance(named, str) else None


def _present(row: dict) -> bool:
    winners, winner = _winners(row), row.get("winner")
    return winners is None or not isinstance(winner, str) or not winner or winner in winners


def _label(row: dict) -> str:
    winners = _winners(row) or []
    if len(winners) < 2 or row.get("winner") not in winners:
        return row["cell"]
    return f"{row['cell']} #{winners.index(row['winner']) + 1}"


def _counted(states: pd.Series) -> str:
    counts = {state: int((states == state).sum()) for state in ("complete", "pruned", "failed", "running")}
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "state unknown"
