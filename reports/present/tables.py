"""Tables of a report: ranking, scores by kind, hyperparameters, cost, published figures, unfinished cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import pandas as pd

from harness.evaluation.metrics import KINDS, PROTOCOLS
from harness.evaluation.score_name import OWN_MAP, ScoreName
from reports.analyse import counted_runs
from reports.analyse.missing import is_missing
from reports.analyse.rows import Leaderboard, Row, Setting, WithRandomWeights
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


def ranking(leaderboard: Leaderboard) -> Table:
    """Cell, ranked score, difference to the control, rank group, front of several goals, seeds, the other scores.

    Of more than `MAX_OTHERS` others only goals and accuracies: every kind has its own table (`scores_of_kind`)."""
    done = leaderboard.finished
    first, *others = leaderboard.shown or [""]
    if len(others) > MAX_OTHERS:
        others = [n for n in others if n in leaderboard.goals or score_names.kind(n) == "accuracy"]
    control = leaderboard.control
    versus = [f"vs {control}"] if control else []
    front = ["Front"] if len(leaderboard.goals) > 1 else []
    labels = [_header(first), *versus, "Group", *front, "Seeds", *map(_header, others)]
    columns = [Column("Cell", number=False), *map(Column, labels)]
    rows = []
    for row in done:
        differences = [_difference(row, control, first)] if control else []
        on_front = [_on_front(row)] if front else []
        counts = [_count(row.group or 0), *on_front, _count(row.seeds)]
        rows.append([_name(row, checks=True), _mean(row, first, done), *differences, *counts])
        rows[-1] += [_mean(row, name, done) for name in others]
    what = findings.measured([first, *others]) if rows else ""
    caption = f"{what} on test {_in_units(first, *others)}: mean over seeds ± half of its 95 % interval"
    best = sum(row.group == 1 for row in done)
    directed = all(ScoreName.parse(name).about.better != "lower" for name in (first, *others))
    most = "highest" if directed else "best"
    remark = f"Bold: indistinguishable from the {most} figure of the column." if _any_best(rows) else ""
    return Table("ranking", caption, columns, rows, remark, best=best if best < len(done) else 0)


def scores_of_kind(leaderboard: Leaderboard, kind: str) -> Table:
    """Every test score of a kind, a key of `KINDS`, one row per cell in the leaderboard's order.

    For corruptions means over severities; for attributions also the control, whether each map depends on the net's
    weights, and how many images were counted."""
    done = leaderboard.finished
    names = [n for n in leaderboard.scores if score_names.kind(n) == kind and score_names.in_own_table(n)]
    counts: dict[str, list[float | None]] = {}  # header of a column -> numbers of images
    for name in names:
        if (attribution := score_names.attribution(name)) and attribution[1:] == ("", "in"):
            images = [row.figure(name).images for row in done]
            counts[f"Images ({PROTOCOLS[attribution[0]]})"] = [of.counted for of in images]
            counts[f"Dropped ({PROTOCOLS[attribution[0]]})"] = [of.dropped for of in images]
    counts = {label: numbers for label, numbers in counts.items() if not all(map(is_missing, numbers))}
    explained = dict.fromkeys(ScoreName.parse(name).explained for name in names)
    maps = [name for name in explained if any(name in row.random_weights for row in done)]
    columns = [Column("Cell", number=False), *map(Column, [*map(_header, names), *map(_weights_header, maps), *counts])]
    rows = []
    for i, row in enumerate(done):
        weights = [_depends_on_weights(row.random_weights.get(name)) for name in maps]
        numbers = [Entry(number_format.number(of[i]), _number(of[i])) for of in counts.values()]
        rows.append([_name(row), *(_mean(row, n, done) for n in names), *weights, *numbers])
    caption = f"{KINDS[kind]}, on test {_in_units(*names)}"
    remark = ""
    if maps:
        remark = (
            "Depends on weights: whether random weights change the map; in brackets the rank correlation of the maps "
            "before and after."
        )
    return Table(kind, caption, columns, rows if names else [], remark)


def settings(leaderboard: Leaderboard) -> Table:
    """Hyperparameters of each winner, one column each; the remark is the search domain, if cells share it."""
    done = leaderboard.finished
    in_space = sorted(done, key=lambda row: row.place)
    paths = list(dict.fromkeys(path for row in in_space for path in row.settings))
    columns = [Column("Cell", number=False)]
    for path in paths:
        domains = {row.settings[path].domain for row in done if path in row.settings} - {""}
        columns.append(Column(path, f"searched: {domains.pop()}" if len(domains) == 1 else ""))
    rows = [[_name(row), *(_setting(path, row.settings.get(path)) for path in paths)] for row in done]
    return Table("settings", "Hyperparameters of the winners", columns, rows if paths else [])


def cost(leaderboard: Leaderboard) -> Table:
    """Trials, device-seconds and test evaluations of every cell."""
    seconds = [row.cost.seconds for row in leaderboard.rows]
    phases = {
        "Teacher": [of.teacher for of in seconds],
        "Maps": [of.maps for of in seconds],
        "Training": [of.train for of in seconds],
        "Evaluation": [of.evaluation for of in seconds],
        "All runs": [of.all_runs for of in seconds],
    }
    phases = {label: of for label, of in phases.items() if not all(map(math.isnan, of))}
    labels = ["Complete", "Pruned", "Failed", *phases, "Test evaluations"]
    columns = [Column("Cell", number=False), *map(Column, labels)]
    rows = []
    for i, row in enumerate(leaderboard.rows):
        trials = row.cost.trials
        counts = [trials.complete, trials.pruned, trials.failed + row.cost.seeds_failed]
        times = [Entry(number_format.seconds(of[i]), _number(of[i])) for of in phases.values()]
        rows.append([_name(row), *map(_count, counts), *times, _count(row.cost.touches)])
    remark = (
        "Trials of the search by final state (failed: seed runs too); device-seconds, mean per seed run, and for "
        "training and evaluation of all complete runs; how often the cell was measured on test."
    )
    if "Maps" in phases:
        remark += " A teacher and its maps are made once and cached: every run that uses them lists the cost."
    return Table("cost", "Cost in trials and device-seconds", columns, rows, remark)


def published_figures(leaderboard: Leaderboard) -> Table:
    """Measured score and published figure, one row per cell and score that has one."""
    labels = ["Cell", "Score", "Measured", "Published", "Difference", "In the interval", "Note"]
    columns = [Column(label, number=label in ("Measured", "Published", "Difference")) for label in labels]
    in_space = sorted(leaderboard.rows, key=lambda row: row.place)
    names = list(dict.fromkeys(name for row in in_space for name, of in row.figures.items() if of.published))
    rows, sources = [], set()
    for row in leaderboard.rows:
        for name in names:
            if (known := row.figure(name).published) is None:
                continue
            sources.add(known.source)
            covered = {True: "yes", False: "no", None: "one seed"}[known.covered]
            rows.append(
                [
                    _name(row),
                    Entry(score_names.label(name), name),
                    _mean(row, name),
                    Entry(f"{100 * known.value:.4g}", known.value),  # as printed
                    Entry(number_format.points(known.difference), known.difference),
                    Entry(covered, covered),
                    Entry(known.note, known.note),
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


def unfinished(leaderboard: Leaderboard) -> Table:
    """Cells without scores yet, and why."""
    columns = [Column("Cell", number=False), Column("Why", number=False)]
    waiting = [row for row in leaderboard.rows if not row.seeds]
    rows = [[_name(row), Entry(row.not_finished, row.not_finished)] for row in waiting]
    return Table("unfinished", "Not finished", columns, rows)


def removed(leaderboard: Leaderboard) -> Table:
    """Cells of earlier commands that the space has no more."""
    columns = [Column("Cell", number=False), Column("What there is", number=False)]
    rows = [[Entry(cell, cell), Entry(about, about)] for cell, about in leaderboard.removed]
    return Table("removed", "No longer in the space", columns, rows)


def failed(runs: pd.DataFrame) -> Table:
    """Failed and excluded runs with their reasons."""
    columns = [Column("Cell", number=False), Column("Run", number=False), Column("Reason", number=False)]
    rows = []
    for row in counted_runs.failures(runs).to_dict("records"):
        number = "" if is_missing(row["number"]) else f" {row['number']}"
        key = f" ({row['key']})" if isinstance(row["key"], str) and row["key"] else ""
        run = f"{row['role']}{number}{key}"
        rows.append([Entry(row["cell"], row["cell"]), Entry(run, run), Entry(row["reason"], row["reason"])])
    return Table("failed", "Excluded runs", columns, rows, "None of them enters a mean, an interval or a rank.")


def _name(row: Row, checks: bool = False) -> Entry:
    """The row's name, marked as control; checks: also with its number of failed checks."""
    marks = ["control"] if row.control else []
    failed = len(row.doubts or ()) if checks else 0
    marks += [f"{failed} failed check{'s' if failed > 1 else ''}"] if failed else []
    return Entry(row.name, row.name, ", ".join(marks))


