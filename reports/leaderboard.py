"""From runs to rows: one a cell, by what its winner reached on test over several seeds."""

import math
import textwrap
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from harness.errors import printable
from reports import analysis, published, scores, selection, stats, tables, words
from reports.artifacts import Files

LEVEL = 0.95
WIDTH = 110  # columns of the terminal


def table(runs: pd.DataFrame, files: Files | None = None) -> pd.DataFrame:
    """One row per cell of the sweep in `runs` (of `reports.runs.read`): best first, unfinished ones last.

    Only the runs of `reports.selection.tested` enter a mean. A cell with several winners (several goals) has
    a row for each. Scores are means over seeds: shares in [0,1], correlations in [-1,1], sides of a bound in
    its own unit; `half:` is the half-width of the 95 % interval, NaN for one seed. Columns:

    group                        rank group of `reports.stats.tied` by the score in `ranked_by`
    cell, winner, control, method, data, ranked_by, seeds
    not_finished                 why the cell has no figures yet, else ""
    test/..., half:test/...      every score measured on test, goals first
    seeds:test/...               how many of the seed runs have it: of IN none where no image could be attacked
    best:test/...                whether it cannot be told from the highest one (`reports.stats.best`)
    low:, high:, iqm:, iqm_low:, iqm_high:      of `ranked_by`, over seeds where they are enough (`stats.SEEDS`):
                                 bootstrap interval of the mean, interquartile mean and its bootstrap interval
    paired:<what>                `ranked_by` image by image against the first row (`reports.stats.paired`): difference,
                                 low, high, p (Holm's correction over the rows), n, low_both, high_both; with `files`
    against, difference, half:difference      `ranked_by` minus that of the first control, by Welch
    val/...                      the validation counterpart of `ranked_by`, over the same seed runs
    n:test/..., wrong:, dropped:, failed:      of IN and K: images of a run that were counted, not attacked because
                                 misclassified, dropped, not attacked with success; means over the seed runs
    images:val, images:test      how many images a score was measured on
    set:<path>, domain:<path>    what the winner was tuned to, and where it was searched
    trials:<state>, seeds:failed
    rule:<name>                  what other rules of choosing would have said (`reports.analysis.rules`)
    best_epoch, best_epoch_gain  epoch of the best validation, and by how much it was better than the last
    doubts                       checks of the test scores that doubt them, in any seed run, joined by ", "; None:
                                 none was asked
    touches                      how often the cell was measured on test, over all its runs
    seconds:<phase>              device-seconds, mean over the seed runs: teacher, maps, train, evaluation
    seconds:all                  training and evaluation of all the cell's complete runs, search included
    published:<score>, published_id: (its line), published_difference:, published_covered: (by our interval),
    published_source:, published_note:              where a paper's figure may stand beside ours
    goals, front                 of several goals: their names on test, and `yes` for the rows that no other
                                 one dominates (`reports.stats.front`)
    """
    finished = selection.tested(runs)
    ranked = selection.ranked_by(runs)
    goals = ["test/" + goal.partition("/")[2] for goal in selection.goals(runs)]
    names = _measured(finished, goals)
    cells = runs.drop_duplicates("cell").sort_values("order", kind="stable")
    control = next(iter(cells.loc[cells["control"], "cell"]), None)
    yardstick = finished[finished["cell"] == control]
    yardstick = yardstick[yardstick["row"] == yardstick["row"].min()]
    rows, samples = [], {}
    apart = selection.failures(runs).groupby("cell")["reason"].agg(list).to_dict()
    for cell in cells["cell"]:
        mine = runs[runs["cell"] == cell]
        tested = finished[finished["cell"] == cell]
        if tested.empty:
            why = selection.unfinished(mine, apart.get(cell, []))
            rows.append(_about(mine, ranked) | {"cell": cell, "not_finished": why})
            rows[-1] |= _scores(tested, names) | _cost(mine, tested)
        for place, (label, seeds) in enumerate(tested.groupby("row", sort=True)):
            # Of several winners the first has what all of the cell has cost but the others' own seeds.
            own = mine if not place else seeds
            own = own[~own["run_id"].isin(tested.loc[tested["row"] != label, "run_id"])]
            samples[label] = list(seeds[ranked])
            row = _about(mine, ranked) | {"cell": label, "winner": _only(_texts(seeds, "winner"))}
            row |= {"not_finished": ""} | _scores(seeds, names) | _cost(own, seeds)
            row |= _difference(label, seeds, yardstick, ranked) | _settings(mine, seeds)
            doubts = selection.doubted(seeds)
            row |= _spread(seeds, ranked) | {"doubts": None if doubts is None else ", ".join(doubts)}
            rows.append(row | _published(seeds, names, row))
    board = pd.DataFrame(rows)
    if ranked not in board:
        board[ranked] = math.nan
    board = board.sort_values(ranked, ascending=False, na_position="last", kind="stable", ignore_index=True)
    ordered = [label for label in board["cell"] if label in samples]
    groups = stats.tied([samples[label] for label in ordered], LEVEL)
    best = {n: stats.best([list(finished.loc[finished["row"] == r, n]) for r in ordered], LEVEL) for n in names}
    more = [_told(runs), _paired(finished, ordered, ranked, files or Files()), _best(best, ordered)]
    board = pd.concat([board, *(board[["cell"]].merge(m, "left", "cell").drop(columns="cell") for m in more)], axis=1)
    board.insert(0, "group", pd.array([*groups, *[pd.NA] * (len(board) - len(groups))], dtype="Int64"))
    if len(goals) > 1:
        means = board.reindex(columns=goals)
        front = pd.Series(stats.front(means.to_numpy()), index=board.index)
        board["goals"] = ",".join(goals)
        board["front"] = front.map({True: "yes", False: "no"}).where(means.notna().all(axis=1), "")
    return board


