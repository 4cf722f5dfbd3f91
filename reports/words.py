"""What a board says in words and numbers: formats, the finding in a sentence, how to read the tables.

Shares and correlations become per cent with one decimal, eps and steps k/255.
"""

import ast
import math
from collections.abc import Sequence

import pandas as pd

from reports import published, scores, selection

NONE = "–"  # stands where there is no figure
_PROTOCOLS = {
    "art": "protocol of Singh et al. (2020), which attacks the map of the logit and scores that of the cross-entropy; "
    "an image on which no step keeps the prediction is dropped",
    "rar": "protocol of Chen et al. (2019), which scores the map of the logit that it attacks; an image on which no "
    "step lowers the measure counts as 1, as failed",
    "strong": "the worst found for each measure, over objectives and starts; an image on which nothing lowers it "
    "counts as 1, as failed",
    "random": "random signs in place of those of the attack, as a control",
}


def missing(value: object) -> bool:
    """Whether there is no figure: None, NaN or pandas' NA."""
    return value is None or bool(pd.isna(value))


def percent(share: float) -> str:
    """0.7123 -> `71.2`; no figure -> a dash."""
    return NONE if missing(share) else _minus(f"{100 * share:.1f}")


def points(difference: float, half: float = math.nan) -> str:
    """A signed difference of shares in percentage points: `+12.4 ± 2.0`."""
    if missing(difference):
        return NONE
    number = _minus(f"{100 * difference:+.1f}")
    return number if missing(half) else f"{number} ± {percent(half)}"


def with_interval(mean: float, half: float) -> str:
    """`71.2 ± 1.3`; the mean alone where there is no interval."""
    return percent(mean) if missing(mean) or missing(half) else f"{percent(mean)} ± {percent(half)}"


def seconds(value: float) -> str:
    """Device-seconds: whole from ten on, below with one or two decimals."""
    if missing(value):
        return NONE
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def number(value: float) -> str:
    """A count, or a mean of counts: `64`, `63.3`."""
    return NONE if missing(value) else f"{value:,.1f}".removesuffix(".0")


def duration(value: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} seconds"


