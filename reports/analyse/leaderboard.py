"""Build the leaderboard DataFrame: one row per cell, test scores of its winner over several seeds."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from reports.analyse import counted_runs, curves, other_selection_rules, published, rank_groups, stats
from reports.analyse.columns import is_missing, shown
from reports.read import score_names
from reports.read.artifacts import Files

LEVEL = 0.95


def build_leaderboard(runs: pd.DataFrame, files: Files | None = None) -> pd.DataFrame:
    """One row per cell of the sweep in `runs` (of `reports.read.runs.read`): best first, unfinished ones last.

    Means are over the runs of `reports.analyse.counted_runs.tested`. A cell with several winners (several goals) has a
    row for each. Scores are means over seeds: shares in [0,1], correlations in [-1,1], sides of a bound in its own
    unit; `half:` is the half-width of the 95 % interval, NaN for one seed. Columns:

    group                        rank group of `reports.analyse.rank_groups.tied` by the score in `ranked_by`
    cell, winner, control, method, data, ranked_by, seeds
    not_finished                 why the cell has no scores yet, else ""
    test/..., half:test/...      every score measured on test, goals first
    seeds:test/...               how many seed runs have it: for IN none if no image could be attacked
    version:test/...             its lowest version of measuring, where that is not 1 for all runs
    best:test/...                whether it is indistinguishable from the highest one (`rank_groups.best`)
    low:, high:, iqm:, iqm_low:, iqm_high:      of `ranked_by`, from `stats.SEEDS` seeds on: bootstrap interval of
                                 the mean, interquartile mean and its bootstrap interval
    paired:<name>                with `files`: `ranked_by` image by image against the first row: difference, low, high,
                                 p (Holm's correction over the rows), n, low_both, high_both (`stats.paired`)
    against, difference, half:difference      `ranked_by` minus that of the first control, by Welch
    val/...                      the validation counterpart of `ranked_by`, over the same seed runs
    n:test/..., wrong:, dropped:, failed:      of IN and K: images of a run that were counted, misclassified and
                                 so not attacked, dropped, attacked without success; means over the seed runs
    images:val, images:test      how many images a score was measured on
    set:<path>, domain:<path>    value of the winner, and its search domain
    trials:<state>, seeds:failed
    rule:<name>                  scores under other selection rules (`reports.analyse.other_selection_rules.rules`)
    best_epoch, best_epoch_gain  epoch of the best validation score, and its gain over the last epoch
    doubts                       names of the checks with verdict "doubt" in any seed run, joined by ", "; None if no
                                 check was run
    touches                      test evaluations over all runs of the cell
    seconds:<phase>              device-seconds, mean over the seed runs: teacher, maps, train, evaluation
    seconds:all                  training and evaluation of all complete runs of the cell, search included
    published:<score>, published_id: (its line), published_difference:, published_covered: (by the interval),
    published_source:, published_note:              the comparable figure of a paper, where there is one
    goals, front                 with several goals: their names on test, and `yes` for the rows on the Pareto
                                 front (`reports.analyse.stats.front`)
    """
    finished = counted_runs.tested(runs)
    ranked = counted_runs.ranked_by(runs)
    goals = [score_names.on(goal, "test") for goal in counted_runs.goals(runs)]
    names = _measured(finished, goals)
    cells = runs.drop_duplicates("cell").sort_values("order", kind="stable")
    control = next(iter(cells.loc[cells["control"], "cell"]), None)
    control_runs = finished[finished["cell"] == control]
    control_runs = control_runs[control_runs["row"] == control_runs["row"].min()]
    rows, samples = [], {}
    reasons = counted_runs.failures(runs).groupby("cell")["reason"].agg(list).to_dict()
    for cell in cells["cell"]:
        cell_runs = runs[runs["cell"] == cell]
        tested = finished[finished["cell"] == cell]
        if tested.empty:
            reason = counted_runs.unfinished(cell_runs, reasons.get(cell, []))
            rows.append(_metadata(cell_runs, ranked) | {"cell": cell, "not_finished": reason})
            rows[-1] |= _scores(tested, names) | _cost(cell_runs, tested)
        for position, (label, seeds) in enumerate(tested.groupby("row", sort=True)):
            # Of several winners the first is charged the cost of the whole cell without the other winners' seeds.
            charged = cell_runs if not position else seeds
            charged = charged[~charged["run_id"].isin(tested.loc[tested["row"] != label, "run_id"])]
            samples[label] = list(seeds[ranked])
            row = _metadata(cell_runs, ranked) | {"cell": label, "winner": _first(_texts(seeds, "winner"))}
            row |= {"not_finished": ""} | _scores(seeds, names) | _cost(charged, seeds)
            row |= _difference(label, seeds, control_runs, ranked) | _settings(cell_runs, seeds)
            failed_checks = counted_runs.failed_checks(seeds)
            row |= _spread(seeds, ranked) | {"doubts": None if failed_checks is None else ", ".join(failed_checks)}
            rows.append(row | _published(seeds, names, row))
    leaderboard = pd.DataFrame(rows)
    if ranked not in leaderboard:
        leaderboard[ranked] = math.nan
    leaderboard = leaderboard.sort_values(ranked, ascending=False, na_position="last", kind="stable", ignore_index=True)
    ordered = [label for label in leaderboard["cell"] if label in samples]
    groups = rank_groups.tied([samples[label] for label in ordered], LEVEL)
    best = {n: rank_groups.best([list(finished.loc[finished["row"] == r, n]) for r in ordered], LEVEL) for n in names}
    extra = [_selection_columns(runs), _paired(finished, ordered, ranked, files or Files()), _best(best, ordered)]
    leaderboard = pd.concat(
        [leaderboard, *(leaderboard[["cell"]].merge(m, "left", "cell").drop(columns="cell") for m in extra)], axis=1
    )
    leaderboard.insert(0, "group", pd.array([*groups, *[pd.NA] * (len(leaderboard) - len(groups))], dtype="Int64"))
    if len(goals) > 1:
        means = leaderboard.reindex(columns=goals)
        front = pd.Series(stats.front(means.to_numpy()), index=leaderboard.index)
        leaderboard["goals"] = ",".join(goals)
        leaderboard["front"] = front.map({True: "yes", False: "no"}).where(means.notna().all(axis=1), "")
    return leaderboard


def cell_figures(leaderboard: pd.DataFrame, cell: str) -> dict[str, float]:
    """The figures of a cell's first row: scores that tables show, their validation counterpart, number of seeds."""
    rows = leaderboard[(leaderboard["cell"] == cell) | (leaderboard["cell"] == f"{cell} #1")]
    row = rows.iloc[0].to_dict() if len(rows) else {}
    names = [*shown(leaderboard), *(c for c in leaderboard.columns if c.startswith("val/")), "seeds"]
    return {name: float(row[name]) for name in names if not is_missing(row.get(name))}


def _measured(rows: pd.DataFrame, goals: list[str]) -> list[str]:
    names = [c for c in rows.columns if c.startswith("test/") and rows[c].notna().any()]
    return sorted(names, key=lambda name: score_names.sort_key(name, *goals))


def _metadata(cell_runs: pd.DataFrame, ranked: str) -> dict[str, object]:
    named = {name: _first(_texts(cell_runs, f"param:{name}")) for name in ("method", "data")}
    return {"cell": "", "winner": "", "control": bool(cell_runs.iloc[0]["control"]), **named, "ranked_by": ranked}


def _scores(seeds: pd.DataFrame, names: list[str]) -> dict[str, object]:
    row: dict[str, object] = {"seeds": len(seeds)}
    for name in names:
        row[name], row[f"half:{name}"] = stats.interval(seeds[name], LEVEL)
        row[f"seeds:{name}"] = int(seeds[name].notna().sum())
        if (version := name.replace("/", "_version/", 1)) in seeds:
            row[f"version:{name}"] = seeds[version].fillna(1).min()
        if score_names.attribution(name) and not score_names.is_minor(name):
            row |= _images(seeds, name)
    if names:
        val = score_names.on(names[0], "val")
        row[val] = stats.interval(_column(seeds, val), LEVEL)[0]
    for part in ("val", "test"):
        sizes = [c for c in seeds.columns if c.startswith(f"{part}_n/")]
        row[f"images:{part}"] = seeds[sizes].max(axis=None) if sizes and len(seeds) else math.nan
    return row


def _images(seeds: pd.DataFrame, name: str) -> dict[str, float]:
    """How many images of an attribution score were counted, misclassified, dropped, failed, where recorded."""
    columns = {f"{kind}:{name}": score_names.on(name, f"test_{kind}") for kind in ("n", "wrong", "dropped", "failed")}
    return {column: seeds[metric].mean() for column, metric in columns.items() if metric in seeds}


def _difference(label: str, seeds: pd.DataFrame, control_runs: pd.DataFrame, ranked: str) -> dict[str, object]:
    against = _first(_texts(control_runs, "row"))
    welch = stats.difference(seeds[ranked], control_runs[ranked], LEVEL)
    if label == against:
        welch = math.nan, math.nan
    return {"against": against, "difference": welch[0], "half:difference": welch[1]}


def _cost(cell_runs: pd.DataFrame, seeds: pd.DataFrame) -> dict[str, object]:
    search = cell_runs.loc[cell_runs["role"] == "search", "state"]
    states = ("complete", "pruned", "failed", "running")
    row: dict[str, object] = {f"trials:{state}": int((search == state).sum()) for state in states}
    row["seeds:failed"] = int(((cell_runs["role"] == "seed") & (cell_runs["state"] == "failed")).sum())
    row["touches"] = int(_column(cell_runs, "test_touches").sum())
    for phase in ("teacher", "maps", "train"):
        row[f"seconds:{phase}"] = _column(seeds, f"seconds/{phase}").mean()
    row["seconds:evaluation"] = _row_sum(seeds, ["seconds/val", "seconds/test"]).mean()
    everything = _row_sum(cell_runs, ["seconds/train", "seconds/val", "seconds/test"])
    row["seconds:all"] = everything.sum(min_count=1)
    return row


def _settings(cell_runs: pd.DataFrame, seeds: pd.DataFrame) -> dict[str, object]:
    """Search domains, and the values of the seed runs. Several values are an error, and all are shown."""
    row = {}
    for column in cell_runs.columns:
        path = column.removeprefix("param:search.")
        if path != column and (domain := _texts(cell_runs, column)):
            row[f"set:{path}"] = " | ".join(_texts(seeds, f"param:{path}"))
            row[f"domain:{path}"] = _first(domain)
    return row


def _spread(seeds: pd.DataFrame, ranked: str) -> dict[str, float]:
    """Bootstrap interval and interquartile mean, from `stats.SEEDS` seeds on."""
    values = seeds[ranked]
    if len(values) < stats.SEEDS:
        return {}
    low, high = stats.bootstrap(values, level=LEVEL)
    ends = stats.bootstrap(values, stats.interquartile_mean, LEVEL)
    summary = {"low": low, "high": high, "iqm": stats.interquartile_mean(values)}
    summary |= {"iqm_low": ends[0], "iqm_high": ends[1]}
    return {f"{name}:{ranked}": value for name, value in summary.items()}


def _best(best: Mapping[str, list[bool]], rows: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"cell": rows, **{f"best:{name}": in_best for name, in_best in best.items()}})


