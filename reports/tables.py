"""The tables of a report, to be laid out: ranking, settings, costs, papers, what is missing."""

from dataclasses import dataclass
from fractions import Fraction

import pandas as pd

from reports import scores, selection, words
from reports.words import missing


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


def every(runs: pd.DataFrame, board: pd.DataFrame) -> list[Table]:
    """All tables that have a row, in reading order."""
    built = [ranking(board), settings(board), cost(board), beside(board), unfinished(board), failed(runs)]
    return [table for table in built if table.rows]


def ranking(board: pd.DataFrame) -> Table:
    """Cell, ranked score, difference to the control, rank group, front of several goals, seeds, the other scores."""
    done = words.finished(board)
    first, *others = words.shown(done) or [""]
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
        rows.append([_name(row), _mean(row, first), *apart, *counts, *(_mean(row, name) for name in others)])
    what = words.measured([first, *others]) if rows else ""
    caption = f"{what} on test in per cent: mean over seeds ± half of its 95 % interval"
    best = int((done["group"] == 1).sum())
    return Table("ranking", caption, columns, rows, best=best if best < len(done) else 0)


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
    return Table("failed", "Failed runs", columns, rows, "None of them enters a mean, an interval or a rank.")


def _name(row: dict) -> Entry:
    return Entry(row["cell"], row["cell"], "control" if row.get("control") else "")


def _count(number: int) -> Entry:
    return Entry(str(number), float(number))


def _mean(row: dict, name: str) -> Entry:
    return Entry(words.with_interval(row[name], row[f"half:{name}"]), _number(row[name]))


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
