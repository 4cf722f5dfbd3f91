"""Figures of a report: SVG plots of the leaderboard, the search and the validation curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.config.search_domains import Domain, Range, numbers
from harness.data.corruptions.names import NAMES, SEVERITIES
from reports.analyse import counted_runs, rung_agreement, search_domain_tags
from reports.analyse import importance as analyse_importance
from reports.analyse.curves import curve, epoch_seconds
from reports.analyse.missing import is_missing
from reports.analyse.rows import Leaderboard, Row
from reports.present import number_format, plots
from reports.read import score_names


@dataclass(frozen=True)
class Drawing:
    """A named plot as SVG text."""

    name: str
    svg: str


@dataclass(frozen=True)
class Figure:
    """Drawings side by side under a caption.

    narrow: two fit side by side on a phone. folded: collapsed at first. why_not: why there are no drawings.
    """

    key: str
    caption: str
    drawings: list[Drawing]
    remark: str = ""
    narrow: bool = False
    folded: bool = False
    why_not: str = ""


@dataclass(frozen=True)
class Spread:
    """One plot in pieces: rows of (name, number, SVG), and the SVG of their common axis."""

    key: str
    caption: str
    rows: list[tuple[str, str, str]]
    axis: str
    remark: str = ""


def spread(leaderboard: Leaderboard, runs: pd.DataFrame) -> Spread:
    """The ranked score of every row with its interval and single seeds."""
    done, score, control = leaderboard.finished, leaderboard.ranked_by, leaderboard.control
    tested = counted_runs.tested(runs)
    ranked = [row.figure(score) for row in done]
    seeds = [tuple(tested.loc[tested["row"] == row.name, score]) for row in done]
    dots = [
        plots.Dot(figure.mean, figure.half, values, _kind(row))
        for row, figure, values in zip(done, ranked, seeds, strict=True)
    ]
    reference = [row.figure(score).mean for row in done if row.name == control]
    drawn, axis = plots.interval_chart(dots, *reference, least=score_names.minimum(score))
    numbers = [number_format.with_interval(figure.mean, figure.half, score_names.unit(score)) for figure in ranked]
    remark = "Dot: mean over seeds, in per cent. Bar: its 95 % interval. Ticks below: single seeds. "
    remark += f"Blue: the first group. Hollow: controls.{f' Dashed: {control}.' if control else ''}"
    names = (row.name for row in done)
    return Spread(
        "spread", f"{_score_title(score)} on test", list(zip(names, numbers, drawn, strict=True)), axis, remark
    )


def strength(leaderboard: Leaderboard) -> Figure:
    """Accuracy against eps, one drawing per cell, if at least one attack was measured."""
    attacks = {name: attack for name in leaderboard.shown if (attack := score_names.attack(name))}
    families = [attack[1:] for attack in attacks.values()]
    family = max(families, key=lambda f: (families.count(f), f), default=None)  # the one with the most values of eps
    strengths = [(0.0, "test/clean"), *sorted((a[0], name) for name, a in attacks.items() if a[1:] == family)]
    curves = []
    for row in leaderboard.finished:
        measured = [(eps, row.figure(name)) for eps, name in strengths]
        points = tuple((eps, figure.mean, figure.half) for eps, figure in measured if not math.isnan(figure.mean))
        if len(points) > 1:
            curves.append(plots.Curve(row.name, points))
    drawings = [Drawing(own.name, plots.curve(own, [c for c in curves if c is not own])) for own in curves]
    under = score_names.family(*family) if family else ""
    remark = f"Accuracy on test in per cent under {under}; eps in 255ths; shaded: 95 % interval; grey: other cells."
    return Figure("strength", "Accuracy against eps", drawings, remark, narrow=True)


def corruptions(leaderboard: Leaderboard) -> Figure:
    """Accuracy under every corruption at every severity, one heat map per cell."""
    single = {corruption: name for name in leaderboard.scores if (corruption := score_names.corruption(name))}
    kinds = [kind for kind in NAMES if any((kind, severity) in single for severity in SEVERITIES)]
    drawings = []
    for row in leaderboard.finished:
        values = [[row.figure(single.get((kind, severity), "")).mean for severity in SEVERITIES] for kind in kinds]
        if not all(math.isnan(value) for line in values for value in line):
            rows, columns = [kind.replace("_", " ") for kind in kinds], list(map(str, SEVERITIES))
            title = f"{row.name}: accuracy in per cent by corruption and severity"
            drawings.append(Drawing(row.name, plots.heat(rows, columns, values, title=title)))
    remark = "Accuracy on test in per cent: a row for each corruption, a column for each of its five severities."
    return Figure("corruptions", "Corruptions by severity", drawings, remark)


def fronts(leaderboard: Leaderboard) -> Figure:
    """Trade-off of the ranked score against clean accuracy, attributional robustness and training time."""
    done, score = leaderboard.finished, leaderboard.ranked_by
    stable = [n for n in leaderboard.shown if (a := score_names.attribution(n)) and a[2] == "in"]
    others = dict.fromkeys(["test/clean", *leaderboard.goals, *stable[:1]])
    drawings = []
    for name in (name for name in others if name != score and name in leaderboard.scores):
        points = _points(leaderboard, [(row.figure(name).mean, row.figure(name).half) for row in done])
        if len(points) > 1:
            label = score_names.label(name)
            drawn = plots.front(points, x=label, y=score_names.label(score))
            drawings.append(Drawing(f"{_score_title(score)} against {label}", drawn))
    points = _points(leaderboard, [(row.cost.seconds.train, math.nan) for row in done])
    if len(points) > 1:
        time = "training time"
        drawn = plots.front(points, x=time, y=score_names.label(score), log_x=True, less_x=True, unit_x=" s")
        drawings.append(Drawing(f"{_score_title(score)} against {time}", drawn))
    remark = "Full colour: the Pareto front of the means, where no other cell is as good in both and better in one. "
    remark += "Faint: all others. Hollow: controls."
    return Figure("fronts", "Trade-offs", drawings, remark)


def _points(leaderboard: Leaderboard, across: Sequence[tuple[float, float]]) -> list[plots.Point]:
    """The ranked score of the finished rows against (x, half) of each; without rows that lack either."""
    points = []
    for row, (x, half) in zip(leaderboard.finished, across, strict=True):
        ranked = row.figure(leaderboard.ranked_by)
        points.append(plots.Point(row.name, x, ranked.mean, half, ranked.half, _kind(row)))
    return [point for point in points if not math.isnan(point.x) and not math.isnan(point.y)]


def _kind(row: Row) -> str:
    return "control" if row.control else "best" if row.group == 1 else "rest"


def hyperparameters(runs: pd.DataFrame, leaderboard: Leaderboard) -> list[Figure]:
    """The goal against every searched hyperparameter, one figure per hyperparameter and one drawing per cell."""
    search = runs[(runs["role"] == "search") & runs["state"].isin(["complete", "pruned"])]
    goal = counted_runs.goals(runs)[0]
    last = score_names.on(goal, "curve")  # the last value of a pruned trial
    figures: list[Figure] = []
    for path in sorted(c.removeprefix("space:") for c in runs.columns if c.startswith("space:")):
        drawings = []
        for cell, rows in _by_cell(leaderboard).items():
            trials = search[search["cell"] == cell]
            domain = search_domain_tags.domain(next(iter(trials[f"space:{path}"].dropna()), None))
            score_of = {"complete": goal, "pruned": last}
            known = trials.reindex(columns=["state", f"param:{path}", goal, last])
            points = []
            for run in known.to_dict("records"):
                value, reached = _value(path, run[f"param:{path}"]), run[score_of[run["state"]]]
                if value is not None and not is_missing(value) and not is_missing(reached):
                    points.append((value, reached, run["state"]))
            if domain and len(points) > 1:
                winners = {row.settings[path].text for row in rows if path in row.settings}
                chosen = _value(path, winners.pop()) if len(winners) == 1 else None
                low, high = _limits(path, domain)
                drawn = plots.against(
                    points,
                    label=path,
                    log=isinstance(domain, Range) and domain.log,
                    low=low,
                    high=high,
                    chosen=chosen,
                    unit="/255" if number_format.in_255ths(path) and low is not None else "",
                )
                drawings.append(Drawing(cell, drawn))
        remark = f"{number_format.capitalised(score_names.label(goal))} on validation, in per cent. "
        remark += "Hollow: pruned, at its last value. Line: the winner."
        caption, folded = f"Goal against {path}", bool(figures)
        figures.append(Figure(f"against-{path}", caption, drawings, remark, narrow=True, folded=folded))
    return figures


def _by_cell(leaderboard: Leaderboard) -> dict[str, list[Row]]:
    """Cell -> its rows, one per winner, in the leaderboard's order."""
    rows: dict[str, list[Row]] = {}
    for row in leaderboard.rows:
        rows.setdefault(row.cell, []).append(row)
    return rows


