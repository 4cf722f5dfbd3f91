"""Label and sort scores by `ScoreName` and `METRICS`, and say which of them tables show."""

from collections.abc import Iterable

from harness.evaluation.metrics import KINDS, METRICS, PROTOCOLS, SHARE, UNKNOWN, Unit
from harness.evaluation.score_name import ScoreName

MAP_LABELS = {
    "": "",
    "gradient": "gradient",
    "smoothgrad": "SmoothGrad",
    "gradcam_pp": "Grad-CAM++",
    "grad": "gradient",
    "cam": "CAM",
    "centre": "centre box",
}


def on(score: str, split: str) -> str:
    """The same score of another split: `val/robust` -> `test/robust`; "" for the name alone."""
    return str(ScoreName.parse(score).on(split))


def attack(score: str) -> tuple[float, int, int] | None:
    """eps (in 255ths), steps and restarts of a PGD score in the maximum norm; None for any other."""
    name = ScoreName.parse(score)
    if (name.metric, name.norm) != ("pgd", "linf") or name.strength is None:
        return None
    return name.strength, name.steps, name.restarts


def attribution(score: str) -> tuple[str, str, str] | None:
    """Protocol, map ("": integrated gradients) and measure of an attribution score; None for any other."""
    name = ScoreName.parse(score)
    return (name.protocol, name.map, name.metric) if name.protocol else None


def kind(score: str) -> str:
    """The kind of a score, a key of `KINDS`."""
    named = ScoreName.parse(score).about.kind
    return named if named in KINDS else "other"


def unit(score: str) -> Unit:
    """The unit of a score."""
    return ScoreName.parse(score).about.unit


def corruption(score: str) -> tuple[str, int] | None:
    """Name and severity (0: mean over all five) of accuracy under one corruption; None for any other."""
    name = ScoreName.parse(score)
    return (name.metric, name.severity) if name.about.form == "corruption" else None


def accuracy(score: str) -> bool:
    """Whether the score is the share of correctly classified images."""
    about = ScoreName.parse(score).about
    return about.kind in ("accuracy", "corruption") and about.unit == SHARE


def minimum(score: str) -> float:
    """Lower bound of the score: -1 for correlations, else 0."""
    return max(unit(score).lowest, -1.0)


def is_minor(score: str) -> bool:
    """Whether the score is a control, a part or a variant of another one, shown only in the CSV."""
    name = ScoreName.parse(score)
    return not name.about.headline or name.protocol == "random" or bool(name.variant)


def in_own_table(score: str) -> bool:
    """Whether the table of its kind shows the score; it shows more than the ranking does."""
    name = ScoreName.parse(score)
    mean = name.about.form == "corruption" and not name.severity
    return (name.about.headline or mean) and not name.variant


def label(score: str) -> str:
    """`test/pgd10x3-8` -> `PGD-10×3 8/255`, `test/strong-gradient-k` -> `K (strong, gradient)`; others unchanged."""
    name = ScoreName.parse(score)
    about, plain = name.about, str(name.on(""))
    if not about.label:
        return plain if about is UNKNOWN else plain.replace("_", ", ")
    text = about.label + _effort(name.steps, name.restarts)
    text += " L2" if name.norm == "l2" else ""
    text += f" {name.strength:g}/255" if name.strength is not None else f" {name.severity}" if name.severity else ""
    parts = [PROTOCOLS.get(name.protocol), MAP_LABELS.get(name.map, name.map), name.variant]
    return text + (f" ({', '.join(filter(None, parts))})" if any(parts) else "")


def family(steps: int, restarts: int) -> str:
    """`PGD-10`, `PGD-10×3`."""
    return METRICS["pgd"].label + _effort(steps, restarts)


def _effort(steps: int, restarts: int) -> str:
    return (f"-{steps}" if steps else "") + (f"×{restarts}" if restarts > 1 else "")


def sort_key(score: str, *first: str) -> tuple:
    """Sort key of scores: `first`, robust, clean, attributions, then PGD by steps and eps, then others by name.

    Attributions, by protocol, map and measure, come before PGD, which `robust` summarises. Corruptions come last."""
    name = ScoreName.parse(score)
    plain = str(name.on(""))
    head = [*(on(goal, "") for goal in first), "robust", "clean"]
    if plain in head:
        return head.index(plain), 0, 0, 0.0, plain
    if name.about.kind == "corruption":  # means over several first, then in the order of the benchmark
        return len(head) + 3, _index(name.metric, METRICS), name.severity, 0.0, plain
    if name.protocol:
        measure = float(_index(name.metric, METRICS))
        return len(head), _index(name.protocol, PROTOCOLS), _index(name.map, MAP_LABELS), measure, plain
    if of_pgd := attack(score):
        eps, steps, restarts = of_pgd
        return len(head) + 1, steps, restarts, eps, plain
    return len(head) + 2, 0, 0, name.strength if name.metric == "fgsm" else 0.0, plain


def _index(name: str, names: Iterable[str]) -> int:
    return list(names).index(name) if name in names else len(list(names))