def _count(number: int) -> Entry:
    return Entry(str(number), float(number))


def _mean(row: Row, name: str, among: Sequence[Row] = ()) -> Entry:
    """A mean and its interval; among: rows of which it may be one of the best, unless all are."""
    figure = row.figure(name)
    best = figure.best and not all(other.figure(name).best for other in among)
    best = best and row.seeds > 1  # one seed allows no test
    marks = [f"{figure.seeds} seeds"] if 0 < figure.seeds < row.seeds else []
    if row.seeds and not figure.measured:
        marks.append("not measured")
    elif figure.version < max((other.figure(name).version for other in among), default=1):
        marks.append(f"measured by version {figure.version}")
    text = number_format.with_interval(figure.mean, figure.half, score_names.unit(name))
    return Entry(text, _number(figure.mean), ", ".join(marks), best)


def _weights_header(name: str) -> str:
    label = "" if name == OWN_MAP else f" ({score_names.MAP_LABELS.get(name, name)})"
    return f"Depends on weights{label}"


def _depends_on_weights(of: WithRandomWeights | None) -> Entry:
    """`yes (0.04)`, or `no (0.93)` if the map of a seed run does not."""
    if of is None:
        return Entry(number_format.NONE, "")
    verdict = "yes" if of.depends == of.seeds else "no"
    mark = f"in {of.seeds - of.depends} of {of.seeds} seeds" if 0 < of.depends < of.seeds else ""
    return Entry(f"{verdict} ({number_format.correlation(of.rank)})", _number(of.rank), mark)


