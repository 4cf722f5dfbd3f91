"""The tables of a board, to be laid out: ranking, answers, settings, costs, papers, what is missing."""

from dataclasses import dataclass
from fractions import Fraction

import pandas as pd

from reports import scores, selection, words
from reports.words import missing

MOST = 10  # scores that the ranking shows beside the ranked one


@dataclass(frozen=True)
class Entry:
    """A field of a table: its text, the number or text it sorts by ("": last), and a remark beside it.

    best: cannot be told from the best of its column.
    """

    text: str
    sort: float | str
    mark: str = ""
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A column: its header, a remark on it, and whether it holds numbers."""

    label: str
    remark: str = ""
    number: bool = True


@dataclass(frozen=True)
class Table:
    """A caption, columns, rows of as many entries, a remark below; `best` rows at the top stand out.

    The first column names the row.
    """

    key: str
    caption: str
    columns: list[Column]
    rows: list[list[Entry]]
    remark: str = ""
    best: int = 0


def ranking(board: pd.DataFrame) -> Table:
    """Cell, ranked score, difference to the control, rank group, front of several goals, seeds, the other scores.

    Of more than `MOST` others only goals and accuracies: every question has a table of its own as well (`answers`)."""
    done = words.finished(board)
    first, *others = words.shown(done) or [""]
    if len(others) > MOST:
        others = [n for n in others if n in words.goals(board) or scores.question(n) == "accuracy"]
    control = words.against(done)
    versus = [f"vs {control}"] if control else []
    front = ["Front"] if "front" in done else []
    labels = [_header(first), *versus, "Group", *front, "Seeds", *map(_header, others)]
    columns = [Column("Cell", number=False), *map(Column, labels)]
    rows = []
    for row in done.to_dict("records"):
        apart = [_apart(row, control)] if control else []
        on_front = [Entry(row["front"] or words.NONE, float(row["front"] == "yes"))] if front else []
        counts = [_count(row["group"]), *on_front, _count(row["seeds"])]
        rows.append([_name(row, "doubts"), _mean(row, first, done), *apart, *counts])
        rows[-1] += [_mean(row, name, done) for name in others]
    what = words.measured([first, *others]) if rows else ""
    caption = f"{what} on test in per cent: mean over seeds ± half of its 95 % interval"
    best = int((done["group"] == 1).sum())
    remark = "Bold: cannot be told from the highest figure of the column." if _any_best(rows) else ""
    return Table("ranking", caption, columns, rows, remark, best=best if best < len(done) else 0)


def answers(board: pd.DataFrame, question: str) -> Table:
    """Every score on test that answers one of `scores.QUESTIONS`, a row per cell in the board's order.

    Of corruptions the means over severities; of attributions also the control, and how many images were counted."""
    done = words.finished(board)
    names = [c for c in done.columns if c.startswith("test/") and done[c].notna().any()]
    names = [n for n in names if scores.question(n) == question and _told(n)]
    counted = {
        f"{kind}:{name}": f"{label} ({scores.PROTOCOLS[found[0]]})"
        for name in names
        if (found := scores.attribution(name)) and found[1:] == ("", "in")
        for kind, label in (("n", "Images"), ("dropped", "Dropped"))
        if f"{kind}:{name}" in done and done[f"{kind}:{name}"].notna().any()
    }
    columns = [Column("Cell", number=False), *map(Column, [*map(_header, names), *counted.values()])]
    rows = []
    for row in done.to_dict("records"):
        images = [Entry(words.number(row[c]), _number(row[c])) for c in counted]
        rows.append([_name(row), *(_mean(row, n, done) for n in names), *images])
    caption = f"{scores.QUESTIONS[question]}, on test in per cent"
    return Table(question, caption, columns, rows if names else [])


def _told(name: str) -> bool:
    """Whether the table of a question shows the score: more than the ranking does."""
    found, single = scores.attribution(name), scores.corruption(name)
    if found:
        return found[2] in ("in", "k")
    return single[1] == 0 if single else not scores.minor(name)


def settings(board: pd.DataFrame) -> Table:
    """What each winner was tuned to, a column a setting; its remark is the domain, where cells share it."""
    done = words.finished(board)
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
            shown = " | ".join(words.setting(path, t) for t in chosen.split(" | "))
            entries.append(Entry(shown or words.NONE, _sorted_as(chosen)))
        rows.append(entries)
    return Table("settings", "What the winners were tuned to", columns, rows if paths else [])


def cost(board: pd.DataFrame) -> Table:
    """Trials, device-seconds and touches of the test images, of every cell."""
    spent = {
        "teacher": "Teacher",
        "maps": "Maps",
        "train": "Training",
        "evaluation": "Evaluation",
        "all": "All runs",
    }
    spent = {phase: label for phase, label in spent.items() if board[f"seconds:{phase}"].notna().any()}
    labels = ["Complete", "Pruned", "Failed", *spent.values(), "On test"]
    columns = [Column("Cell", number=False), *map(Column, labels)]
    rows = []
    for row in board.to_dict("records"):
        counts = [row["trials:complete"], row["trials:pruned"], row["trials:failed"] + row["seeds:failed"]]
        times = [Entry(words.seconds(row[f"seconds:{p}"]), _number(row[f"seconds:{p}"])) for p in spent]
        rows.append([_name(row), *map(_count, counts), *times, _count(row["touches"])])
    remark = (
        "Trials of the search by how they ended (failed: seed runs too); device-seconds of a seed run on "
        "average, and of training and evaluation in all complete runs; how often the cell was measured on "
        "test."
    )
    if "maps" in spent:
        remark += " A teacher and its maps are made once and kept: every run that reads them states the cost."
    return Table("cost", "What it took, in trials and device-seconds", columns, rows, remark)


def beside(board: pd.DataFrame) -> Table:
    """Ours and the published figure, a row per cell and score that has one."""
    labels = ["Cell", "Score", "Ours", "Published", "Difference", "In our interval", "Note"]
    columns = [Column(label, number=label in ("Ours", "Published", "Difference")) for label in labels]
    names = [c.removeprefix("published:") for c in board.columns if c.startswith("published:")]
    rows, sources = [], set()
    for row in board.to_dict("records"):
        for name in (n for n in names if not missing(row[f"published:{n}"])):
            value, apart = row[f"published:{name}"], row[f"published_difference:{name}"]
            sources.add(row[f"published_source:{name}"])
            covered = row[f"published_covered:{name}"] or "one seed"
            rows.append(
                [
                    _name(row),
                    Entry(scores.label(name), name),
                    _mean(row, name),
                    Entry(f"{100 * value:.4g}", value),  # as printed
                    Entry(words.points(apart), apart),
                    Entry(covered, covered),
                    Entry(row[f"published_note:{name}"], row[f"published_note:{name}"]),
                ]
            )
    if not any(row[-1].text for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    remark = (
        f"From {'; '.join(sorted(sources))}: same data set, method, maps, attack and eps. Net, epochs and "
        "tuning are ours and may differ; the published figures come without intervals. The difference, ours "
        "minus theirs, is in percentage points."
    )
    if any(map(scores.attribution, names)):
        remark += " Attacks on attributions agree in protocol, eps and k; steps, points and images may differ."
    return Table("published", "Beside the published figures", columns, rows, remark)


def unfinished(board: pd.DataFrame) -> Table:
    """Cells without figures yet, and why."""
    columns = [Column("Cell", number=False), Column("Why", number=False)]
    waiting = board[board["seeds"] == 0].to_dict("records")
    rows = [[_name(row), Entry(row["not_finished"], row["not_finished"])] for row in waiting]
    return Table("unfinished", "Not finished", columns, rows)


def failed(runs: pd.DataFrame) -> Table:
    """Failed runs and their reasons."""
    columns = [Column("Cell", number=False), Column("Run", number=False), Column("Reason", number=False)]
    rows = []
    for row in selection.failures(runs).to_dict("records"):
        number = "" if missing(row["number"]) else f" {row['number']}"
        key = f" ({row['key']})" if isinstance(row["key"], str) and row["key"] else ""
        run = f"{row['role']}{number}{key}"
        rows.append([_name(row), Entry(run, run), Entry(row["reason"], row["reason"])])
    return Table("failed", "Runs left out", columns, rows, "None of them enters a mean, an interval or a rank.")


def _name(row: dict, *also: str) -> Entry:
    """The cell, marked as control; also how many checks doubt its figures, if asked."""
    marks = ["control"] if row.get("control") else []
    doubts = len(row["doubts"].split(", ")) if "doubts" in also and not missing(row["doubts"]) and row["doubts"] else 0
    marks += [f"{doubts} doubt{'s' if doubts > 1 else ''}"] if doubts else []
    return Entry(row["cell"], row["cell"], ", ".join(marks))


def _count(number: int) -> Entry:
    return Entry(str(number), float(number))


def _mean(row: dict, name: str, among: pd.DataFrame | None = None) -> Entry:
    """A mean and its interval; among other rows, whether it is as good as the best of them, where any is not."""
    column = f"best:{name}"
    best = among is not None and column in among and row[column] is True and not among[column].eq(True).all()
    best = best and row["seeds"] > 1  # a single one cannot be told from anything
    seeds = row.get(f"seeds:{name}", row["seeds"])
    mark = f"{seeds} seeds" if 0 < seeds < row["seeds"] else ""
    return Entry(words.with_interval(row[name], row[f"half:{name}"]), _number(row[name]), mark, best)


def _any_best(rows: list[list[Entry]]) -> bool:
    return any(entry.best for row in rows for entry in row)


def _apart(row: dict, control: str) -> Entry:
    if row["cell"] == control:
        return Entry(words.NONE, 0.0)
    return Entry(words.points(row["difference"], row["half:difference"]), _number(row["difference"]))


def _number(value: float) -> float | str:
    return "" if missing(value) else float(value)


def _sorted_as(text: str) -> float | str:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return text


def _header(score: str) -> str:
    return words.capitalised(scores.label(score))