def figures(board: pd.DataFrame, cell: str) -> dict[str, float]:
    """What the board says of a cell's first row: scores that tables show, their counterpart on validation, seeds."""
    mine = board[(board["cell"] == cell) | (board["cell"] == f"{cell} #1")]
    row = mine.iloc[0].to_dict() if len(mine) else {}
    names = [*words.shown(board), *(c for c in board.columns if c.startswith("val/")), "seeds"]
    return {name: float(row[name]) for name in names if not words.missing(row.get(name))}


def text(board: pd.DataFrame) -> str:
    """The board for a terminal: the finding, a table (110 columns at most if possible), what is missing."""
    lines = textwrap.wrap("".join(words.headline(board)), WIDTH)
    if len(words.finished(board)):
        lines += ["", *_laid_out(board)]
    tuned = tables.settings(board)
    if tuned.rows:
        first, *entries = tuned.rows[0]
        pairs = zip((c.label for c in tuned.columns[1:]), (e.text for e in entries), strict=True)
        said = ", ".join(f"{path} {value}" for path, value in pairs if value != words.NONE)
        lines += ["", *textwrap.wrap(f"{first.text}: {said}", WIDTH, subsequent_indent="  ")]
    for i, (cell, why) in enumerate(tables.unfinished(board).rows):
        lines += [] if i else [""]
        lines += textwrap.wrap(f"not finished: {cell.text}: {why.text}", WIDTH, subsequent_indent="  ")
    return "\n".join(map(printable, lines))


def _laid_out(board: pd.DataFrame) -> list[str]:
    """The ranking with trials and training time; columns go from the right until it fits."""
    ranking = tables.ranking(board)
    columns = [[_small(column.label)] for column in ranking.columns]
    known = columns.index(["seeds"])
    for row in ranking.rows:
        for i, (column, entry) in enumerate(zip(columns, row, strict=True)):
            # Beyond the difference to the control the means alone: the page has their intervals.
            short = entry.text if i < known else entry.text.partition(" ")[0]
            column.append(short if len(short) <= 40 else short[:39] + "…")
    columns = [[field.removesuffix("/255") for field in column] for column in columns]
    rows = words.finished(board).to_dict("records")
    states = ("complete", "pruned", "failed")
    columns.append(["trials", *("/".join(str(r[f"trials:{s}"]) for s in states) for r in rows)])
    columns.append(["train s", *(words.seconds(r["seconds:train"]) for r in rows)])
    while len(columns) > 3 and sum(max(map(len, c)) + 2 for c in columns) - 2 > WIDTH:
        columns.pop()
    names, *numbers = columns
    columns = [[field.ljust(max(map(len, names))) for field in names]]
    columns += [[field.rjust(max(map(len, column))) for field in column] for column in numbers]
    return ["  ".join(line) for line in zip(*columns, strict=True)]


