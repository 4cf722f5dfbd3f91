"""What a board says in words and numbers: formats, the finding in a sentence, how to read the tables.

Shares become per cent with one decimal, eps and steps k/255.
"""

import ast
import math

import pandas as pd

from reports import scores, selection

NONE = "–"  # stands where there is no figure


def missing(value: object) -> bool:
    """Whether there is no figure: None, NaN or pandas' NA."""
    return value is None or bool(pd.isna(value))


def percent(share: float) -> str:
    """0.7123 -> `71.2`; no figure -> a dash."""
    return NONE if missing(share) else f"{100 * share:.1f}"


def points(difference: float, half: float = math.nan) -> str:
    """A signed difference of shares in percentage points: `+12.4 ± 2.0`."""
    if missing(difference):
        return NONE
    number = f"{100 * difference:+.1f}"
    number = "0.0" if float(number) == 0 else number.replace("-", "−")
    return number if missing(half) else f"{number} ± {percent(half)}"


def with_interval(mean: float, half: float) -> str:
    """`71.2 ± 1.3`; the mean alone where there is no interval."""
    return percent(mean) if missing(mean) or missing(half) else f"{percent(mean)} ± {percent(half)}"


def seconds(value: float) -> str:
    """Device-seconds: whole from ten on, below with one or two decimals."""
    if missing(value):
        return NONE
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def duration(value: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} seconds"