def _value(path: str, text: str | float | None) -> float | str | None:
    """A setting as a plot value: strengths in 255ths, text if not a number; None for several values at once."""
    if not isinstance(text, str) or " | " in text:
        return None
    value = number_format.plain(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text
    return value * 255 if number_format.in_255ths(path) else value


def _limits(path: str, domain: Domain) -> tuple[float, float] | tuple[None, None]:
    """Both ends of a numeric domain, strengths in 255ths; none of other domains."""
    factor = 255 if number_format.in_255ths(path) else 1
    values = numbers(domain)
    return (min(values) * factor, max(values) * factor) if values else (None, None)


def importance(runs: pd.DataFrame) -> Figure:
    """PED-ANOVA importance of every searched hyperparameter, over the complete trials of the search."""
    result = analyse_importance.importance(runs)
    items = [(path, share, math.nan, "") for path, share in result.shares]
    drawings = [Drawing("", plots.bar_chart(items, unit="%"))] if items else []
    remark = (
        f"PED-ANOVA (Watanabe et al. 2023) on {result.trials} complete trials of the search, each by its rank within "
        "its cell; pruned and failed trials are excluded. Importance is relative: it does not show that any matters."
    )
    return Figure("importance", "Importance of the hyperparameters", drawings, remark, why_not=result.why_not)


def learning(runs: pd.DataFrame, leaderboard: Leaderboard) -> Figure:
    """Validation curves, one drawing per cell, with the best and the last epoch of the seeds."""
    goal = score_names.on(counted_runs.goals(runs)[0], "")
    name = next((n for n in (goal, "robust", "clean") if f"curve:{n}" in runs), None)
    if name is None:
        return Figure("learning", "", [])
    tested = set(counted_runs.tested(runs)["run_id"])
    drawings = []
    for cell in _by_cell(leaderboard):
        courses, epochs = [], 0.0
        known = ["run_id", "state", "role", "number", "param:epochs", f"curve:{name}"]
        for run in runs[runs["cell"] == cell].reindex(columns=known).to_dict("records"):
            kind = "seed" if run["run_id"] in tested else "pruned" if run["state"] == "pruned" else "search"
            points = tuple(curve(run[f"curve:{name}"]))
            if points and (kind != "search" or run["role"] == "search"):
                courses.append(plots.Course(f"{run['role']} {run['number']}", points, kind))
                epochs = max(epochs, 0.0 if is_missing(run["param:epochs"]) else float(run["param:epochs"]))
        if courses:
            drawings.append(Drawing(cell, plots.learning(courses, epochs=epochs)))
    remark = (
        f"{number_format.capitalised(score_names.label(name))} on validation, in per cent, by epoch. In colour:"
        " the seeds of the winners, a full dot at the best epoch, a hollow one at the last. Grey: trials of the"
        " search, a cross where one was pruned."
    )
    return Figure("learning", "Learning curves", drawings, remark, narrow=True)


def fidelities(runs: pd.DataFrame) -> Figure:
    """Rank correlation of early epochs with the final ranking of the trials."""
    items = [(rung.epoch, rung.tau, rung.n) for rung in rung_agreement.rung_agreement(runs)]
    drawings = [Drawing("", plots.rungs(items))] if items else []
    remark = (
        "Kendall's tau between the validation curve at an epoch and the final goal, over complete trials within cells; "
        "1: the ranking at this epoch is the final one, and pruning by it loses nothing. Pruned trials are excluded."
    )
    return Figure("fidelities", "How early epochs predict the final ranking", drawings, remark, narrow=True)


def epoch_time(runs: pd.DataFrame, leaderboard: Leaderboard) -> Figure:
    """Device-seconds of a training epoch, one bar per cell, in the leaderboard's order."""
    known = epoch_seconds(runs)
    items = [(cell, *known[cell], "") for cell in (row.name for row in leaderboard.rows) if cell in known]
    drawings = [Drawing("", plots.bar_chart(items, unit=" s"))] if items else []
    remark = (
        "Device-seconds of training per epoch, mean over seed runs, without teachers and maps, which are made once."
    )
    return Figure("epochs", "Training time per epoch", drawings, remark)


def _score_title(score: str) -> str:
    """`Robust accuracy`, `IN (strong)`."""
    return number_format.capitalised(score_names.label(score)) + (" accuracy" if score_names.accuracy(score) else "")