def _small(label: str) -> str:
    """A header without its capital, unless that belongs to a name: `K (ART)`, `PGD-10`."""
    return label[:1].lower() + label[1:] if label[1:2].islower() else label


def _measured(rows: pd.DataFrame, goals: list[str]) -> list[str]:
    names = [c for c in rows.columns if c.startswith("test/") and rows[c].notna().any()]
    return sorted(names, key=lambda name: scores.place(name, *goals))


def _about(mine: pd.DataFrame, ranked: str) -> dict[str, object]:
    named = {name: _only(_texts(mine, f"param:{name}")) for name in ("method", "data")}
    return {"cell": "", "winner": "", "control": bool(mine.iloc[0]["control"]), **named, "ranked_by": ranked}


def _scores(seeds: pd.DataFrame, names: list[str]) -> dict[str, object]:
    row: dict[str, object] = {"seeds": len(seeds)}
    for name in names:
        row[name], row[f"half:{name}"] = stats.interval(seeds[name], LEVEL)
        row[f"seeds:{name}"] = int(seeds[name].notna().sum())
        if scores.attribution(name) and not scores.minor(name):
            row |= _images(seeds, name)
    if names:
        val = "val/" + names[0].partition("/")[2]
        row[val] = stats.interval(_column(seeds, val), LEVEL)[0]
    for part in ("val", "test"):
        sizes = [c for c in seeds.columns if c.startswith(f"{part}_n/")]
        row[f"images:{part}"] = seeds[sizes].max(axis=None) if sizes and len(seeds) else math.nan
    return row


def _images(seeds: pd.DataFrame, name: str) -> dict[str, float]:
    """What became of the images of an attribution's score, as far as it is known."""
    split, _, score = name.partition("/")
    columns = {f"{kind}:{name}": f"{split}_{kind}/{score}" for kind in ("n", "wrong", "dropped", "failed")}
    return {ours: seeds[theirs].mean() for ours, theirs in columns.items() if theirs in seeds}


def _difference(label: str, seeds: pd.DataFrame, yardstick: pd.DataFrame, ranked: str) -> dict[str, object]:
    against = _only(_texts(yardstick, "row"))
    apart = stats.difference(seeds[ranked], yardstick[ranked], LEVEL)
    if label == against:
        apart = math.nan, math.nan
    return {"against": against, "difference": apart[0], "half:difference": apart[1]}


def _cost(mine: pd.DataFrame, seeds: pd.DataFrame) -> dict[str, object]:
    search = mine.loc[mine["role"] == "search", "state"]
    states = ("complete", "pruned", "failed", "running")
    row: dict[str, object] = {f"trials:{state}": int((search == state).sum()) for state in states}
    row["seeds:failed"] = int(((mine["role"] == "seed") & (mine["state"] == "failed")).sum())
    row["touches"] = int(_column(mine, "test_touches").sum())
    for phase in ("teacher", "maps", "train"):
        row[f"seconds:{phase}"] = _column(seeds, f"seconds/{phase}").mean()
    row["seconds:evaluation"] = _together(seeds, ["seconds/val", "seconds/test"]).mean()
    everything = _together(mine, ["seconds/train", "seconds/val", "seconds/test"])
    row["seconds:all"] = everything.sum(min_count=1)
    return row


def _settings(mine: pd.DataFrame, seeds: pd.DataFrame) -> dict[str, object]:
    """What was searched, and what the seed runs were trained with: several values are a fault, all shown."""
    row = {}
    for column in mine.columns:
        path = column.removeprefix("param:search.")
        if path != column and (domain := _texts(mine, column)):
            row[f"set:{path}"] = " | ".join(_texts(seeds, f"param:{path}"))
            row[f"domain:{path}"] = _only(domain)
    return row


