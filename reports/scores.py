"""Names of scores: `split/metric[-strength]`, strength in 255ths, such as `test/pgd10x3-8`.

How stable attributions are is named `split/protocol[-map]-measure`, such as `test/art-in` or `test/strong-gradient-k`.
"""

import re

PROTOCOLS = {"art": "ART", "rar": "RAR", "strong": "strong", "random": "random"}
MAPS = {"": "", "gradient": "gradient", "smoothgrad": "SmoothGrad", "gradcam_pp": "Grad-CAM++"}
MEASURES = {
    "in": "IN",
    "k": "K",
    "spearman": "Spearman",
    "cosine": "cosine",
    "lens_precision": "LENS precision",
    "lens_recall": "LENS recall",
    "lens_kendall": "LENS Kendall",
    "lens_spearman": "LENS Spearman",
}
_SIGNED = ("k", "spearman", "cosine", "lens_kendall", "lens_spearman")  # correlations: in [-1, 1]
_PGD = re.compile(r"pgd(\d+)(?:x(\d+))?-(\d+(?:\.\d+)?)")
_FGSM = re.compile(r"fgsm-(\d+(?:\.\d+)?)")
_ATTRIBUTION = re.compile(rf"({'|'.join(PROTOCOLS)})-(?:([\w.+]+)-)?({'|'.join(MEASURES)})")
_SIDES = re.compile(r"(?:bound|completeness)(?:_(left|right|slack))?")


def attack(score: str) -> tuple[float, int, int] | None:
    """eps (in 255ths), steps and restarts of a PGD score; None for any other."""
    found = _PGD.fullmatch(score.rpartition("/")[2])
    return (float(found[3]), int(found[1]), int(found[2] or 1)) if found else None


def attribution(score: str) -> tuple[str, str, str] | None:
    """Protocol, map ("": integrated gradients) and measure of how stable attributions are; None for any other score."""
    found = _ATTRIBUTION.fullmatch(score.rpartition("/")[2])
    return (found[1], found[2] or "", found[3]) if found else None


def accuracy(score: str) -> bool:
    """Whether the score is a share of images that are classified correctly."""
    return not attribution(score) and not _SIDES.fullmatch(score.rpartition("/")[2])


def least(score: str) -> float:
    """The lowest value that the score can have: -1 for correlations, else 0."""
    found = attribution(score)
    return -1.0 if found and found[2] in _SIGNED else 0.0


def minor(score: str) -> bool:
    """Whether the score is there to check others by, or varies one of them: tables leave it to the CSV.

    So FGSM, which as a figure of its own would flatter, random signs in place of an attack, every measure of
    attributions but IN and K, and both sides of a bound."""
    if found := attribution(score):
        return found[0] == "random" or found[2] not in ("in", "k")
    return not accuracy(score) or bool(_FGSM.fullmatch(score.rpartition("/")[2]))


def label(score: str) -> str:
    """`test/pgd10x3-8` -> `PGD-10×3 8/255`, `test/strong-gradient-k` -> `K (strong, gradient)`; others as they are."""
    name = score.rpartition("/")[2]
    if found := attack(name):
        eps, steps, restarts = found
        return f"{family(steps, restarts)} {eps:g}/255"
    if found := attribution(name):
        protocol, on, measure = found
        return f"{MEASURES[measure]} ({', '.join([PROTOCOLS[protocol], *filter(None, [MAPS.get(on, on)])])})"
    return name.replace("_", ", ") if _SIDES.fullmatch(name) else _FGSM.sub(r"FGSM \1/255", name)


def family(steps: int, restarts: int) -> str:
    """`PGD-10`, `PGD-10×3`."""
    return f"PGD-{steps}{f'×{restarts}' if restarts > 1 else ''}"


def place(score: str, *first: str) -> tuple:
    """A key to sort scores by: `first`, robust, clean, attributions, then PGD by steps and eps, then others by name.

    Attributions come before PGD, since `robust` already sums that up. They are sorted by protocol, map and measure."""
    name = score.rpartition("/")[2]
    head = [*(goal.rpartition("/")[2] for goal in first), "robust", "clean"]
    if name in head:
        return head.index(name), 0, 0, 0.0, name
    if found := attribution(name):
        protocol, on, measure = (_index(part, of) for part, of in zip(found, (PROTOCOLS, MAPS, MEASURES), strict=True))
        return len(head), protocol, on, float(measure), name
    if found := attack(name):
        eps, steps, restarts = found
        return len(head) + 1, steps, restarts, eps, name
    single = _FGSM.fullmatch(name)
    return len(head) + 2, 0, 0, float(single[1]) if single else 0.0, name


def _index(name: str, names: dict[str, str]) -> int:
    return list(names).index(name) if name in names else len(names)