def setting(path: str, text: str) -> str:
    """A setting as people write it: eps and step k/255, other numbers with three figures."""
    value = plain(text)
    if isinstance(value, tuple):
        return ", ".join(setting(path, repr(v)) for v in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text
    if in_255ths(path) and 0 < value <= 1:
        return f"{value * 255:.3g}/255"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def plain(text: str) -> object:
    """The value that a setting's text stands for; the text where it stands for itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def in_255ths(path: str) -> bool:
    """Whether a setting is a strength on the scale of images in [0, 1]."""
    return path.rpartition(".")[2] in ("eps", "step")


def finished(board: pd.DataFrame) -> pd.DataFrame:
    """The rows of a board that have figures."""
    return board[board["seeds"] > 0]


def against(board: pd.DataFrame) -> str:
    """The control that differences are taken to; "" where it has no figures."""
    return next((a for a in board["against"] if isinstance(a, str) and a), "") if "against" in board else ""


def shown(board: pd.DataFrame) -> list[str]:
    """The scores on test that tables show, in the board's order: the goals, and all others but minor ones."""
    names = [c for c in board.columns if c.startswith("test/") and board[c].notna().any()]
    first = goals(board)
    return [name for name in names if not scores.minor(name) or name in first]


def goals(board: pd.DataFrame) -> list[str]:
    """The scores on test whose counterparts on validation were searched for, the ranked one first."""
    return board.iloc[0]["goals" if "goals" in board else "ranked_by"].split(",")


def measured(names: Sequence[str]) -> str:
    """What these scores are, for a heading: `Accuracy, IN and K`."""
    kinds = ["accuracy"] if any(map(scores.accuracy, names)) else []
    for name in names:
        if not scores.accuracy(name):
            found = scores.attribution(name)
            kinds.append(scores.MEASURES[found[2]] if found else scores.label(name))
    return capitalised(listed(list(dict.fromkeys(kinds))))


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def capitalised(text: str) -> str:
    """The text with its first letter large, all others as they are."""
    return text[:1].upper() + text[1:]


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
    pairs = [("Scores", _protocol(tested, done))]
    if said := _attributions(tested, done):
        pairs.append(("Attributions", said))
    pairs.append(("Mean ± interval", _intervals(tested, done)))
    pairs.append(
        (
            "Group",
            "Cells share a group where Welch's test over seeds, corrected by Holm for the cells that are compared with "
            "the group's best, cannot tell them from it at 5 %, or where a single seed leaves nothing to test. That is "
            "no proof that they are equal. Bold figures likewise: not to be told from the highest of their column.",
        )
    )
    if len(goals(done)) > 1:
        names = [scores.label(goal) for goal in goals(done)]
        pairs.append(
            (
                "Front",
                f"Goals are {listed(names)}. yes: no other row is as good in all of them and better in one, by the "
                f"means on test, whatever their intervals. Order, groups and differences go by {names[0]} alone.",
            )
        )
    if control := against(done):
        name = scores.label(done.iloc[0]["ranked_by"])
        said = f"Difference in {name} to the first control, in percentage points, with its Welch interval."
        pairs.append((f"vs {control}", said))
    pairs += [("Selection", _selection(runs, done)), ("Test", _test(runs, tested, done))]
    phases = [c for c in ("seconds/train", "seconds/val", "seconds/test") if c in runs]
    if total := _once(runs)[phases].sum().sum():
        pairs.append(
            (
                "Cost",
                f"Training and measuring all complete runs took {duration(total)} of device time; runs cut "
                "short, teachers and maps come on top.",
            )
        )
    return pairs + [("Doubt", said) for said in (*doubts(done), *shared(tested), *checked(tested))]


def checked(tested: pd.DataFrame) -> list[str]:
    """What checks of the test scores doubt, a sentence for every check and cell."""
    said = []
    for column in [c for c in tested.columns if c.startswith("check:")]:
        for cell, texts in tested.groupby("cell", sort=False)[column]:
            doubted = [text.removeprefix("doubt: ") for text in texts.dropna() if text.startswith("doubt: ")]
            if doubted:
                seeds = f"{len(doubted)} of {len(texts)} seed runs of {cell}"
                said.append(f"Check {column.removeprefix('check:')}, {seeds}: {doubted[0]}.")
    return said


def doubts(done: pd.DataFrame) -> list[str]:
    """What speaks against the figures: seed runs that differ, attacks that a weaker one equals, images left out."""
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
    return [*found, *_no_better_than_random(done), *_dropped(done)]


def shared(tested: pd.DataFrame) -> list[str]:
    """Rows that rest on the very same nets, as those of joined experiments may."""
    rows: dict[frozenset, list[str]] = {}
    for row, keys in tested.groupby("row", sort=False)["key"]:
        if (keys.fillna("") != "").all():
            rows.setdefault(frozenset(keys), []).append(row)
    return [f"The same nets stand in {listed(same)}." for same in rows.values() if len(same) > 1]


def _no_better_than_random(done: pd.DataFrame) -> list[str]:
    """Where random signs lower IN or K by more than a point, and the strongest attack hardly lowers it further."""
    names = {found: c for c in done.columns if c.startswith("test/") and (found := scores.attribution(c))}
    alike: dict[str, list[str]] = {}  # cells -> scores
    for (protocol, on, measure), control in names.items():
        attacks = [names[p, on, measure] for p in ("strong", "rar", "art") if (p, on, measure) in names]
        if protocol != "random" or measure not in ("in", "k") or not attacks:
            continue
        # Where random signs lower next to nothing, an attack that does no more may have met a map that is stable.
        cells = done.loc[(done[control] < 0.99) & (done[control] <= done[attacks[0]] + 0.01), "cell"]
        if len(cells):
            alike.setdefault("; ".join(cells), []).append(scores.label(attacks[0]))
    return [
        f"Random signs lower {listed(labels)} about as much as the attack does in: {cells}. Gradients may be masked, "
        "or the map has nothing to attack; trust no such figure there before a stronger attack was tried."
        for cells, labels in alike.items()
    ]


def _dropped(done: pd.DataFrame) -> list[str]:
    """Where more than one in twenty of the attacked images is not counted."""
    first = {}  # score of each map: all of one map stand on the same images
    for name in shown(done):
        if f"dropped:{name}" in done and (found := scores.attribution(name)) and found[0] == "art":
            first.setdefault(found[1], name)
    said = []
    for name in first.values():
        shares = done[f"dropped:{name}"] / (done[f"n:{name}"] + done[f"dropped:{name}"])
        much = [f"{cell} ({percent(s)} %)" for cell, s in zip(done["cell"], shares, strict=True) if s > 0.05]
        if much:
            said.append(
                f"Of the images attacked for {scores.label(name)}, many are dropped in: {'; '.join(much)}. On those "
                "every step of the attack changed the prediction; IN and K speak for the rest only."
            )
    return said


def _protocol(tested: pd.DataFrame, done: pd.DataFrame) -> str:
    attacks = sorted({a for s in shown(done) if (a := scores.attack(s))})
    settings = [column for column in tested.columns if column.startswith("param:measure.")]
    params = {column.removeprefix("param:"): next(iter(tested[column].dropna()), "0") for column in settings}
    text = "Accuracy in per cent of the test images. clean: as they are."
    for steps, restarts in sorted({(s, r) for _, s, r in attacks}):
        grid = ", ".join(f"{e:g}" for e, s, r in attacks if (s, r) == (steps, restarts))
        again = f", the worst of {restarts} starts" if restarts > 1 else ""
        text += f" PGD-{steps}: under {steps} steps of projected gradient ascent{again}, every value of an "
        text += f"image in [0, 1] moved by at most {grid} of 255"
        alike = [name for name in shown(done) if (found := scores.attack(name)) and found[1:] == (steps, restarts)]
        sizes = {published.step(params, name) for name in alike}
        fixed = len(sizes) == 1 and sizes != {published.step({}, name) for name in alike}
        text += f"; a step is {setting('step', repr(min(sizes)))}." if fixed else "; a step is 2.5 · eps / steps."
    if attacks and "test/robust" in done:
        text += " robust: the mean of the PGD accuracies over that grid."
    return text


def _attributions(tested: pd.DataFrame, done: pd.DataFrame) -> str:
    """What IN, K and the protocols are, at which settings, on how many images; "" where none was measured."""
    by_protocol: dict[str, list[str]] = {}
    for name in shown(done):
        if found := scores.attribution(name):
            by_protocol.setdefault(found[0], []).append(name)
    if not by_protocol:
        return ""
    k, eps, steps, step, points = (_values(tested, f"attribution.{p}") for p in ("k", "eps", "steps", "step", "points"))
    step = "eps / 8" if step in ("0", "0.0") else step
    text = "How much of a map of importance survives an attack on it, in per cent, over images that are classified "
    text += "correctly"
    every = [name for names in by_protocol.values() for name in names]
    counted, wrong = (_count(done, kind, every) for kind in ("n", "wrong"))
    text += f": {counted} a run" if counted else ""
    text += f" ({wrong} are not)" if wrong else ""
    text += ". IN: of the k most important pixels"
    text += f" (k = {k})" if k else ""
    text += ", the share that stay among them. K: Kendall's tau-b of the maps before and after, from −100 to 100."
    if eps:
        text += f" The attack moves every value of an image by at most {eps}"
        text += f" in {steps} steps" + (f" of {step}" if step else "") if steps else ""
        text += "."
    text += " Maps are integrated gradients where no other is named"
    text += f"; attacks see them at {points} points of the path." if points else "."
    for protocol, names in sorted(by_protocol.items(), key=lambda pair: list(_PROTOCOLS).index(pair[0])):
        apart = _count(done, "dropped" if protocol == "art" else "failed", names)
        text += f" {scores.PROTOCOLS[protocol]}: {_PROTOCOLS[protocol]}"
        text += f" ({apart} a run)." if apart else "."
    unseen = [scores.attribution(c) for c in done.columns if c.startswith("test/") and c not in shown(done)]
    unseen = [found for found in unseen if found]
    rest = []
    if any(measure not in ("in", "k") for _, _, measure in unseen):
        rest.append("further measures (LENS: those of Kamath et al. (2024), which forgive small shifts)")
    if any(protocol == "random" for protocol, _, _ in unseen):
        rest.append("the control: random signs in place of those of the attack")
    return text + (f" Only the CSV has {listed(rest)}." if rest else "")


def _count(done: pd.DataFrame, kind: str, names: Sequence[str]) -> str:
    """How many images of a kind there are in a run, over cells and scores; "" where that is not known."""
    numbers = [n for name in names if f"{kind}:{name}" in done for n in done[f"{kind}:{name}"].dropna()]
    return _range(pd.Series(numbers).round()) if numbers else ""


def _values(tested: pd.DataFrame, path: str) -> str:
    """The values of a setting in words; "" where no run has it."""
    there = tested[f"param:{path}"].dropna().unique() if f"param:{path}" in tested else []
    return " or ".join(dict.fromkeys(setting(path, text) for text in there))


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
            same = "" if scores.attribution(score) else ", the same for all cells"
            text += f" Not in it is the choice of test images{same}: by itself it makes the "
            text += f"first row's figure uncertain by ± {percent(1.96 * error)}."
    return text


def _selection(runs: pd.DataFrame, done: pd.DataFrame) -> str:
    goals = selection.goals(runs)
    images = f" on {_range(done['images:val'])} validation images" if done["images:val"].notna().any() else ""
    if len(goals) > 1:
        rule = f"winners are the complete trials that no other beats in all of {', '.join(goals)}{images}"
    else:
        rule = f"winner is the complete trial with the highest {goals[0]}{images}"
    floor = next((text for text in runs["floor"].dropna() if text), "") if "floor" in runs else ""
    rule += f", of those with at least {floor}" if floor else ""
    trials = runs[runs["role"] == "search"].groupby("cell").size()
    size = f", of {_range(trials)} trials" if len(trials) else ""
    said = f"Every cell is a search of its own{size}. Its {rule}, repeated with other seeds."
    return f"{said} Pruned and failed trials never compete."


def _test(runs: pd.DataFrame, tested: pd.DataFrame, done: pd.DataFrame) -> str:
    images = f" on {_range(done['images:test'])} images" if done["images:test"].notna().any() else ""
    text = f"Measured{images}, after the search."
    if "test_touches" in runs:
        touches = int(_once(runs)["test_touches"].sum())
        behind = len(_once(tested))
        text += f" The {behind} runs behind these figures; {touches} measurements on test in all"
        text += ", one each." if touches == behind else ": not one each, so look into the difference."
    return text + " The order of the rows is itself read off test, which favours the first a little."


def _once(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, each trial once: cells that share one, as joined experiments may, trained and measured it once."""
    named = runs["key"].fillna("") != ""
    return runs[~(named & runs.duplicated("key"))]


def _range(numbers: pd.Series) -> str:
    values = sorted({int(n) for n in numbers.dropna()})
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def _minus(number: str) -> str:
    """A number with a true minus sign, and none before 0."""
    return "0.0" if float(number) == 0 else number.replace("-", "−")
