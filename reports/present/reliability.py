"""Tables on the reliability of the scores: failed checks, other selection rules, seeds, images, provenance."""

import math
from collections.abc import Callable

import pandas as pd

from reports.analyse import counted_runs
from reports.analyse.rows import Leaderboard, Resampled, Row
from reports.present import number_format
from reports.present.tables import Column, Entry, Table
from reports.read import score_names


def cautions(leaderboard: Leaderboard) -> Table:
    """Caveats per row: failed checks, dropped images, best epoch, failed seed runs, test evaluations."""
    done = leaderboard.finished
    dropped = [n for n in leaderboard.scores if any((r.figure(n).images.dropped or 0) > 0 for r in done)][:1]
    labels = [
        "Best epoch − last",
        "Best epoch",
        *(["Images dropped"] if dropped else []),
        "Seed runs failed",
        "Test evaluations",
    ]
    columns = [Column("Cell", number=False), Column("Failed checks", number=False), *map(Column, labels)]
    rows = []
    for row in done:
        gain, epoch = (row.gap.gain, row.gap.epoch) if row.gap else (math.nan, math.nan)
        failed_checks = number_format.NONE if row.doubts is None else ", ".join(row.doubts) or "none"
        entries = [Entry(failed_checks, failed_checks), _points(gain), _count(epoch)]
        entries += [_count(row.figure(name).images.dropped) for name in dropped]
        rows.append([_named(row), *entries, _count(row.cost.seeds_failed), _count(row.cost.touches)])
    remark = (
        "Best epoch − last: by how many points the best validation score of a seed run's curve was above its last, on "
        "average; the last epoch is always reported. Test evaluations: how often the cell was measured on test."
    )
    return Table("cautions", "Checks and caveats", columns, rows, remark)


def rules(leaderboard: Leaderboard) -> Table:
    """Scores under other selection rules."""
    rules = [(row, row.rule) for row in leaderboard.finished if row.rule]
    scores = {
        Column("Reported", "test, mean of seeds"): [rule.reported for _, rule in rules],
        Column("Best seed", "selected on test"): [rule.best_seed for _, rule in rules],
        Column("Winner in search", "validation"): [rule.searched for _, rule in rules],
        Column("Winner's seed runs", "validation"): [rule.fresh for _, rule in rules],
        Column("Published setting", "validation"): [rule.published for _, rule in rules],
        Column("Selected by clean", "validation"): [rule.by_clean for _, rule in rules],
    }
    scores = {column: of for column, of in scores.items() if not all(map(math.isnan, of))}
    rows = [[_named(row), *(_share(of[i]) for of in scores.values())] for i, (row, _) in enumerate(rules)]
    remark = (
        "Best seed: the score if the best run were selected on test. Winner in search minus its seed runs: the "
        "selection bias of the search. Published setting, selected by clean: validation score of the first trial, and "
        "of the trial with the highest clean accuracy."
    )
    columns = [Column("Cell", number=False), *scores]
    return Table("rules", "Scores under other selection rules", columns, rows if scores else [], remark)


def over_seeds(leaderboard: Leaderboard, runs: pd.DataFrame) -> Table:
    """Every seed's score, their range, and with enough seeds bootstrap intervals and interquartile means."""
    done, score = leaderboard.finished, leaderboard.ranked_by
    tested = counted_runs.tested(runs)
    many = any(row.figure(score).resampled for row in done)
    labels = ["Seeds", "Mean", "Lowest", "Highest"]
    labels += ["Mean, by bootstrap", "Interquartile mean", "Interquartile mean, by bootstrap"] if many else []
    columns = [Column("Cell", number=False), *map(Column, labels), Column("Every seed", number=False)]
    rows = []
    for row in done:
        values = tested[tested["row"] == row.name].sort_values("number", kind="stable")[score]
        figure = row.figure(score)
        mean_text = number_format.with_interval(figure.mean, figure.half, score_names.unit(score))
        entries = [_count(len(values)), Entry(mean_text, figure.mean)]
        entries += [_share(values.min()), _share(values.max())]
        if many:
            of = figure.resampled or Resampled()
            mean = _interval(of.low, of.high, number_format.percent)
            entries += [mean, _share(of.iqm), _interval(of.iqm_low, of.iqm_high, number_format.percent)]
        every = ", ".join(map(number_format.percent, values))
        rows.append([_named(row), *entries, Entry(every, every)])
    return Table("seeds", f"{number_format.capitalised(score_names.label(score))} on test, per seed", columns, rows)


def image_by_image(leaderboard: Leaderboard) -> Table:
    """Paired comparison of every row with the first on the same images, with Holm's correction."""
    pairs = [(row, row.paired) for row in leaderboard.finished if row.paired and not math.isnan(row.paired.p)]
    if not pairs:
        return Table("images", "", [], [])
    first = leaderboard.rows[0].name
    labels = ["Difference", "95 % interval, these nets", "p, corrected", "95 % interval, nets and images", "Images"]
    columns = [Column("Cell", number=False), *map(Column, labels)]
    rows = []
    for row, pair in pairs:
        intervals = [_interval(pair.low, pair.high), _interval(pair.low_both, pair.high_both)]
        p_value = Entry("< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}", pair.p)
        rows.append([_named(row), _points(pair.difference), intervals[0], p_value, intervals[1], _count(pair.n)])
    score = number_format.capitalised(score_names.label(leaderboard.ranked_by))
    remark = (
        f"{score} minus that of {first}, in points, on the same test images. These nets: interval over other samples "
        "of images, for these trained nets. p: of no difference between these nets; exact McNemar test for single runs "
        "with 0/1 scores, else sign-flip test; Holm's correction for the number of rows. Nets and images: interval "
        "over other samples of seeds and images, which answers whether the method is better."
    )
    return Table("images", f"Image by image against {first}", columns, rows, remark)


def provenance(runs: pd.DataFrame) -> Table:
    """Version of training, code, device, data checksums and packages as recorded; several with their number of runs."""
    tested = counted_runs.tested(runs)
    names = {"protocol": "Version of training", "sweep": "Sweep", "tag:settings": "Its settings", "tag:git": "Code"}
    names |= {"tag:sources": "Digest of the code of trials", "tag:device": "Device"}
    names |= {"tag:threads": "Threads", "tag:python": "Python"}
    names |= {f"tag:data.{part}": f"SHA-256 of {part} images" for part in ("train", "val", "test")}
    names |= {"tag:data.damaged": "Damaged images, left out"}
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


def _named(row: Row) -> Entry:
    return Entry(row.name, row.name)


def _share(value: float) -> Entry:
    return Entry(number_format.percent(value), _number(value))


def _points(value: float) -> Entry:
    return Entry(number_format.points(value), _number(value))


def _count(value: float | None) -> Entry:
    return Entry(number_format.number(value), _number(value))


def _interval(low: float, high: float, format_end: Callable[[float], str] = number_format.points) -> Entry:
    return Entry(_span(format_end(low), format_end(high)), _number(low))


def _span(low: str, high: str) -> str:
    return number_format.NONE if number_format.NONE in (low, high) else f"{low} to {high}"


def _number(value: float | None) -> float | str:
    return "" if value is None or math.isnan(value) else float(value)