def setting(path: str, text: str) -> str:
    """A setting as people write it: eps and step k/255, other numbers with three figures."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    if isinstance(value, tuple):
        return ", ".join(setting(path, repr(v)) for v in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text
    if path.rpartition(".")[2] in ("eps", "step") and 0 < value <= 1:
        return f"{value * 255:.3g}/255"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def finished(board: pd.DataFrame) -> pd.DataFrame:
    """The rows of a board that have figures."""
    return board[board["seeds"] > 0]


def against(board: pd.DataFrame) -> str:
    """The control that differences are taken to; "" where it has no figures."""
    return next((a for a in board["against"] if isinstance(a, str) and a), "") if "against" in board else ""


def shown(board: pd.DataFrame) -> list[str]:
    """The scores on test that tables show, in the board's order, the ranked one first.

    FGSM is there to check PGD by (`doubts`); as a figure of its own it would flatter, so only the CSV has it.
    """
    names = [c for c in board.columns if c.startswith("test/") and board[c].notna().any()]
    return names[:1] + [name for name in names[1:] if not name.startswith("test/fgsm-")]


def headline(board: pd.DataFrame) -> list[str]:
    """The finding, as alternating pieces: plain text at the even places, names of cells at the odd ones."""
    done = finished(board)
    if done.empty:
        return ["No cell has finished yet."]
    first, score = done.iloc[0], done.iloc[0]["ranked_by"]
    half = first[f"half:{score}"]
    peers = list(done.loc[done["group"] == first["group"], "cell"])[1:]
    verb = "reached" if len(done) == 1 else "leads with" if peers else "is best:"
    parts = ["", first["cell"], f" {verb} {with_interval(first[score], half)} % {scores.label(score)}"]
    if not missing(first["difference"]):
        apart = points(first["difference"], first["half:difference"]).removeprefix("+")
        parts[-1] += f", {apart} points above "
        parts += [first["against"], ""]
    elif first["cell"] == first["against"] and len(done) > 1:
        parts[-1] += ", and it is the control"
    if missing(half):
        parts[-1] += "; a single seed gives no interval, so nothing is settled"
    elif peers:
        parts[-1] += "; these seeds cannot tell "
        for i, peer in enumerate(peers[:3]):
            last = i == len(peers) - 1
            parts[-1] += "" if i == 0 else " and " if last else ", "
            parts += [peer, ""]
        parts[-1] += f" and {len(peers) - 3} more from it" if len(peers) > 3 else " from it"
    parts[-1] += "."
    return parts


def reading(runs: pd.DataFrame, board: pd.DataFrame) -> list[tuple[str, str]]:
    """How to read the tables, as (term, explanation): scores, intervals, groups, selection, test, cost."""
    done = finished(board)
    if done.empty:
        return []
    tested = selection.tested(runs)
    pairs = [("Scores", _protocol(tested, done)), ("Mean ± interval", _intervals(tested, done))]
    pairs.append(
        (
            "Group",
            "Cells share a group where the 95 % interval (Welch) of their difference to the group's best covers "
            "0, or where a single seed leaves no interval. That is no proof that they are equal. Nothing is "
            "corrected for the number of cells compared.",
        )
    )
    if control := against(done):
        name = scores.label(done.iloc[0]["ranked_by"])
        said = f"Difference in {name} to the first control, in percentage points, with its Welch interval."
        pairs.append((f"vs {control}", said))
    pairs += [("Selection", _selection(runs, done)), ("Test", _test(runs, tested, done))]
    phases = [c for c in ("seconds/train", "seconds/val", "seconds/test") if c in runs]
    if total := runs[phases].sum().sum():
        pairs.append(
            (
                "Cost",
                f"Training and measuring all complete runs took {duration(total)} of device time; runs cut "
                "short, teachers and maps come on top.",
            )
        )
    return pairs + [("Doubt", said) for said in doubts(done)]


def doubts(done: pd.DataFrame) -> list[str]:
    """What speaks against the figures: seed runs that differ, one step breaking more than many."""
    found = []
    chosen = [c for c in done.columns if c.startswith("set:")]
    mixed = [row["cell"] for row in done.to_dict("records") if any(" | " in str(row[c]) for c in chosen)]
    if mixed:
        found.append(f"Seed runs of different settings are averaged in: {'; '.join(mixed)}.")
    for name in shown(done):
        eps = (scores.attack(name) or [None])[0]
        if eps is None or f"test/fgsm-{eps:g}" not in done:
            continue
        less = done[name] - done[f"test/fgsm-{eps:g}"]
        weak = done.loc[less > 0.01, "cell"]  # a point or less may be the random start
        if len(weak):
            found.append(
                f"FGSM's one step breaks more than {scores.label(name)} does in: {'; '.join(weak)}. "
                "Gradients may be masked; trust no figure under PGD there before a stronger attack was tried."
            )
    return found


def _protocol(tested: pd.DataFrame, done: pd.DataFrame) -> str:
    attacks = sorted({a for s in shown(done) if (a := scores.attack(s))})
    text = "Accuracy in per cent of the test images. clean: as they are."
    for steps, restarts in sorted({(s, r) for _, s, r in attacks}):
        grid = ", ".join(f"{e:g}" for e, s, r in attacks if (s, r) == (steps, restarts))
        again = f", the worst of {restarts} starts" if restarts > 1 else ""
        text += f" PGD-{steps}: under {steps} steps of projected gradient ascent{again}, every value of an "
        text += f"image in [0, 1] moved by at most {grid} of 255"
        step = tested["param:measure.step"].dropna().unique() if "param:measure.step" in tested else []
        if len(step) == 1:
            size = setting("measure.step", step[0])
            text += "; a step is 2.5 · eps / steps" if size in ("0", "0.0") else f"; a step is {size}"
        text += "."
    if attacks and "test/robust" in done:
        text += " robust: the mean of the PGD accuracies over that grid."
    return text


def _intervals(tested: pd.DataFrame, done: pd.DataFrame) -> str:
    score = done.iloc[0]["ranked_by"]
    seeds = "a single seed" if (done["seeds"] == 1).all() else f"{_range(done['seeds'])} seeds"
    text = f"Over {seeds} of each winner; ± is half of the 95 % interval by Student's "
    text += "t: how far another draw of seeds may move the mean."
    if (done["seeds"] < 2).any():
        text += " A single seed has no interval."
    if (done[f"half:{score}"].round(6) == 0).any():
        text += " ± 0.0 says that the seeds agreed to the image, not that the figure is certain."
    column = f"test_stderr/{score.partition('/')[2]}"
    if column in tested:
        error = tested.loc[tested["row"] == done.iloc[0]["cell"], column].mean()
        if not missing(error):
            text += " Not in it is the choice of test images, the same for all cells: by itself it makes the "
            text += f"first row's figure uncertain by ± {percent(1.96 * error)}."
    return text


def _selection(runs: pd.DataFrame, done: pd.DataFrame) -> str:
    goals = selection.goals(runs)
    images = f" on {_range(done['images:val'])} validation images" if done["images:val"].notna().any() else ""
    if len(goals) > 1:
        rule = f"winners are the complete trials that no other beats in all of {', '.join(goals)}{images}"
    else:
        rule = f"winner is the complete trial with the highest {goals[0]}{images}"
    return (
        f"Every cell is a search of its own with the same budget. Its {rule}, repeated with other seeds. "
        "Pruned and failed trials never compete."
    )


def _test(runs: pd.DataFrame, tested: pd.DataFrame, done: pd.DataFrame) -> str:
    images = f" on {_range(done['images:test'])} images" if done["images:test"].notna().any() else ""
    text = f"Measured{images}, after the search."
    if "test_touches" in runs:
        touches = int(runs["test_touches"].sum())
        text += f" The {len(tested)} runs behind these figures; {touches} measurements on test in all"
        text += ", one each." if touches == len(tested) else ": not one each, so look into the difference."
    return text + " The order of the rows is itself read off test, which favours the first a little."


def _range(numbers: pd.Series) -> str:
    values = sorted({int(n) for n in numbers.dropna()})
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def _set(column: str) -> bool:
    return column.startswith("set:")
