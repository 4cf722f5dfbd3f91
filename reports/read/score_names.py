"""Parse, label and sort score names: `split/metric[-strength]`, strength in 255ths, such as `test/pgd10x3-8`.

Attributional robustness is named `split/protocol[-map]-measure`, such as `test/art-in` or `test/strong-gradient-k`.
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
# Kinds of scores, and the heading of their table.
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
    match = _PGD.fullmatch(score.rpartition("/")[2])
    return (float(match[3]), int(match[1]), int(match[2] or 1)) if match else None


def attribution(score: str) -> tuple[str, str, str] | None:
    """Protocol, map ("": integrated gradients) and measure of an attribution score; None for any other."""
    match = _ATTRIBUTION.fullmatch(score.rpartition("/")[2])
    return (match[1], match[2] or "", match[3]) if match else None


def question(score: str) -> str:
    """The kind of a score, a key of `QUESTIONS`."""
    name = score.rpartition("/")[2]
    if attribution(name) or name.startswith(("bound", "completeness")):
        return "attribution"
    if name.startswith("corrupted") or _CORRUPTED.fullmatch(name):
        return "corruption"
    if _LOCATED.fullmatch(name):
        return "localization"
    return "segmentation" if _SEGMENTED.fullmatch(name) else "accuracy"


def corruption(score: str) -> tuple[str, int] | None:
    """Name and severity (0: mean over all five) of accuracy under one corruption; None for any other."""
    match = _CORRUPTED.fullmatch(score.rpartition("/")[2])
    return (match[1], int(match[2] or 0)) if match else None


def accuracy(score: str) -> bool:
    """Whether the score is the share of correctly classified images."""
    return question(score) in ("accuracy", "corruption") and not _SIDES.fullmatch(score.rpartition("/")[2])


def minimum(score: str) -> float:
    """Lower bound of the score: -1 for correlations, else 0."""
    match = attribution(score)
    return -1.0 if match and match[2] in _SIGNED else 0.0


def is_minor(score: str) -> bool:
    """Whether the score is a control or a variant of another one, shown only in the CSV.

    These are FGSM, which overestimates robustness, random signs in place of an attack, every measure of attributions
    except IN and K, both sides of a bound, single corruptions, accuracy after each part of AutoAttack, and thresholds
    other than the published ones."""
    name = score.rpartition("/")[2]
    if match := attribution(name):
        return match[0] == "random" or match[2] not in ("in", "k")
    if match := _LOCATED.fullmatch(name) or _SEGMENTED.fullmatch(name):
        return match[match.re.groups] is not None or match[1] in ("maxboxacc", "dice", "pixel")
    single = _FGSM.fullmatch(name) or _CORRUPTED.fullmatch(name) or (name.startswith("aa-") and not name[3:4].isdigit())
    return not accuracy(score) or bool(single)


def label(score: str) -> str:
    """`test/pgd10x3-8` -> `PGD-10×3 8/255`, `test/strong-gradient-k` -> `K (strong, gradient)`; others unchanged."""
    name = score.rpartition("/")[2]
    if match := attack(name):
        eps, steps, restarts = match
        return f"{family(steps, restarts)} {eps:g}/255"
    if match := attribution(name):
        protocol, on, measure = match
        return f"{MEASURES[measure]} ({', '.join([PROTOCOLS[protocol], *filter(None, [MAPS.get(on, on)])])})"
    if match := _CORRUPTED.fullmatch(name):
        return match[1].replace("_", " ") + (f" {match[2]}" if match[2] else "")
    if match := _LOCATED.fullmatch(name):
        return f"{NAMES[match[1]]} ({', '.join([NAMES[match[2]], *filter(None, [match[3]])])})"
    if match := _SEGMENTED.fullmatch(name):
        return NAMES[match[1]] + (f" ({match[2]})" if match[2] else "")
    if match := _OTHER.fullmatch(name):
        known = {"aa": "AutoAttack", "worst": "Worst case"}
        what = known.get(match[2]) or re.sub("^aa-", "AA ", re.sub("^pgd", "PGD-", match[2]))
        return f"{what} {'L2 ' if match[1] else ''}{match[3]}/255"
    if name in NAMES:
        return NAMES[name]
    return name.replace("_", ", ") if _SIDES.fullmatch(name) else _FGSM.sub(r"FGSM \1/255", name)


def family(steps: int, restarts: int) -> str:
    """`PGD-10`, `PGD-10×3`."""
    return f"PGD-{steps}{f'×{restarts}' if restarts > 1 else ''}"


def sort_key(score: str, *first: str) -> tuple:
    """Sort key of scores: `first`, robust, clean, attributions, then PGD by steps and eps, then others by name.

    Attributions, by protocol, map and measure, come before PGD, which `robust` summarises. Corruptions come last."""
    name = score.rpartition("/")[2]
    head = [*(goal.rpartition("/")[2] for goal in first), "robust", "clean"]
    if name in head:
        return head.index(name), 0, 0, 0.0, name
    if question(name) == "corruption":  # means over several first, then in the order of the benchmark
        kind, severity = corruption(name) or (name, 0)
        return len(head) + 3, _index(kind, CORRUPTIONS) + 1 if corruption(name) else 0, severity, 0.0, name
    if match := attribution(name):
        protocol, on, measure = (_index(part, of) for part, of in zip(match, (PROTOCOLS, MAPS, MEASURES), strict=True))
        return len(head), protocol, on, float(measure), name
    if match := attack(name):
        eps, steps, restarts = match
        return len(head) + 1, steps, restarts, eps, name
    single = _FGSM.fullmatch(name)
    return len(head) + 2, 0, 0, float(single[1]) if single else 0.0, name


def _index(name: str, names: Iterable[str]) -> int:
    return list(names).index(name) if name in names else len(names)
