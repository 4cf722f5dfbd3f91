"""Leaderboard as CSV, safe against formula injection in spreadsheets."""

import math
import re
from collections.abc import Callable

import pandas as pd
from pandas.api.types import is_numeric_dtype

from reports.analyse.rows import Figure, Leaderboard, Row
from reports.read import score_names

# Spreadsheets evaluate text that starts so, also in full width, and some after blanks, which they drop.
_FORMULA = re.compile(r"[\t\r\n]|[\s\x00-\x1f\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]*[=+\-@＝＋－＠]")
_YES = {True: "yes", False: "no", None: ""}


def spreadsheet(table: pd.DataFrame) -> str:
    """Numbers in full precision. An apostrophe precedes text that a spreadsheet would evaluate."""
    texts = {name: table[name].map(_text) for name in table if not is_numeric_dtype(table[name])}
    return table.assign(**texts).rename(columns=_text).to_csv(index=False, lineterminator="\n")


def to_frame(leaderboard: Leaderboard) -> pd.DataFrame:
    """The leaderboard as a table: one row per cell, empty where something is unknown (fields of `analyse.rows`).

    group, cell (the row's name), winner, control, method, data, ranked_by, not_finished, seeds
    test/..., half:, seeds:      every score measured on test: mean, half, runs that have it
    version:test/...             its version of measuring, the oldest of its runs, where above 1
    n:, wrong:, dropped:, failed:      its `Images`, where recorded
    val/..., images:val, images:test
    trials:<state>, seeds:failed, touches, seconds:<phase>      its `Cost`
    against, difference, half:difference      `Difference` to the row `against`
    set:<path>, domain:<path>    its `Setting`s; several values separated by |
    low:, high:, iqm:, iqm_low:, iqm_high:      of the ranked score: `Resampled`
    doubts                       separated by ", "
    random_weights:<map>:<name>  its `WithRandomWeights`
    published:, published_id:, published_difference:, published_covered: (yes, no), published_source:,
    published_note:              of a score: `Published`
    rule:<name>                  its `Rule`
    best_epoch, best_epoch_gain  its `Gap`
    paired:<name>                its `Paired`
    best:test/...
    goals, front                 with several goals: their names, and yes or no"""
    parts = [_columns(leaderboard, fields) for fields in (_own, _rule, _gap, _paired, _best, _front)]
    frame = pd.concat(parts, axis=1)
    frame.insert(0, "group", pd.array([row.group for row in leaderboard.rows], dtype="Int64"))
    return frame


Fields = dict[str, str | float | None]  # a column's name -> its value in a row


def _columns(leaderboard: Leaderboard, fields: Callable[[Leaderboard, Row], Fields]) -> pd.DataFrame:
    """The fields of every row, columns in the order in which the space's cells have them first."""
    rows = [fields(leaderboard, row) for row in leaderboard.rows]
    in_space = sorted(zip(leaderboard.rows, rows, strict=True), key=lambda pair: pair[0].place)
    return pd.DataFrame(rows, columns=list(dict.fromkeys(name for _, row in in_space for name in row)))


def _own(leaderboard: Leaderboard, row: Row) -> Fields:
    """What a row has by itself."""
    ranked = leaderboard.ranked_by
    fields: Fields = {"cell": row.name, "winner": row.winner, "control": row.control}
    fields |= {"method": row.method, "data": row.data, "ranked_by": ranked}
    fields |= {"not_finished": row.not_finished, "seeds": row.seeds}
    for name in leaderboard.scores:
        fields |= _figure(name, row.figure(name))
    if leaderboard.scores:
        fields[score_names.on(ranked, "val")] = row.val
    fields |= {"images:val": row.val_images, "images:test": row.test_images}
    fields |= {f"trials:{state}": count for state, count in vars(row.cost.trials).items()}
    fields |= {"seeds:failed": row.cost.seeds_failed, "touches": row.cost.touches}
    fields |= {f"seconds:{phase.removesuffix('_runs')}": value for phase, value in vars(row.cost.seconds).items()}
    if not leaderboard.scores:
        fields[ranked] = math.nan
    return fields | (_of_finished(leaderboard, row) if row.seeds else {})


def _of_finished(leaderboard: Leaderboard, row: Row) -> Fields:
    fields: Fields = {"against": leaderboard.control}
    fields |= {"difference": row.difference.mean, "half:difference": row.difference.half}
    for path, setting in row.settings.items():
        fields |= {f"set:{path}": setting.text, f"domain:{path}": setting.domain}
    if resampled := row.figure(leaderboard.ranked_by).resampled:
        fields |= {f"{what}:{leaderboard.ranked_by}": value for what, value in vars(resampled).items()}
    fields["doubts"] = None if row.doubts is None else ", ".join(row.doubts)
    for name, of in row.random_weights.items():
        fields |= {f"random_weights:{name}:{what}": value for what, value in vars(of).items()}
    for name in leaderboard.scores:
        fields |= _published(name, row.figure(name))
    return fields


def _figure(name: str, figure: Figure) -> Fields:
    images = {"n": figure.images.counted, "wrong": figure.images.wrong}
    images |= {"dropped": figure.images.dropped, "failed": figure.images.failed}
    fields: Fields = {name: figure.mean, f"half:{name}": figure.half, f"seeds:{name}": figure.seeds}
    if figure.version > 1:
        fields[f"version:{name}"] = figure.version
    return fields | {f"{kind}:{name}": count for kind, count in images.items() if count is not None}


def _published(name: str, figure: Figure) -> Fields:
    if (known := figure.published) is None:
        return {}
    fields: Fields = {
        "": known.value,
        "_id": known.id,
        "_difference": known.difference,
        "_covered": _YES[known.covered],
    }
    fields |= {"_source": known.source, "_note": known.note}
    return {f"published{what}:{name}": value for what, value in fields.items()}


def _rule(leaderboard: Leaderboard, row: Row) -> Fields:
    known = vars(row.rule).items() if row.rule else ()
    return {f"rule:{name}": score for name, score in known if name not in ("row", "best_epoch")}


def _gap(leaderboard: Leaderboard, row: Row) -> Fields:
    return {"best_epoch": row.gap.epoch, "best_epoch_gain": row.gap.gain} if row.gap else {}


def _paired(leaderboard: Leaderboard, row: Row) -> Fields:
    return {f"paired:{name}": value for name, value in vars(row.paired).items()} if row.paired else {}


def _best(leaderboard: Leaderboard, row: Row) -> Fields:
    return {f"best:{name}": row.figure(name).best for name in leaderboard.scores if row.seeds}


def _front(leaderboard: Leaderboard, row: Row) -> Fields:
    several = len(leaderboard.goals) > 1
    return {"goals": ",".join(leaderboard.goals), "front": _YES[row.front]} if several else {}


def _text(value: str | float | None) -> str | float | None:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) and not _number(value) else value


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
