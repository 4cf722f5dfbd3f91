"""Tables about how far the figures can be trusted: doubts, other rules of choosing, seeds, images, provenance."""

from collections.abc import Callable

import pandas as pd

from reports import scores, selection, words
from reports.tables import Column, Entry, Table
from reports.words import missing


def cautions(board: pd.DataFrame) -> Table:
    """What to know of a row before it is quoted: checks in doubt, dropped images, best epoch, touches of test."""
    done = words.finished(board)
    dropped = [c for c in done.columns if c.startswith("dropped:") and done[c].fillna(0).gt(0).any()][:1]
    labels = [
        "Best epoch − last",
        "Best epoch",
        *(["Images dropped"] if dropped else []),
        "Seed runs failed",
        "On test",
    ]
    columns = [Column("Cell", number=False), Column("Checks in doubt", number=False), *map(Column, labels)]
    rows = []
    for row in done.to_dict("records"):
        gain, epoch = row.get("best_epoch_gain"), row.get("best_epoch")
        doubts = words.NONE if missing(row["doubts"]) else row["doubts"] or "none"
        entries = [Entry(doubts, doubts), _points(gain), _count(epoch)]
        entries += [_count(row[c]) for c in dropped]
        rows.append([_named(row), *entries, _count(row["seeds:failed"]), _count(row["touches"])])
    remark = (
        "Best epoch − last: by how many points the best validation of a seed run's curve was above its last, on "
        "average; what is reported is always the last epoch. On test: how often the cell was measured on test."
    )
    return Table("cautions", "What to know before quoting a row", columns, rows, remark)


def rules(board: pd.DataFrame) -> Table:
    """What would have been reported by rules that choose with other eyes."""
    done = words.finished(board)
    named = {
        "reported": ("Reported", "test, mean of seeds"),
        "best_seed": ("Best seed", "chosen on test"),
        "searched": ("Winner's search", "validation"),
        "fresh": ("Winner's fresh seeds", "validation"),
        "published": ("Published setting", "validation"),
        "by_clean": ("Chosen by clean", "validation"),
    }
    named = {
        rule: said for rule, said in named.items() if f"rule:{rule}" in done and done[f"rule:{rule}"].notna().any()
    }
    columns = [Column("Cell", number=False), *(Column(*said) for said in named.values())]
    rows = [[_named(r), *(_share(r[f"rule:{rule}"]) for rule in named)] for r in done.to_dict("records")]
    remark = (
        "Best seed: what picking the best run by its test figure would have claimed. Winner's search against its fresh "
        "seeds: how much of the search's figure was luck. Published setting, chosen by clean: the validation figure of "
        "the first trial, and of the trial with the highest clean accuracy."
    )
    return Table("rules", "What other ways of choosing would have reported", columns, rows if named else [], remark)


def over_seeds(board: pd.DataFrame, runs: pd.DataFrame) -> Table:
    """Every seed's figure, their range, and where there are enough of them what needs no normal distribution."""
    done = words.finished(board)
    score = words.goals(board)[0]
    tested = selection.tested(runs)
    many = f"iqm:{score}" in done
    labels = ["Seeds", "Mean", "Lowest", "Highest"]
    labels += ["Mean, by bootstrap", "Interquartile mean", "Interquartile mean, by bootstrap"] if many else []
    columns = [Column("Cell", number=False), *map(Column, labels), Column("Every seed", number=False)]
    rows = []
    for row in done.to_dict("records"):
        values = tested[tested["row"] == row["cell"]].sort_values("number", kind="stable")[score]
        entries = [_count(len(values)), Entry(words.with_interval(row[score], row[f"half:{score}"]), row[score])]
        entries += [_share(values.min()), _share(values.max())]
        if many:
            ends = [(f"{of}low:{score}", f"{of}high:{score}") for of in ("", "iqm_")]
            mean, middle = (_interval(row, *pair, words.percent) for pair in ends)
            entries += [mean, _share(row[f"iqm:{score}"]), middle]
        every = ", ".join(map(words.percent, values))
        rows.append([_named(row), *entries, Entry(every, every)])
    return Table("seeds", f"{words.capitalised(scores.label(score))} on test, seed by seed", columns, rows)


def image_by_image(board: pd.DataFrame) -> Table:
    """The first row against every other on the same images, corrected for the number of rows."""
    done = words.finished(board)
    if "paired:p" not in done or done["paired:p"].isna().all():
        return Table("images", "", [], [])
    first = done.iloc[0]["cell"]
    labels = ["Difference", "95 % interval, these nets", "p, corrected", "95 % interval, nets and images", "Images"]
    columns = [Column("Cell", number=False), *map(Column, labels)]
    rows = []
    for row in done[done["paired:p"].notna()].to_dict("records"):
        spans = [_interval(row, "paired:low", "paired:high"), _interval(row, "paired:low_both", "paired:high_both")]
        p = row["paired:p"]
        told = Entry("< 0.001" if p < 0.001 else f"{p:.3f}", p)
        apart, images = _points(row["paired:difference"]), _count(row["paired:n"])
        rows.append([_named(row), apart, spans[0], told, spans[1], images])
    score = words.capitalised(scores.label(done.iloc[0]["ranked_by"]))
    remark = (
        f"{score} minus that of {first}, in points, on the same test images. These nets: how far another draw of "
        "images would move it, the trained nets as they are. p: of no difference between these nets; exact McNemar for "
        "single runs of yes and no, else by flipping signs; after Holm for the number of rows. Nets and images: how "
        "far another draw of seeds and images would move it, which is the question whether the method is better."
    )
    return Table("images", f"Image by image against {first}", columns, rows, remark)


def provenance(runs: pd.DataFrame) -> Table:
    """What made the figures, where it is recorded: a row each, several values with the number of runs."""
    tested = selection.tested(runs)
    names = {"protocol": "Measuring protocol, version", "sweep": "Sweep", "tag:git": "Code", "tag:device": "Device"}
    names |= {"tag:threads": "Threads", "tag:python": "Python"}
    names |= {f"tag:data.{part}": f"SHA-256 of {part} images" for part in ("train", "val", "test")}
    names |= {c: c.removeprefix("tag:package.") for c in sorted(tested.columns) if c.startswith("tag:package.")}
    rows = []
    for column, name in names.items():
        values = tested[column].dropna().astype(str) if column in tested else pd.Series(dtype=str)
        counts = values[values != ""].value_counts().sort_index(kind="stable")
        if len(counts):
            text = "; ".join(f"{v} ({n} runs)" if len(counts) > 1 else v for v, n in counts.items())
            rows.append([Entry(name, name), Entry(text, text)])
    columns = [Column("What", number=False), Column("Of the runs behind these figures", number=False)]
    return Table("provenance", "What made these figures", columns, rows)


def _named(row: dict) -> Entry:
    return Entry(row["cell"], row["cell"])


def _share(value: float) -> Entry:
    return Entry(words.percent(value), _number(value))


def _points(value: float) -> Entry:
    return Entry(words.points(value), _number(value))


def _count(value: float) -> Entry:
    return Entry(words.number(value), _number(value))


def _interval(row: dict, low: str, high: str, said: Callable[[float], str] = words.points) -> Entry:
    return Entry(_span(said(row[low]), said(row[high])), _number(row[low]))


def _span(low: str, high: str) -> str:
    return words.NONE if words.NONE in (low, high) else f"{low} to {high}"


def _number(value: float) -> float | str:
    return "" if missing(value) else float(value)
