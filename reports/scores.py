"""Names of scores: `split/metric[-strength]`, strength in 255ths, such as `test/pgd10x3-8`.

How stable attributions are is named `split/protocol[-map]-measure`, such as `test/art-in` or `test/strong-gradient-k`.
"""

import re
from collections.abc import Iterable

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
# Corruptions of Hendrycks and Dietterich (2019), and the means over two sets of fifteen.
CORRUPTIONS = (
    *(
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "snow",
    ),
    *("frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
)
NAMES = {
    "corrupted": "Corrupted",
    "corrupted_art": "Corrupted (15 of ART)",
    "gtknown": "GT-known Loc",
    "top1loc": "Top-1 Loc",
    "maxboxacc": "MaxBoxAccV2",
    "iou": "IoU",
    "dice": "Dice",
    "pixel": "Pixel accuracy",
    "grad": "gradient",
    "cam": "CAM",
    "centre": "centre box",
}
# What a score speaks of, and the heading of its table.
QUESTIONS = {
    "accuracy": "Accuracy",
    "attribution": "How much of an attribution survives an attack",
    "corruption": "Accuracy on corrupted images",
    "localization": "Localisation from maps",
    "segmentation": "Segmentation from maps",
}
_SIGNED = ("k", "spearman", "cosine", "lens_kendall", "lens_spearman")  # correlations: in [-1, 1]
_PGD = re.compile(r"pgd(\d+)(?:x(\d+))?-(\d+(?:\.\d+)?)")
_FGSM = re.compile(r"fgsm-(\d+(?:\.\d+)?)")
_ATTRIBUTION = re.compile(rf"({'|'.join(PROTOCOLS)})-(?:([\w.+]+)-)?({'|'.join(MEASURES)})")
_SIDES = re.compile(r"(?:bound|completeness)(?:_(left|right|slack))?|cw\d+_l2")
_CORRUPTED = re.compile(rf"({'|'.join(CORRUPTIONS)})(?:-([1-5]))?")
_LOCATED = re.compile(r"(gtknown|top1loc|maxboxacc)-(grad|cam|centre)(?:-(oracle|transferred))?")
_SEGMENTED = re.compile(r"(iou|dice|pixel)(?:-(oracle|transferred|otsu))?")
_OTHER = re.compile(r"(l2-)?(aa-[a-z]+(?:-[a-z]+)?|aa|worst|pgd\d+)-(\d+(?:\.\d+)?)")


def attack(score: str) -> tuple[float, int, int] | None:
    """eps (in 255ths), steps and restarts of a PGD score; None for any other."""
    found = _PGD.fullmatch(score.rpartition("/")[2])
    return (float(found[3]), int(found[1]), int(found[2] or 1)) if found else None


def attribution(score: str) -> tuple[str, str, str] | None:
    """Protocol, map ("": integrated gradients) and measure of how stable attributions are; None for any other score."""
    found = _ATTRIBUTION.fullmatch(score.rpartition("/")[2])
    return (found[1], found[2] or "", found[3]) if found else None


def question(score: str) -> str:
    """Which of `QUESTIONS` the score answers."""
    name = score.rpartition("/")[2]
    if attribution(name) or name.startswith(("bound", "completeness")):
        return "attribution"
    if name.startswith("corrupted") or _CORRUPTED.fullmatch(name):
        return "corruption"
    if _LOCATED.fullmatch(name):
        return "localization"
    return "segmentation" if _SEGMENTED.fullmatch(name) else "accuracy"


def corruption(score: str) -> tuple[str, int] | None:
    """Name and severity (0: mean over all five) of accuracy under one corruption; None for any other score."""
    found = _CORRUPTED.fullmatch(score.rpartition("/")[2])
    return (found[1], int(found[2] or 0)) if found else None


def accuracy(score: str) -> bool:
    """Whether the score is a share of images that are classified correctly."""
    return question(score) in ("accuracy", "corruption") and not _SIDES.fullmatch(score.rpartition("/")[2])


def least(score: str) -> float:
    """The lowest value that the score can have: -1 for correlations, else 0."""
    found = attribution(score)
    return -1.0 if found and found[2] in _SIGNED else 0.0


def minor(score: str) -> bool:
    """Whether the score is there to check others by, or varies one of them: tables leave it to the CSV.

    So FGSM, which as a figure of its own would flatter, random signs in place of an attack, every measure of
    attributions but IN and K, both sides of a bound, single corruptions, what AutoAttack's parts leave, and thresholds
    other than the published ones."""
    name = score.rpartition("/")[2]
    if found := attribution(name):
        return found[0] == "random" or found[2] not in ("in", "k")
    if found := _LOCATED.fullmatch(name) or _SEGMENTED.fullmatch(name):
        return found[found.re.groups] is not None or found[1] in ("maxboxacc", "dice", "pixel")
    single = _FGSM.fullmatch(name) or _CORRUPTED.fullmatch(name) or (name.startswith("aa-") and not name[3:4].isdigit())
    return not accuracy(score) or bool(single)


def label(score: str) -> str:
    """`test/pgd10x3-8` -> `PGD-10×3 8/255`, `test/strong-gradient-k` -> `K (strong, gradient)`; others as they are."""
    name = score.rpartition("/")[2]
    if found := attack(name):
        eps, steps, restarts = found
        return f"{family(steps, restarts)} {eps:g}/255"
    if found := attribution(name):
        protocol, on, measure = found
        return f"{MEASURES[measure]} ({', '.join([PROTOCOLS[protocol], *filter(None, [MAPS.get(on, on)])])})"
    if found := _CORRUPTED.fullmatch(name):
        return found[1].replace("_", " ") + (f" {found[2]}" if found[2] else "")
    if found := _LOCATED.fullmatch(name):
        return f"{NAMES[found[1]]} ({', '.join([NAMES[found[2]], *filter(None, [found[3]])])})"
    if found := _SEGMENTED.fullmatch(name):
        return NAMES[found[1]] + (f" ({found[2]})" if found[2] else "")
    if found := _OTHER.fullmatch(name):
        known = {"aa": "AutoAttack", "worst": "Worst case"}
        what = known.get(found[2]) or re.sub("^aa-", "AA ", re.sub("^pgd", "PGD-", found[2]))
        return f"{what} {'L2 ' if found[1] else ''}{found[3]}/255"
    if name in NAMES:
        return NAMES[name]
    return name.replace("_", ", ") if _SIDES.fullmatch(name) else _FGSM.sub(r"FGSM \1/255", name)


def family(steps: int, restarts: int) -> str:
    """`PGD-10`, `PGD-10×3`."""
    return f"PGD-{steps}{f'×{restarts}' if restarts > 1 else ''}"


def place(score: str, *first: str) -> tuple:
    """A key to sort scores by: `first`, robust, clean, attributions, then PGD by steps and eps, then others by name.

    Attributions come before PGD, since `robust` already sums that up. They are sorted by protocol, map and measure.
    Corruptions come last."""
    name = score.rpartition("/")[2]
    head = [*(goal.rpartition("/")[2] for goal in first), "robust", "clean"]
    if name in head:
        return head.index(name), 0, 0, 0.0, name
    if question(name) == "corruption":  # means over several first, then in the order of the benchmark
        kind, severity = corruption(name) or (name, 0)
        return len(head) + 3, _index(kind, CORRUPTIONS) + 1 if corruption(name) else 0, severity, 0.0, name
    if found := attribution(name):
        protocol, on, measure = (_index(part, of) for part, of in zip(found, (PROTOCOLS, MAPS, MEASURES), strict=True))
        return len(head), protocol, on, float(measure), name
    if found := attack(name):
        eps, steps, restarts = found
        return len(head) + 1, steps, restarts, eps, name
    single = _FGSM.fullmatch(name)
    return len(head) + 2, 0, 0, float(single[1]) if single else 0.0, name


def _index(name: str, names: Iterable[str]) -> int:
    return list(names).index(name) if name in names else len(names)