def _selection_columns(runs: pd.DataFrame) -> pd.DataFrame:
    """Per row, the scores under other selection rules, and the gain of the best epoch."""
    rows: dict[str, dict[str, object]] = {}
    for rule in other_selection_rules.rules(runs):
        outcomes = {f"rule:{name}": value for name, value in vars(rule).items() if name not in ("row", "best_epoch")}
        rows[rule.row] = {"cell": rule.row, **outcomes}
    for row, gap in curves.gaps(runs).items():
        rows.setdefault(row, {"cell": row})
        rows[row] |= {"best_epoch": gap.epoch, "best_epoch_gain": gap.best - gap.last}
    return pd.DataFrame(list(rows.values()), columns=None if rows else ["cell"])


def _paired(tested: pd.DataFrame, rows: list[str], ranked: str, files: Files) -> pd.DataFrame:
    """Paired comparison of every row with the first, image by image."""
    stacks = {row: _stack(tested.loc[tested["row"] == row, "run_id"], ranked, files) for row in rows}
    first = next(iter(rows), "")
    pairs = {
        row: stats.paired(stacks[row], stacks[first], LEVEL)
        for row in rows
        if row != first and stacks[row].size and stacks[row].shape[1] == stacks[first].shape[1]
    }
    corrected = stats.holm([pair.p for pair in pairs.values()])
    records = [
        {"cell": row, **{f"paired:{name}": value for name, value in vars(pair).items()}, "paired:p": p}
        for (row, pair), p in zip(pairs.items(), corrected, strict=True)
    ]
    return pd.DataFrame(records, columns=None if records else ["cell"])


