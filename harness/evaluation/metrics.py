"""Metrics: what the number of a score is, and how reports show it. Without torch, for reports.

METRICS[ScoreName.parse("test/pgd10-8").metric].unit      or  ScoreName.parse("test/pgd10-8").about.unit
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.data.corruptions import names
from harness.errors import UserError

# Kinds of metrics, and the heading of their table.
KINDS = {
    "accuracy": "Accuracy",
    "attribution": "How much of an attribution survives an attack",
    "corruption": "Accuracy on corrupted images",
    "localization": "Localisation from maps",
    "segmentation": "Segmentation from maps",
    "other": "Other",
}
DEPENDS_ON_WEIGHTS = "depends_on_weights"  # the check whose numbers, `map/rank` and others, tables show
CHECKS_OF_MAPS = (DEPENDS_ON_WEIGHTS, "every_layer")  # all other checks are of accuracies
# Of attribution attacks, and their labels.
PROTOCOLS = {"art": "ART", "rar": "RAR", "fast": "fast", "strong": "strong", "random": "random"}
DROPPING = ("art", "fast")  # drop an image if every iterate changes its prediction; elsewhere it counts as 1

# What a score's name holds beside its metric; see `harness.evaluation.score_name`.
Form = Literal["plain", "attack", "minimum", "corruption", "similarity", "boxes", "masks"]


@dataclass(frozen=True)
class Unit:
    """Unit of a metric: reports print `scale` times the number. lowest, highest: the range of the number."""

    name: str
    scale: float = 1
    lowest: float = -math.inf
    highest: float = math.inf


SHARE = Unit("%", 100, 0, 1)
CORRELATION = Unit("%", 100, -1, 1)
NUMBER = Unit("number")


@dataclass(frozen=True)
class Metric:
    """A metric and its place in a report.

    label: "" for the name of the score itself. kind: of `KINDS`. better: "" if neither is, or unknown. headline: shown
    in tables; else a control, a part or a variant of another metric, and only in the CSV. form: of the score's name.
    """

    label: str = ""
    kind: str = "other"
    unit: Unit = NUMBER
    better: Literal["higher", "lower", ""] = ""
    headline: bool = True
    form: Form = "plain"

    @property
    def is_share(self) -> bool:
        """Whether it is a share or a correlation, shown in per cent; only these can be goals."""
        return self.unit in (SHARE, CORRELATION)


UNKNOWN = Metric()  # of a stored score that `METRICS` does not hold: a plain number


def _accuracy(label: str = "", form: Form = "plain", headline: bool = True) -> Metric:
    return Metric(label, "accuracy", SHARE, "higher", headline, form)


def _attack(label: str, headline: bool = True) -> Metric:
    return _accuracy(label, "attack", headline=headline)


def _similarity(label: str, unit: Unit = SHARE, headline: bool = False) -> Metric:
    return Metric(label, "attribution", unit, "higher", headline, "similarity")


def _side(unit: str, better: Literal["lower", ""] = "") -> Metric:
    """A side of an inequality, or their difference."""
    return Metric("", "attribution", Unit(unit, lowest=0), better, headline=False)


_LOGITS, _SLOPE = "logits", "logits per pixel value"
# In the order of tables: means before what they summarise.
METRICS: dict[str, Metric] = {
    "robust": _accuracy(),
    "clean": _accuracy(),
    "pgd": _attack("PGD"),
    "fgsm": _attack("FGSM", headline=False),  # overestimates robustness
    "aa": _attack("AutoAttack"),
    **{f"aa-{part}": _attack(f"AA {part}", headline=False) for part in ("apgd-ce", "apgd-t", "fab-t", "square")},
    **{attack: _attack(attack) for attack in ("apgd-ce", "apgd-t", "fab-t", "square")},
    "worst": _attack("Worst case"),
    "cw": _accuracy(form="minimum"),
    "cw_l2": Metric("", "accuracy", Unit("L2 distance", lowest=0), "higher", headline=False, form="minimum"),
    "stadv": _accuracy(form="minimum"),
    "in": _similarity("IN", headline=True),
    "k": _similarity("K", CORRELATION, headline=True),
    "spearman": _similarity("Spearman", CORRELATION),
    "cosine": _similarity("cosine", CORRELATION),
    "lens_precision": _similarity("LENS precision"),
    "lens_recall": _similarity("LENS recall"),
    "lens_kendall": _similarity("LENS Kendall", CORRELATION),
    "lens_spearman": _similarity("LENS Spearman", CORRELATION),
    "bound_left": _side(_SLOPE, "lower"),
    "bound_right": _side(_SLOPE, "lower"),
    "bound_slack": _side(_SLOPE),
    "completeness": Metric("", "attribution", SHARE, "higher", headline=False),
    "completeness_left": _side(_LOGITS),
    "completeness_right": _side(_LOGITS),
    "gtknown": Metric("GT-known Loc", "localization", SHARE, "higher", form="boxes"),
    "top1loc": Metric("Top-1 Loc", "localization", SHARE, "higher", form="boxes"),
    "maxboxacc": Metric("MaxBoxAccV2", "localization", SHARE, "higher", headline=False, form="boxes"),
    "iou": Metric("IoU", "segmentation", SHARE, "higher", form="masks"),
    "dice": Metric("Dice", "segmentation", SHARE, "higher", headline=False, form="masks"),
    "pixel": Metric("Pixel accuracy", "segmentation", SHARE, "higher", headline=False, form="masks"),
    "corrupted": Metric("Corrupted", "corruption", SHARE, "higher"),
    "corrupted_art": Metric("Corrupted (15 of ART)", "corruption", SHARE, "higher"),
    **{
        name: Metric(name.replace("_", " "), "corruption", SHARE, "higher", headline=False, form="corruption")
        for name in names.NAMES
    },
}
OURS = frozenset(METRICS)  # plug-ins add theirs to `METRICS`


def declare(metrics: Mapping[str, Metric]) -> None:
    """Add the metrics of a plug-in to `METRICS`. Raises `UserError` for a name of ours."""
    if taken := sorted(OURS & metrics.keys()):
        raise UserError(f"its metric {taken[0]!r} has the name of one of ours; rename it")
    METRICS.update(metrics)


def as_text(metric: Metric) -> str:
    """A metric of a plug-in as JSON, as tags of runs have it: reports read it from there, without the plug-in."""
    unit = metric.unit
    shown = {"label": metric.label, "kind": metric.kind, "better": metric.better, "headline": metric.headline}
    return json.dumps({**shown, "unit": [unit.name, unit.scale, unit.lowest, unit.highest]})


def declare_text(name: str, text: str) -> None:
    """Add a metric as `as_text` gave it, unless it has a name of ours, or the text is of another form."""
    try:
        read = json.loads(text)
        unit = Unit(str(read["unit"][0]), *map(float, read["unit"][1:4]))
        better: Literal["higher", "lower", ""] = read["better"] if read["better"] in ("higher", "lower") else ""
        kind = read["kind"] if read["kind"] in KINDS else "other"
        metric = Metric(str(read["label"]), kind, SHARE if unit == SHARE else unit, better, bool(read["headline"]))
    except (ValueError, TypeError, KeyError, IndexError):
        return
    if name not in OURS:
        METRICS[name] = metric
