"""Sentences about a leaderboard: the headline, and warnings about its scores."""

from collections.abc import Sequence

import pandas as pd

from harness.evaluation.metrics import METRICS
from reports.analyse.columns import finished, is_missing, shown
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


def headline(leaderboard: pd.DataFrame) -> list[str]:
    """The main result as a list of strings: text at even indices, names of cells at odd ones."""
    done = finished(leaderboard)
    if done.empty:
        return ["No cell has finished yet."]
    first, score = done.iloc[0], done.iloc[0]["ranked_by"]
    half = first[f"half:{score}"]
    peers = list(done.loc[done["group"] == first["group"], "cell"])[1:]
    verb = "reached" if len(done) == 1 else "leads with" if peers else "is best:"
    parts = ["", first["cell"], f" {verb} {with_interval(first[score], half)} % {score_names.label(score)}"]
    if not is_missing(first["difference"]):
        difference = points(first["difference"], first["half:difference"]).removeprefix("+")
        parts[-1] += f", {difference} points above "
        parts += [first["against"], ""]
    elif first["cell"] == first["against"] and len(done) > 1:
        parts[-1] += ", and it is the control"
    if is_missing(half):
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


def warnings(done: pd.DataFrame) -> list[str]:
    """Warnings: seed runs of different settings, attacks no better than a weaker one, many dropped images."""
    sentences = []
    chosen = [c for c in done.columns if c.startswith("set:")]
    mixed = [row["cell"] for row in done.to_dict("records") if any(" | " in str(row[c]) for c in chosen)]
    if mixed:
        sentences.append(f"Seed runs of different settings are averaged in: {'; '.join(mixed)}.")
    for name in shown(done):
        eps = (score_names.attack(name) or [None])[0]
        if eps is None or f"test/fgsm-{eps:g}" not in done:
            continue
        drop = done[name] - done[f"test/fgsm-{eps:g}"]
        weak = done.loc[drop > 0.01, "cell"]  # up to a point may be due to the random start
        if len(weak):
            sentences.append(
                f"FGSM's single step breaks more images than {score_names.label(name)} in: {'; '.join(weak)}. "
                "Gradients may be masked; do not rely on accuracy under PGD there without a stronger attack."
            )
    return [*sentences, *_no_better_than_random(done), *_dropped(done)]


def shared(tested: pd.DataFrame) -> list[str]:
    """Rows with the same trained nets, which merged experiments may contain."""
    rows: dict[frozenset, list[str]] = {}
    for row, keys in tested.groupby("row", sort=False)["key"]:
        if (keys.fillna("") != "").all():
            rows.setdefault(frozenset(keys), []).append(row)
    return [f"The same trained nets are behind {listed(same)}." for same in rows.values() if len(same) > 1]


def _no_better_than_random(done: pd.DataFrame) -> list[str]:
    """Where random signs lower IN or K by more than a point, and the strongest attack by hardly more."""
    names = {parts: c for c in done.columns if c.startswith("test/") and (parts := score_names.attribution(c))}
    alike: dict[str, list[str]] = {}  # cells -> scores
    for (protocol, on, measure), control in names.items():
        attacks = [names[p, on, measure] for p in ("strong", "rar", "art") if (p, on, measure) in names]
        if protocol != "random" or measure not in ("in", "k") or not attacks:
            continue
        # If random signs lower it by next to nothing, the map may be stable, and a weak attack is no warning.
        cells = done.loc[(done[control] < 0.99) & (done[control] <= done[attacks[0]] + 0.01), "cell"]
        if len(cells):
            alike.setdefault("; ".join(cells), []).append(score_names.label(attacks[0]))
    return [
        f"Random signs lower {listed(labels)} about as much as the attack does in: {cells}. Gradients may be masked, "
        "or the map is insensitive to the input; do not rely on these scores there without a stronger attack."
        for cells, labels in alike.items()
    ]


def _dropped(done: pd.DataFrame) -> list[str]:
    """Where more than 5 % of the attacked images are dropped."""
    score_of_map = {}  # map -> score: all scores of a map count the same images
    for name in shown(done):
        if f"dropped:{name}" in done and (parts := score_names.attribution(name)) and parts[0] == "art":
            score_of_map.setdefault(parts[1], name)
    sentences = []
    for name in score_of_map.values():
        shares = done[f"dropped:{name}"] / (done[f"n:{name}"] + done[f"dropped:{name}"])
        many = [f"{cell} ({percent(s)} %)" for cell, s in zip(done["cell"], shares, strict=True) if s > 0.05]
        if many:
            sentences.append(
                f"Of the images attacked for {score_names.label(name)}, many are dropped in: {'; '.join(many)}. On"
                " those every step of the attack changed the prediction; IN and K are over the rest only."
            )
    return sentences
