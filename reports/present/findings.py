"""Sentences about a leaderboard: the headline, and warnings about its scores."""

import math
from collections.abc import Sequence

import pandas as pd

from harness.evaluation.metrics import DROPPING, METRICS
from reports.analyse.rows import Leaderboard
from reports.present.number_format import capitalised, listed, percent, points, with_interval
from reports.read import score_names


def measured(names: Sequence[str]) -> str:
    """Kinds of these scores, for a heading: `Accuracy, IN and K`."""
    kinds = ["accuracy"] if any(map(score_names.accuracy, names)) else []
    for name in names:
        if not score_names.accuracy(name):
            parts = score_names.attribution(name)
            kinds.append(METRICS[parts[2]].label if parts else score_names.label(name))
    return capitalised(listed(list(dict.fromkeys(kinds))))


def headline(leaderboard: Leaderboard) -> list[str]:
    """The main result as a list of strings: text at even indices, names of cells at odd ones."""
    done = leaderboard.finished
    if not done:
        return ["No cell has finished yet."]
    first, figure = done[0], done[0].figure(leaderboard.ranked_by)
    peers = [row.name for row in done if row.group == first.group][1:]
    verb = "reached" if len(done) == 1 else "leads with" if peers else "is best:"
    unit = score_names.unit(leaderboard.ranked_by)
    mean = f"{with_interval(figure.mean, figure.half, unit)} {unit.name}"
    parts = ["", first.name, f" {verb} {mean} {score_names.label(leaderboard.ranked_by)}"]
    if not math.isnan(first.difference.mean):
        difference = points(first.difference.mean, first.difference.half, unit).removeprefix("+")
        parts[-1] += f", {difference} points above "
        parts += [leaderboard.control, ""]
    elif first.name == leaderboard.control and len(done) > 1:
        parts[-1] += ", and it is the control"
    if math.isnan(figure.half):
        parts[-1] += "; a single seed gives no interval, so this is not conclusive"
    elif peers:
        parts[-1] += "; these seeds cannot distinguish "
        for i, peer in enumerate(peers[:3]):
            last = i == len(peers) - 1
            parts[-1] += "" if i == 0 else " and " if last else ", "
            parts += [peer, ""]
        parts[-1] += f" and {len(peers) - 3} more from it" if len(peers) > 3 else " from it"
    parts[-1] += "."
    return parts


def checked(tested: pd.DataFrame) -> list[str]:
    """A sentence for every check and cell with verdict "doubt" on the test scores."""
    sentences = []
    for column in [c for c in tested.columns if c.startswith("check:")]:
        for cell, texts in tested.groupby("cell", sort=False)[column]:
            facts = [text.removeprefix("doubt: ") for text in texts.dropna() if text.startswith("doubt: ")]
            if facts:
                seeds = f"{len(facts)} of {len(texts)} seed runs of {cell}"
                sentences.append(f"Check {column.removeprefix('check:')}, {seeds}: {facts[0]}.")
    return sentences


def warnings(leaderboard: Leaderboard) -> list[str]:
    """Warnings: a search that ended early, seed runs of different settings, weak attacks, many dropped images."""
    sentences, done = list(leaderboard.ends), leaderboard.finished
    mixed = [row.name for row in done if any(len(setting.values) > 1 for setting in row.settings.values())]
    if mixed:
        sentences.append(f"Seed runs of different settings are averaged in: {'; '.join(mixed)}.")
    sentences += _older(leaderboard)
    for name in leaderboard.shown:
        if (attack := score_names.attack(name)) is None:
            continue
        single = f"test/fgsm-{attack[0]:g}"
        drops = {row.name: row.figure(name).mean - row.figure(single).mean for row in done}
        if weak := [row for row, drop in drops.items() if drop > 0.01]:  # up to a point may be due to the random start
            sentences.append(
                f"FGSM's single step breaks more images than {score_names.label(name)} in: {'; '.join(weak)}. "
                "Gradients may be masked; do not rely on accuracy under PGD there without a stronger attack."
            )
    return [*sentences, *_no_better_than_random(leaderboard), *_dropped(leaderboard)]


def _older(leaderboard: Leaderboard) -> list[str]:
    """Scores that rows, or the runs of a row, have by different versions of measuring."""
    rows: dict[str, list[str]] = {}  # cells -> scores
    for name in leaderboard.shown:
        newest = max((max(row.figure(name).versions, default=1) for row in leaderboard.finished), default=1)
        if older := [row.name for row in leaderboard.finished if row.figure(name).version < newest]:
            rows.setdefault("; ".join(older), []).append(score_names.label(name))
    return [
        f"Measured by an older version than elsewhere, {listed(labels)} in: {cells}. Run the same command again, which "
        "measures them anew, before comparing."
        for cells, labels in rows.items()
    ]


def shared(tested: pd.DataFrame) -> list[str]:
    """Rows with the same trained nets, which merged experiments may contain."""
    rows: dict[frozenset[str], list[str]] = {}
    for row, keys in tested.groupby("row", sort=False)["key"]:
        if (keys.fillna("") != "").all():
            rows.setdefault(frozenset(keys), []).append(row)
    return [f"The same trained nets are behind {listed(same)}." for same in rows.values() if len(same) > 1]


def _no_better_than_random(leaderboard: Leaderboard) -> list[str]:
    """Where random signs lower IN or K by more than a point, and the strongest attack by hardly more."""
    names = {parts: name for name in leaderboard.scores if (parts := score_names.attribution(name))}
    alike: dict[str, list[str]] = {}  # cells -> scores
    for (protocol, on, measure), control in names.items():
        attacks = [names[p, on, measure] for p in ("strong", "rar", "art", "fast") if (p, on, measure) in names]
        if protocol != "random" or measure not in ("in", "k") or not attacks:
            continue
        # If random signs lower it by next to nothing, the map may be stable, and a weak attack is no warning.
        means = [(row.name, row.figure(control).mean, row.figure(attacks[0]).mean) for row in leaderboard.finished]
        if cells := [row for row, random, attacked in means if random < 0.99 and random <= attacked + 0.01]:
            alike.setdefault("; ".join(cells), []).append(score_names.label(attacks[0]))
    return [
        f"Random signs lower {listed(labels)} about as much as the attack does in: {cells}. Gradients may be masked, "
        "or the map is insensitive to the input; do not rely on these scores there without a stronger attack."
        for cells, labels in alike.items()
    ]


def _dropped(leaderboard: Leaderboard) -> list[str]:
    """Where more than 5 % of the attacked images are dropped."""
    scores: dict[str, str] = {}  # protocol -> score: all scores of a protocol count the same images
    for name in leaderboard.shown:
        recorded = any(row.figure(name).images.dropped is not None for row in leaderboard.finished)
        if recorded and (parts := score_names.attribution(name)) and parts[0] in DROPPING:
            scores.setdefault(parts[0], name)
    sentences = []
    for name in scores.values():
        shares = {row.name: row.figure(name).images.dropped_share for row in leaderboard.finished}
        if many := [f"{row} ({percent(share)} %)" for row, share in shares.items() if share > 0.05]:
            sentences.append(
                f"Of the images attacked for {score_names.label(name)}, many are dropped in: {'; '.join(many)}. On"
                " those every step of the attack changed the prediction; IN and K are over the rest only."
            )
    return sentences
