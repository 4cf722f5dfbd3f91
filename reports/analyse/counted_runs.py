"""Select the runs that enter the leaderboard: no pruned, failed, superseded or differently measured ones."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from reports.read import artifacts, score_names
from reports.read.artifacts import Files

# Settings that change a test score but are not part of its name: runs that differ in them are not averaged. `robust` is
# a mean over the grid of eps; the papers' suites have their own steps, and `full` attacks fewer attributions.
MEASURED_BY: tuple[str, ...] = ("protocol", "tag:data.test", "suites")
MEASURED_BY += tuple(f"param:measure.{name}" for name in ("eps", "steps", "step", "restarts"))
OWN_PROTOCOL = ("paper-sat", "paper-art", "full")


def read_files(uri: str, runs: pd.DataFrame, folders: Iterable[Path] = ()) -> Files:
    """The artifacts of the selected runs; see `reports.read.artifacts`."""
    return artifacts.read(uri, tested(runs), ranked_by(runs), folders)


def local_files(runs: pd.DataFrame, file: Callable[[str, str], Path]) -> Files:
    """The artifacts of the selected runs on this machine. file(folder, name): the path of one."""
    return artifacts.collect(tested(runs), ranked_by(runs), lambda run, folder, name: file(folder, name))


def ranked_by(runs: pd.DataFrame) -> str:
    """The test counterpart of the first goal: `test/robust` of `val/robust`."""
    return score_names.on(goals(runs)[0], "test")


def goals(runs: pd.DataFrame) -> list[str]:
    """The goals of the search, validation scores, in order."""
    goal = next((g for g in runs["goal"] if isinstance(g, str) and g), "val/robust")
    return [g.strip() for g in goal.split(",")]


def tested(runs: pd.DataFrame) -> pd.DataFrame:
    """The selected runs: complete seed runs of a current winner whose ranked score is finite.

    Of several runs of a trial key only the last one. Runs of a superseded winner (`winners` lists the current ones) and
    runs that were measured differently from the others (`foreign`) are excluded. Adds the column `row`: the cell's
    name, with the winner's number if the cell has several."""
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
    """The complete seed runs of current winners with a finite score, however it was measured.

    Only the columns needed for the selection: a table of runs has hundreds."""
    identity = ("cell", "key", "started", "winners", "winner")
    columns = [c for c in runs.columns if c in identity or _is_protocol(c) or c == "param:measure.suites"]
    seeds = (runs["role"] == "seed") & (runs["state"] == "complete") & np.isfinite(runs[ranked_by(runs)])
    rows = runs.loc[seeds, columns]
    current = [_is_current(row) for row in rows.reindex(columns=["winners", "winner"]).to_dict("records")]
    return rows[pd.Series(current, index=rows.index, dtype=bool)]


def _is_protocol(column: str) -> bool:
    """Whether a column describes how a run was measured."""
    return column in MEASURED_BY or column.startswith("param:attribution.")


def failed_checks(rows: pd.DataFrame) -> list[str] | None:
    """Names of the checks with verdict "doubt" in any of these runs; None if no check was run."""
    checks = [c for c in rows.columns if c.startswith("check:") and rows[c].notna().any()]
    if not checks:
        return None
    return [c.removeprefix("check:") for c in checks if rows[c].astype(str).str.startswith("doubt: ").any()]


def failures(runs: pd.DataFrame) -> pd.DataFrame:
    """Failed and excluded runs: cell, role, number, key, reason."""
    ranked = ranked_by(runs)
    failed = runs[runs["state"] == "failed"]
    scores = runs[ranked] if ranked in runs else pd.Series(math.nan, index=runs.index)
    done = (runs["role"] == "seed") & (runs["state"] == "complete")
    missing = runs[done & ~scores.map(math.isfinite)].assign(reason=f"finished without a number for {ranked}")
    excluded = foreign(_measured(runs)) if ranked in runs else pd.Series(dtype=object)
    excluded = runs.loc[excluded.index].assign(reason=excluded)[excluded != ""]
    rows = pd.concat([failed, missing, excluded]).sort_index()
    rows = rows.assign(reason=rows["reason"].fillna("").replace("", "no reason recorded"))
    return rows[["cell", "role", "number", "key", "reason"]].reset_index(drop=True)


def foreign(runs: pd.DataFrame) -> pd.Series:
    """How each run was made differently from most runs of the newest version of training; "" if it was not.

    Compares the version of training, the test images and the settings of `MEASURED_BY` with the most frequent value, of
    equally frequent ones the first. A setting that a run lacks affects none of its scores."""
    runs = runs.assign(suites=_suites(runs))
    columns = [column for column in runs.columns if _is_protocol(column)]
    texts = pd.Series("", index=runs.index, dtype=object)
    standard = runs
    for column in sorted(columns, key=lambda c: c != "protocol"):
        values = runs[column] if column.startswith("param:") else runs[column].fillna("not recorded")
        known = values[standard.index].dropna()
        if known.empty:
            continue
        usual = max(known, key=_version) if column == "protocol" else Counter(known).most_common(1)[0][0]
        differs = values.notna() & (values != usual) & (texts == "")
        names = {"tag:data.test": "checksum of the test images", "protocol": "version of training"}
        name = names.get(column, column.rpartition(":")[2])
        messages = [f"measured differently from the others: {name} {v} instead of {usual}" for v in values[differs]]
        texts[differs] = messages
        if column == "protocol":
            standard = runs[~differs]
    return texts


def _suites(runs: pd.DataFrame) -> pd.Series:
    """The suites of each run that have their own protocol."""
    texts = runs["param:measure.suites"] if "param:measure.suites" in runs else pd.Series("", index=runs.index)
    return texts.fillna("").map(lambda text: ", ".join(name for name in OWN_PROTOCOL if name in text) or "none")


def _version(text: str) -> int:
    return int(text) if text.isdigit() else -1


def unfinished(cell_runs: pd.DataFrame, reasons: Iterable[str] = ()) -> str:
    """One-line state of a cell without selected runs. reasons: why runs of it were excluded."""
    search, seeds = cell_runs[cell_runs["role"] == "search"], cell_runs[cell_runs["role"] == "seed"]
    recorded = [r for r in cell_runs["reason"].dropna() if r] + [r for r in reasons if r]
    suffix = f"; {recorded[-1]}" if recorded else ""
    if len(seeds):
        return f"no usable seed run of the winner yet: {_counted(seeds['state'])}{suffix}"
    if not len(search):
        return "no trial yet"
    if (search["state"] == "failed").all():
        return f"every trial failed ({len(search)}){suffix}"
    if _winners(cell_runs.iloc[0]) == [""]:
        return f"no trial was good enough to be repeated: {_counted(search['state'])}"
    return f"no seed run yet; trials: {_counted(search['state'])}"


def _winners(row: pd.Series | Mapping[str, str | None]) -> list[str] | None:
    """The trial keys of the cell's current winners; None if not recorded."""
    named = row.get("winners")
    return named.split(",") if isinstance(named, str) else None


def _is_current(row: Mapping[str, str | None]) -> bool:
    winners, winner = _winners(row), row.get("winner")
    return winners is None or not isinstance(winner, str) or not winner or winner in winners


def _label(row: Mapping[str, str]) -> str:
    winners = _winners(row) or []
    if len(winners) < 2 or row.get("winner") not in winners:
        return row["cell"]
    return f"{row['cell']} #{winners.index(row['winner']) + 1}"


def _counted(states: pd.Series) -> str:
    counts = {state: int((states == state).sum()) for state in ("complete", "pruned", "failed", "running")}
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "state unknown"