def _spread(seeds: pd.DataFrame, ranked: str) -> dict[str, float]:
    """What many seeds allow to be said beyond mean and interval."""
    values = seeds[ranked]
    if len(values) < stats.SEEDS:
        return {}
    low, high = stats.bootstrap(values, level=LEVEL)
    ends = stats.bootstrap(values, stats.interquartile_mean, LEVEL)
    spread = {"low": low, "high": high, "iqm": stats.interquartile_mean(values)}
    spread |= {"iqm_low": ends[0], "iqm_high": ends[1]}
    return {f"{name}:{ranked}": value for name, value in spread.items()}


def _best(best: Mapping[str, list[bool]], rows: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"cell": rows, **{f"best:{name}": told for name, told in best.items()}})


def _told(runs: pd.DataFrame) -> pd.DataFrame:
    """Per row, what other rules would have chosen and what its best epoch would have gained."""
    rows: dict[str, dict[str, object]] = {}
    for rule in analysis.rules(runs):
        said = {f"rule:{name}": value for name, value in vars(rule).items() if name not in ("row", "best_epoch")}
        rows[rule.row] = {"cell": rule.row, **said}
    for row, gap in analysis.gaps(runs).items():
        rows.setdefault(row, {"cell": row})
        rows[row] |= {"best_epoch": gap.epoch, "best_epoch_gain": gap.best - gap.last}
    return pd.DataFrame(list(rows.values()), columns=None if rows else ["cell"])


def _paired(tested: pd.DataFrame, rows: list[str], ranked: str, files: Files) -> pd.DataFrame:
    """Every row against the first, image by image."""
    stacks = {row: _stack(tested.loc[tested["row"] == row, "run_id"], ranked, files) for row in rows}
    first = next(iter(rows), "")
    pairs = {
        row: stats.paired(stacks[row], stacks[first], LEVEL)
        for row in rows
        if row != first and stacks[row].size and stacks[row].shape[1] == stacks[first].shape[1]
    }
    corrected = stats.holm([pair.p for pair in pairs.values()])
    found = [
        {"cell": row, **{f"paired:{name}": value for name, value in vars(pair).items()}, "paired:p": p}
        for (row, pair), p in zip(pairs.items(), corrected, strict=True)
    ]
    return pd.DataFrame(found, columns=None if found else ["cell"])


def _stack(run_ids: Iterable[str], score: str, files: Files) -> np.ndarray:
    """One number per image of every seed run, (S, N) float64; (0, 0) where they are not all there."""
    arrays = [files.images.get(run_id, {}).get(score) for run_id in run_ids]
    if not arrays or any(a is None or a.shape != arrays[0].shape for a in arrays):
        return np.empty((0, 0))
    return np.stack(arrays).astype(np.float64)


def _published(seeds: pd.DataFrame, names: list[str], row: dict[str, object]) -> dict[str, object]:
    own = [c for c in seeds.columns if c.startswith("param:") and not c.startswith("param:search.")]
    params = {c.removeprefix("param:"): t[0] for c in own if (t := _texts(seeds, c))}
    beside: dict[str, object] = {}
    for name in names:
        figure = published.lookup(params, name)
        if figure is None or math.isnan(row[name]):
            continue
        apart, half = row[name] - figure["value"] / 100, row[f"half:{name}"]
        beside |= {
            f"published:{name}": figure["value"] / 100,
            f"published_id:{name}": figure["id"],
            f"published_difference:{name}": apart,
            f"published_covered:{name}": "" if math.isnan(half) else "yes" if abs(apart) <= half else "no",
            f"published_source:{name}": f"{figure['paper']}, {figure['table']}",
            f"published_note:{name}": figure["note"],
        }
    return beside


def _column(rows: pd.DataFrame, name: str) -> pd.Series:
    return rows[name] if name in rows else pd.Series(math.nan, index=rows.index, dtype=float)


def _together(rows: pd.DataFrame, names: Iterable[str]) -> pd.Series:
    """The sum of columns row by row, a missing one as 0; missing where all are."""
    return pd.DataFrame({n: _column(rows, n) for n in names}, index=rows.index).sum(axis=1, min_count=1)


def _texts(rows: pd.DataFrame, column: str) -> list[str]:
    """The distinct values of a text column, in the order they come."""
    return [str(v) for v in rows[column].dropna().unique()] if column in rows else []


def _only(texts: list[str]) -> str:
    return texts[0] if texts else ""
