"""The plots of a report, made of its board and runs."""

import math
from dataclasses import dataclass

import pandas as pd

from reports import analysis, plots, scores, selection, words
from reports.words import missing


@dataclass(frozen=True)
class Drawing:
    """One plot as SVG text, under its name."""

    name: str
    svg: str


@dataclass(frozen=True)
class Figure:
    """Drawings side by side under a caption.

    narrow: two stand side by side on a phone. folded: to be opened by the reader. why_not: why there are none.
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
    """Rows of (name, number, SVG) over one scale, an SVG as well: together one plot."""

    key: str
    caption: str
    rows: list[tuple[str, str, str]]
    axis: str
    remark: str = ""


def spread(board: pd.DataFrame, runs: pd.DataFrame) -> Spread:
    """The ranked score of every row, its interval and its seeds."""
    done = words.finished(board)
    score = done.iloc[0]["ranked_by"]
    control = words.against(done)
    tested = selection.tested(runs)
    rows = done.to_dict("records")
    dots = [
        plots.Dot(
            row[score],
            row[f"half:{score}"],
            tuple(tested.loc[tested["row"] == row["cell"], score]),
            "control" if row["control"] else "best" if row["group"] == 1 else "rest",
        )
        for row in rows
    ]
    reference = [row[score] for row in rows if row["cell"] == control]
    drawn, axis = plots.intervals(dots, *reference, least=scores.least(score))
    numbers = [words.with_interval(row[score], row[f"half:{score}"]) for row in rows]
    remark = "Dot: mean over seeds, in per cent. Bar: its 95 % interval. Ticks below: single seeds. "
    remark += f"Blue: the first group. Hollow: controls.{f' Dashed: {control}.' if control else ''}"
    names = (row["cell"] for row in rows)
    return Spread("spread", f"{_spoken(score)} on test", list(zip(names, numbers, drawn, strict=True)), axis, remark)


def strength(board: pd.DataFrame) -> Figure:
    """Accuracy against eps, a drawing per cell, where at least one attack was measured."""
    done = words.finished(board)
    found = {name: attack for name in words.shown(done) if (attack := scores.attack(name))}
    families = [attack[1:] for attack in found.values()]
    family = max(families, key=lambda f: (families.count(f), f), default=None)  # the one measured at most eps
    strengths = [(0.0, "test/clean"), *sorted((a[0], name) for name, a in found.items() if a[1:] == family)]
    curves = []
    for row in done.to_dict("records"):
        there = [(eps, name) for eps, name in strengths if not missing(row.get(name))]
        if len(there) > 1:
            curves.append(plots.Curve(row["cell"], tuple((e, row[name], row[f"half:{name}"]) for e, name in there)))
    drawings = [Drawing(own.name, plots.curve(own, [c for c in curves if c is not own])) for own in curves]
    attack = scores.family(*family) if family else ""
    remark = f"Per cent right on test under {attack}, over eps in 255ths; shaded: 95 % interval; grey: the other cells."
    return Figure("strength", "Accuracy against eps", drawings, remark, narrow=True)


def corruptions(board: pd.DataFrame) -> Figure:
    """Accuracy under every corruption at every severity, a heat map per cell."""
    done = words.finished(board)
    single = {found: name for name in done.columns if name.startswith("test/") and (found := scores.corruption(name))}
    kinds = [kind for kind in scores.CORRUPTIONS if any((kind, severity) in single for severity in range(1, 6))]
    drawings = []
    for row in done.to_dict("records"):
        values = [[row.get(single.get((kind, severity)), math.nan) for severity in range(1, 6)] for kind in kinds]
        if not all(missing(value) for line in values for value in line):
            rows, columns = [kind.replace("_", " ") for kind in kinds], [str(severity) for severity in range(1, 6)]
            title = f"{row['cell']}: per cent right by corruption and severity"
            drawings.append(Drawing(row["cell"], plots.heat(rows, columns, values, title=title)))
    remark = "Per cent right on test, a row for each corruption, a column for each of its five severities."
    return Figure("corruptions", "Corruptions by severity", drawings, remark)


def fronts(board: pd.DataFrame) -> Figure:
    """What is paid for the ranked score: clean accuracy, stability of attributions, device time."""
    done = words.finished(board)
    score = done.iloc[0]["ranked_by"]
    stable = [n for n in words.shown(done) if (a := scores.attribution(n)) and a[2] == "in"]
    rivals = dict.fromkeys(["test/clean", *words.goals(board), *stable[:1]])
    pairs = [(name, scores.label(name)) for name in rivals if name != score and name in done]
    drawings = []
    for x, of in [*pairs, ("seconds:train", "training time")]:
        rows = [row for row in done.to_dict("records") if not missing(row.get(x)) and not missing(row[score])]
        halves = [(row.get(f"half:{x}", math.nan), row[f"half:{score}"]) for row in rows]
        points = [
            plots.Point(row["cell"], row[x], row[score], *half, _kind(row))
            for row, half in zip(rows, halves, strict=True)
        ]
        time = {"log_x": True, "less_x": True, "unit_x": " s"} if x == "seconds:train" else {}
        if len(points) > 1:
            drawn = plots.front(points, x=of, y=scores.label(score), **time)
            drawings.append(Drawing(f"{_spoken(score)} against {of}", drawn))
    remark = "Strong: no other cell is as good in both and better in one, by the means. Faint: the others. "
    remark += "Hollow: controls."
    return Figure("fronts", "What it is paid with", drawings, remark)


def _kind(row: dict) -> str:
    return "control" if row["control"] else "best" if row["group"] == 1 else "rest"


def hyperparameters(runs: pd.DataFrame, board: pd.DataFrame) -> list[Figure]:
    """The goal against every setting that was searched, a figure per setting and a drawing per cell."""
    search = runs[(runs["role"] == "search") & runs["state"].isin(["complete", "pruned"])]
    goal = selection.goals(runs)[0]
    last = "curve/" + goal.partition("/")[2]  # where a pruned trial stood
    figures = []
    for path in sorted(c.removeprefix("space:") for c in runs.columns if c.startswith("space:")):
        drawings = []
        for cell, rows in _cells(runs, board).items():
            mine = search[search["cell"] == cell]
            domain = analysis.domain(next(iter(mine[f"space:{path}"].dropna()), None))
            reached = {"complete": goal, "pruned": last}
            known = mine.reindex(columns=["state", f"param:{path}", goal, last])
            points = [_point(path, run, reached[run["state"]]) for run in known.to_dict("records")]
            points = [p for p in points if not missing(p[0]) and not missing(p[1])]
            if domain and len(points) > 1:
                winners = set(rows.get(f"set:{path}", []))
                chosen = _value(path, winners.pop()) if len(winners) == 1 else None
                drawings.append(Drawing(cell, plots.against(points, label=path, chosen=chosen, **_axis(path, domain))))
        remark = f"{words.capitalised(scores.label(goal))} on validation, in per cent. "
        remark += "Hollow: stopped early, at its last value. Line: the winner."
        caption, folded = f"Goal against {path}", bool(figures)
        figures.append(Figure(f"against-{path}", caption, drawings, remark, narrow=True, folded=folded))
    return figures


def _cells(runs: pd.DataFrame, board: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every cell, in the board's order, with its rows there: one of several winners has several."""
    tested = selection.tested(runs)
    of = dict(zip(tested["row"], tested["cell"], strict=True))
    cells = [of.get(row, row) for row in board["cell"]]
    return {cell: board[[c == cell for c in cells]] for cell in dict.fromkeys(cells)}


