"""Tables on the reliability of the scores: failed checks, other selection rules, seeds, images, provenance."""

from collections.abc import Callable

import pandas as pd

from reports.analyse import counted_runs
from reports.analyse.columns import finished, goals, is_missing
from reports.present import number_format
from reports.present.tables import Column, Entry, Table
from reports.read import score_names


def cautions(leaderboard: pd.DataFrame) -> Table:
    """Caveats per row: failed checks, dropped images, best epoch, failed seed runs, test evaluations."""
    done = finished(leaderboard)
    dropped = [c for c in done.columns if c.startswith("dropped:") and done[c].fillna(0).gt(0).any()][:1]
    labels = [
        "Best epoch − last",
        "Best epoch",
        *(["Images dropped"] if dropped else []),
        "Seed runs failed",
        "Test evaluations",
    ]
    columns = [Column("Cell", number=False), Column("Failed checks", number=False), *map(Column, labels)]
    rows = []
    for row in done.to_dict("records"):
        gain, epoch = row.get("best_epoch_gain"), row.get("best_epoch")
        failed_checks = number_format.NONE if is_missing(row["doubts"]) else row["doubts"] or "none"
        entries = [Entry(failed_checks, failed_checks), _points(gain), _count(epoch)]
        entries += [_count(row[c]) for c in dropped]
        rows.append([_named(row), *entries, _count(row["seeds:failed"]), _count(row["touches"])])
    remark = (
        "Best epoch − last: by how many points the best validation score of a seed run's curve was above its last, on "
        "average; the last epoch is always reported. Test evaluations: how often the cell was measured on test."
    )
    return Table("cautions", "Checks and caveats", columns, rows, remark)


def rules(leaderboard: pd.DataFrame) -> Table:
    """Scores under other selection rules."""
    done = finished(leaderboard)
    rule_labels = {
        "reported": ("Reported", "test, mean of seeds"),
        "best_seed": ("Best seed", "selected on test"),
        "searched": ("Winner in search", "validation"),
        "fresh": ("Winner's seed runs", "validation"),
        "published": ("Published setting", "validation"),
        "by_clean": ("Selected by clean", "validation"),
    }
    rule_labels = {
        rule: text
        for rule, text in rule_labels.items()
        if f"rule:{rule}" in done and done[f"rule:{rule}"].notna().any()
    }
    columns = [Column("Cell", number=False), *(Column(*text) for text in rule_labels.values())]
    rows = [[_named(r), *(_share(r[f"rule:{rule}"]) for rule in rule_labels)] for r in done.to_dict("records")]
    remark = (
        "Best seed: the score if the best run were selected on test. Winner in search minus its seed runs: the "
        "selection bias of the search. Published setting, selected by clean: validation score of the first trial, and "
        "of the trial with the highest clean accuracy."
    )
    return Table("rules", "Scores under other selection rules", columns, rows if rule_labels else [], remark)


def over_seeds(leaderboard: pd.DataFrame, runs: pd.DataFrame) -> Table:
    """Every seed's score, their range, and with enough seeds bootstrap intervals and interquartile means."""
    done = finished(leaderboard)
    score = goals(leaderboard)[0]
    tested = counted_runs.tested(runs)
    many = f"iqm:{score}" in done
    labels = ["Seeds", "Mean", "Lowest", "Highest"]
    labels += ["Mean, by bootstrap", "Interquartile mean", "Interquartile mean, by bootstrap"] if many else []
    columns = [Column("Cell", number=False), *map(Column, labels), Column("Every seed", number=False)]
    rows = []
    for row in done.to_dict("records"):
        values = tested[tested["row"] == row["cell"]].sort_values("number", kind="stable")[score]
        entries = [
            _count(len(values)),
            Entry(number_format.with_interval(row[score], row[f"half:{score}"]), row[score]),
        ]
        entries += [_share(values.min()), _share(values.max())]
        if many:
            ends = [(f"{of}low:{score}", f"{of}high:{score}") for of in ("", "iqm_")]
            mean, middle = (_interval(row, *pair, number_format.percent) for pair in ends)
            entries += [mean, _share(row[f"iqm:{score}"]), middle]
        every = ", ".join(map(number_format.percent, values))
        rows.append([_named(row), *entries, Entry(every, every)])
    return Table("seeds", f"{number_format.capitalised(score_names.label(score))} on test, per seed", columns, rows)


def image_by_image(leaderboard: pd.DataFrame) -> Table:
    """Paired comparison of every row with the first on the same images, with Holm's correction."""
    done = finished(leaderboard)
    if "paired:p" not in done or done["paired:p"].isna().all():
        return Table("images", "", [], [])
    first = done.iloc[0]["cell"]
    labels = ["Difference", "95 % interval, these nets", "p, corrected", "95 % interval, nets and images", "Images"]
    columns = [Column("Cell", number=False), *map(Column, labels)]
    rows = []
    for row in done[done["paired:p"].notna()].to_dict("records"):
        intervals = [_interval(row, "paired:low", "paired:high"), _interval(row, "paired:low_both", "paired:high_both")]
        p = row["paired:p"]
        p_value = Entry("< 0.001" if p < 0.001 else f"{p:.3f}", p)
        difference, images = _points(row["paired:difference"]), _count(row["paired:n"])
        rows.append([_named(row), difference, intervals[0], p_value, intervals[1], images])
    score = number_format.capitalised(score_names.label(done.iloc[0]["ranked_by"]))
    remark = (
        f"{score} minus that of {first}, in points, on the same test images. These nets: interval over other samples "
        "of images, for these trained nets. p: of no difference between these nets; exact McNemar test for single runs "
        "with 0/1 scores, else sign-flip test; Holm's correction for the number of rows. Nets and images: interval "
        "over other samples of seeds and images, which answers whether the method is better."
    )
    return Table("images", f"Image by image against {first}", columns, rows, remark)


def provenance(runs: pd.DataFrame) -> Table:
    """Recorded protocol, code, device, data checksums and packages; several values with their number of runs."""
    tested = counted_runs.tested(runs)
    names = {"protocol": "Protocol version", "sweep": "Sweep", "tag:git": "Code", "tag:device": "Device"}
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
    columns = [Column("What", number=False), Column("Runs behind these figures", number=False)]
    return Table("provenance", "Provenance of these figures", columns, rows)


def _named(row: dict) -> Entry:
    return Entry(row["cell"], row["cell"])


def _share(value: float) -> Entry:
    return Entry(number_format.percent(value), _number(value))


def _points(value: float) -> Entry:
    return Entry(number_format.points(value), _number(value))


def _count(value: float) -> Entry:
    return Entry(number_format.number(value), _number(value))


def _interval(row: dict, low: str, high: str, format_end: Callable[[float], str] = number_format.points) -> Entry:
    return Entry(_span(format_end(row[low]), format_end(row[high])), _number(row[low]))


def _span(low: str, high: str) -> str:
    return number_format.NONE if number_format.NONE in (low, high) else f"{low} to {high}"


def _number(value: float) -> float | str:
    return "" if is_missing(value) else float(value)