def _any_best(rows: list[list[Entry]]) -> bool:
    return any(entry.best for row in rows for entry in row)


def _difference(row: Row, control: str, score: str) -> Entry:
    if row.name == control:
        return Entry(number_format.NONE, 0.0)
    difference = row.difference
    text = number_format.points(difference.mean, difference.half, score_names.unit(score))
    return Entry(text, _number(difference.mean))


def _on_front(row: Row) -> Entry:
    return Entry({True: "yes", False: "no", None: number_format.NONE}[row.front], float(row.front is True))


def _setting(path: str, setting: Setting | None) -> Entry:
    values = setting.values if setting else ()
    text = " | ".join(number_format.setting(path, value) for value in values)
    return Entry(text or number_format.NONE, _sorted_as(setting.text if setting else ""))


def _number(value: float | None) -> float | str:
    return "" if value is None or math.isnan(value) else float(value)


def _sorted_as(text: str) -> float | str:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return text


def _header(score: str) -> str:
    """The label, with the unit if it is not per cent."""
    unit = score_names.unit(score).name
    return number_format.capitalised(score_names.label(score)) + (f" [{unit}]" if unit != "%" else "")


def _in_units(*scores: str) -> str:
    others = any(score and score_names.unit(score).name != "%" for score in scores)
    return "in per cent, or in the unit in brackets" if others else "in per cent"