def _stack(run_ids: Iterable[str], score: str, files: Files) -> np.ndarray:
    """Per-image values of every seed run, (S, N) float64; (0, 0) if any run has none."""
    arrays = [files.images.get(run_id, {}).get(score) for run_id in run_ids]
    if not arrays or any(a is None or a.shape != arrays[0].shape for a in arrays):
        return np.empty((0, 0))
    return np.stack(arrays).astype(np.float64)


def _published(seeds: pd.DataFrame, names: list[str], row: dict[str, object]) -> dict[str, object]:
    columns = [c for c in seeds.columns if c.startswith("param:") and not c.startswith("param:search.")]
    params = {c.removeprefix("param:"): t[0] for c in columns if (t := _texts(seeds, c))}
    result: dict[str, object] = {}
    for name in names:
        figure = published.lookup(params, name)
        if figure is None or math.isnan(row[name]):
            continue
        gap, half = row[name] - figure["value"] / 100, row[f"half:{name}"]
        result |= {
            f"published:{name}": figure["value"] / 100,
            f"published_id:{name}": figure["id"],
            f"published_difference:{name}": gap,
            f"published_covered:{name}": "" if math.isnan(half) else "yes" if abs(gap) <= half else "no",
            f"published_source:{name}": f"{figure['paper']}, {figure['table']}",
            f"published_note:{name}": figure["note"],
        }
    return result


def _column(rows: pd.DataFrame, name: str) -> pd.Series:
    return rows[name] if name in rows else pd.Series(math.nan, index=rows.index, dtype=float)


def _row_sum(rows: pd.DataFrame, names: Iterable[str]) -> pd.Series:
    """Sum of columns per row, with missing values as 0; missing if all are."""
    return pd.DataFrame({n: _column(rows, n) for n in names}, index=rows.index).sum(axis=1, min_count=1)


def _texts(rows: pd.DataFrame, column: str) -> list[str]:
    """The distinct values of a text column, in order of appearance."""
    return [str(v) for v in rows[column].dropna().unique()] if column in rows else []


def _first(texts: list[str]) -> str:
    return texts[0] if texts else ""
