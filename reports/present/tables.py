"""Tables of a report: ranking, scores by kind, hyperparameters, cost, published figures, unfinished cells."""

from dataclasses import dataclass
from fractions import Fraction

import pandas as pd

from harness.evaluation.metrics import KINDS, PROTOCOLS
from reports.analyse import counted_runs
from reports.analyse.columns import control_of, finished, goals, is_missing, shown
from reports.present import findings, number_format
from reports.read import score_names

MAX_OTHERS = 10  # scores in the ranking besides the ranked one


@dataclass(frozen=True)
class Entry:
    """A table cell: its text, its sort value ("": last), and a small mark beside it.

    best: indistinguishable from the best of its column.
    """

    text: str
    sort: float | str
    mark: str = ""
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A column: its header, a remark below it, and whether it contains numbers."""

    label: str
    remark: str = ""
    number: bool = True


@dataclass(frozen=True)
class Table:
    """A caption, columns, rows of as many entries, a remark below; the first `best` rows are highlighted.

    The first column names the row.
    """

    key: str
    caption: str
    columns: list[Column]
    rows: list[list[Entry]]
    remark: str = ""
    best: int = 0


def ranking(leaderboard: pd.DataFrame) -> Table:
    """Cell, ranked score, difference to the control, rank group, front of several goals, seeds, the other scores.

    Of more than `MAX_OTHERS` others only goals and accuracies: every kind has its own table (`scores_of_kind`)."""
    done = finished(leaderboard)
    first, *others = shown(done) or [""]
    if len(others) > MAX_OTHERS:
        others = [n for n in others if n in goals(leaderboard) or score_names.kind(n) == "accuracy"]
    control = control_of(done)
    versus = [f"vs {control}"] if control else []
    front = ["Front"] if "front" in done else []
    labels = [_header(first), *versus, "Group", *front, "Seeds", *map(_header, others)]
    columns = [Column("Cell", number=False), *map(Column, labels)]
    rows = []
    for row in done.to_dict("records"):
        differences = [_difference(row, control)] if control else []
        on_front = [Entry(row["front"] or number_format.NONE, float(row["front"] == "yes"))] if front else []
        counts = [_count(row["group"]), *on_front, _count(row["seeds"])]
        rows.append([_name(row, checks=True), _mean(row, first, done), *differences, *counts])
        rows[-1] += [_mean(row, name, done) for name in others]
    what = findings.measured([first, *others]) if rows else ""
    caption = f"{what} on test in per cent: mean over seeds ± half of its 95 % interval"
    best = int((done["group"] == 1).sum())
    remark = "Bold: indistinguishable from the highest figure of the column." if _any_best(rows) else ""
    return Table("ranking", caption, columns, rows, remark, best=best if best < len(done) else 0)


def scores_of_kind(leaderboard: pd.DataFrame, kind: str) -> Table:
    """Every test score of a kind, a key of `KINDS`, one row per cell in the leaderboard's order.

    For corruptions means over severities; for attributions also the control, and how many images were counted."""
    done = finished(leaderboard)
    names = [c for c in done.columns if c.startswith("test/") and done[c].notna().any()]
    names = [n for n in names if score_names.kind(n) == kind and score_names.in_own_table(n)]
    counted = {
        f"{count}:{name}": f"{label} ({PROTOCOLS[attribution[0]]})"
        for name in names
        if (attribution := score_names.attribution(name)) and attribution[1:] == ("", "in")
        for count, label in (("n", "Images"), ("dropped", "Dropped"))
        if f"{count}:{name}" in done and done[f"{count}:{name}"].notna().any()
    }
    columns = [Column("Cell", number=False), *map(Column, [*map(_header, names), *counted.values()])]
    rows = []
    for row in done.to_dict("records"):
        images = [Entry(number_format.number(row[c]), _number(row[c])) for c in counted]
        rows.append([_name(row), *(_mean(row, n, done) for n in names), *images])
    caption = f"{KINDS[kind]}, on test in per cent"
    return Table(kind, caption, columns, rows if names else [])


def settings(leaderboard: pd.DataFrame) -> Table:
    """Hyperparameters of each winner, one column each; the remark is the search domain, if cells share it."""
    done = finished(leaderboard)
    paths = [c.removeprefix("set:") for c in done.columns if c.startswith("set:") and done[c].notna().any()]
    columns = [Column("Cell", number=False)]
    for path in paths:
        domains = [d for d in done[f"domain:{path}"].dropna().unique() if d]
        columns.append(Column(path, f"searched: {domains[0]}" if len(domains) == 1 else ""))
    rows = []
    for row in done.to_dict("records"):
        entries = [_name(row)]
        for path in paths:
            chosen = row[f"set:{path}"] if isinstance(row[f"set:{path}"], str) else ""
            text = " | ".join(number_format.setting(path, t) for t in chosen.split(" | "))
            entries.append(Entry(text or number_format.NONE, _sorted_as(chosen)))
        rows.append(entries)
    return Table("settings", "Hyperparameters of the winners", columns, rows if paths else [])


def cost(leaderboard: pd.DataFrame) -> Table:
    """Trials, device-seconds and test evaluations of every cell."""
    phases = {
        "teacher": "Teacher",
        "maps": "Maps",
        "train": "Training",
        "evaluation": "Evaluation",
        "all": "All runs",
    }
    phases = {phase: label for phase, label in phases.items() if leaderboard[f"seconds:{phase}"].notna().any()}
    labels = ["Complete", "Pruned", "Failed", *phases.values(), "Test evaluations"]
    columns = [Column("Cell", number=False), *map(Column, labels)]
    rows = []
    for row in leaderboard.to_dict("records"):
        counts = [row["trials:complete"], row["trials:pruned"], row["trials:failed"] + row["seeds:failed"]]
        times = [Entry(number_format.seconds(row[f"seconds:{p}"]), _number(row[f"seconds:{p}"])) for p in phases]
        rows.append([_name(row), *map(_count, counts), *times, _count(row["touches"])])
    remark = (
        "Trials of the search by final state (failed: seed runs too); device-seconds, mean per seed run, and for "
        "training and evaluation of all complete runs; how often the cell was measured on test."
    )
    if "maps" in phases:
        remark += " A teacher and its maps are made once and cached: every run that uses them lists the cost."
    return Table("cost", "Cost in trials and device-seconds", columns, rows, remark)


def published_figures(leaderboard: pd.DataFrame) -> Table:
    """Measured score and published figure, one row per cell and score that has one."""
    labels = ["Cell", "Score", "Measured", "Published", "Difference", "In the interval", "Note"]
    columns = [Column(label, number=label in ("Measured", "Published", "Difference")) for label in labels]
    names = [c.removeprefix("published:") for c in leaderboard.columns if c.startswith("published:")]
    rows, sources = [], set()
    for row in leaderboard.to_dict("records"):
        for name in (n for n in names if not is_missing(row[f"published:{n}"])):
            value, difference = row[f"published:{name}"], row[f"published_difference:{name}"]
            sources.add(row[f"published_source:{name}"])
            covered = row[f"published_covered:{name}"] or "one seed"
            rows.append(
                [
                    _name(row),
                    Entry(score_names.label(name), name),
                    _mean(row, name),
                    Entry(f"{100 * value:.4g}", value),  # as printed
                    Entry(number_format.points(difference), difference),
                    Entry(covered, covered),
                    Entry(row[f"published_note:{name}"], row[f"published_note:{name}"]),
                ]
            )
    if not any(row[-1].text for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    remark = (
        f"From {'; '.join(sorted(sources))}: same data set, method, maps, attack and eps. Net, epochs and "
        "tuning may differ; the published figures have no intervals. The difference, measured minus "
        "published, is in percentage points."
    )
    if any(map(score_names.attribution, names)):
        remark += (
            " Attacks on attributions agree in protocol, eps and k; steps, interpolation points and images may differ."
        )
    return Table("published", "Comparison with published figures", columns, rows, remark)


def unfinished(leaderboard: pd.DataFrame) -> Table:
    """Cells without scores yet, and why."""
    columns = [Column("Cell", number=False), Column("Why", number=False)]
    waiting = leaderboard[leaderboard["seeds"] == 0].to_dict("records")
    rows = [[_name(row), Entry(row["not_finished"], row["not_finished"])] for row in waiting]
    return Table("unfinished", "Not finished", columns, rows)


def failed(runs: pd.DataFrame) -> Table:
    """Failed and excluded runs with their reasons."""
    columns = [Column("Cell", number=False), Column("Run", number=False), Column("Reason", number=False)]
    rows = []
    for row in counted_runs.failures(runs).to_dict("records"):
        number = "" if is_missing(row["number"]) else f" {row['number']}"
        key = f" ({row['key']})" if isinstance(row["key"], str) and row["key"] else ""
        run = f"{row['role']}{number}{key}"
        rows.append([_name(row), Entry(run, run), Entry(row["reason"], row["reason"])])
    return Table("failed", "Excluded runs", columns, rows, "None of them enters a mean, an interval or a rank.")


def _name(row: dict, checks: bool = False) -> Entry:
    """The cell, marked as control; checks: also with its number of failed checks."""
    marks = ["control"] if row.get("control") else []
    failed = len(row["doubts"].split(", ")) if checks and not is_missing(row["doubts"]) and row["doubts"] else 0
    marks += [f"{failed} failed check{'s' if failed > 1 else ''}"] if failed else []
    return Entry(row["cell"], row["cell"], ", ".join(marks))


def _count(number: int) -> Entry:
    return Entry(str(number), float(number))


def _mean(row: dict, name: str, among: pd.DataFrame | None = None) -> Entry:
    """A mean and its interval; among: rows of which it may be one of the best, unless all are."""
    column = f"best:{name}"
    best = among is not None and column in among and row[column] is True and not among[column].eq(True).all()
    best = best and row["seeds"] > 1  # one seed allows no test
    seeds = row.get(f"seeds:{name}", row["seeds"])
    mark = f"{seeds} seeds" if 0 < seeds < row["seeds"] else ""
    if not seeds and row["seeds"] and is_missing(row.get(f"n:{name}")):
        mark = "not measured"
    elif (
        among is not None
        and (version := row.get(f"version:{name}", 1)) < among.get(f"version:{name}", pd.Series(1)).max()
    ):
        mark = f"measured by version {version:g}"
    return Entry(number_format.with_interval(row[name], row[f"half:{name}"]), _number(row[name]), mark, best)


def _any_best(rows: list[list[Entry]]) -> bool:
    return any(entry.best for row in rows for entry in row)


def _difference(row: dict, control: str) -> Entry:
    if row["cell"] == control:
        return Entry(number_format.NONE, 0.0)
    return Entry(number_format.points(row["difference"], row["half:difference"]), _number(row["difference"]))


def _number(value: float) -> float | str:
    return "" if is_missing(value) else float(value)


def _sorted_as(text: str) -> float | str:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return text


def _header(score: str) -> str:
    return number_format.capitalised(score_names.label(score))