def _point(path: str, run: dict, score: str) -> tuple[float | str | None, float | None, str]:
    return _value(path, run.get(f"param:{path}")), run.get(score), run["state"]


def _value(path: str, text: object) -> float | str | None:
    """A setting as a plot places it: strengths in 255ths, text where it is no number; none for several at once."""
    if not isinstance(text, str) or " | " in text:
        return None
    value = words.plain(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text
    return value * 255 if words.in_255ths(path) else value


def _axis(path: str, domain: analysis.Domain) -> dict[str, object]:
    """The ends of the domain, where it is of numbers."""
    by = 255 if words.in_255ths(path) else 1
    numbers = [c for c in domain.choices if isinstance(c, int | float) and not isinstance(c, bool)]
    if domain.choices and len(numbers) < len(domain.choices):
        return {}
    low, high = (min(numbers), max(numbers)) if numbers else (domain.low, domain.high)
    return {"low": low * by, "high": high * by, "log": domain.log, "unit": "/255" if by != 1 else ""}


def importance(runs: pd.DataFrame) -> Figure:
    """How much of the goal's spread each searched setting explains, over the finished trials of the search."""
    found = analysis.importance(runs)
    items = [(path, share, math.nan, "") for path, share in found.shares]
    drawings = [Drawing("", plots.bars(items, unit="%"))] if items else []
    remark = (
        f"PED-ANOVA (Watanabe et al. 2023) on {found.trials} finished trials of the search, each by its rank within "
        "its cell; pruned and failed trials do not enter. It says what matters more, not whether anything matters."
    )
    return Figure("importance", "Importance of what was searched", drawings, remark, why_not=found.why_not)


def learning(runs: pd.DataFrame, board: pd.DataFrame) -> Figure:
    """Validation curves, a drawing per cell, with the best and the last epoch of the seeds."""
    goal = selection.goals(runs)[0].partition("/")[2]
    name = next((n for n in (goal, "robust", "clean") if f"curve:{n}" in runs), None)
    if name is None:
        return Figure("learning", "", [])
    tested = set(selection.tested(runs)["run_id"])
    drawings = []
    for cell in _cells(runs, board):
        courses, epochs = [], 0.0
        known = ["run_id", "state", "role", "number", "param:epochs", f"curve:{name}"]
        for run in runs[runs["cell"] == cell].reindex(columns=known).to_dict("records"):
            kind = "seed" if run["run_id"] in tested else "pruned" if run["state"] == "pruned" else "search"
            points = tuple(analysis.curve(run[f"curve:{name}"]))
            if points and (kind != "search" or run["role"] == "search"):
                courses.append(plots.Course(f"{run['role']} {run['number']}", points, kind))
                epochs = max(epochs, 0.0 if missing(run["param:epochs"]) else float(run["param:epochs"]))
        if courses:
            drawings.append(Drawing(cell, plots.learning(courses, epochs=epochs)))
    remark = (
        f"{words.capitalised(scores.label(name))} on validation, in per cent, by epoch. In colour: the seeds of the "
        "winners, a full dot at the best epoch, a hollow one at the last. Grey: trials of the search, a cross where "
        "one was stopped."
    )
    return Figure("learning", "Learning curves", drawings, remark, narrow=True)


def fidelities(runs: pd.DataFrame) -> Figure:
    """How well an early epoch tells which trial will be the better one."""
    items = [(rung.epoch, rung.tau, rung.n) for rung in analysis.fidelity(runs)]
    drawings = [Drawing("", plots.rungs(items))] if items else []
    remark = (
        "Kendall's tau between the validation curve at an epoch and the final goal, over trials that ran to their end, "
        "within cells; 1: the order there is the final one, and stopping early loses nothing. Trials that were stopped "
        "are not in it."
    )
    return Figure("fidelities", "What an early epoch tells", drawings, remark, narrow=True)


def epoch_time(runs: pd.DataFrame, board: pd.DataFrame) -> Figure:
    """Device-seconds of a training epoch, a bar per cell, in the board's order."""
    known = analysis.epoch_seconds(runs)
    items = [(cell, *known[cell], "") for cell in board["cell"] if cell in known]
    drawings = [Drawing("", plots.bars(items, unit=" s"))] if items else []
    remark = "Device-seconds of training per epoch, mean over seed runs; maps and teachers come on top, once."
    return Figure("epochs", "Training time per epoch", drawings, remark)


def _spoken(score: str) -> str:
    """`Robust accuracy`, `IN (strong)`."""
    return words.capitalised(scores.label(score)) + (" accuracy" if scores.accuracy(score) else "")
