"""Which measurements belong together.

suite(subject) -> {name: Measurement or Combined}      found by name in SUITES
"""

import dataclasses
from collections.abc import Iterable

from harness import attribution as attributions
from harness import corruptions
from harness import measurements as m
from harness.config import Measure
from harness.corruptions import SEVERITIES
from harness.errors import Mistake, unknown
from harness.measurements import Combined, Measurement, Subject, Suite, strength

PIXEL = 1 / 255
FEW = 64  # images whose attributions `full` attacks, where `attribution.images` does not say otherwise

Items = dict[str, Measurement | Combined]


def step_of(measure: Measure, eps: float) -> float:
    """The attack's step at this eps."""
    return measure.step or 2.5 * eps / measure.steps


def pgd_name(measure: Measure, eps: float) -> str:
    """Such as `pgd10-8`, or `pgd10x3-8` for three restarts."""
    return _pgd_name(measure.steps, eps, measure.restarts)


def _pgd_name(steps: int, eps: float, restarts: int = 1, norm: str = "linf") -> str:
    times = f"x{restarts}" if restarts > 1 else ""
    return f"{'l2-' if norm == 'l2' else ''}pgd{steps}{times}-{strength(eps)}"


def robust_suite(subject: Subject) -> Items:
    """Clean accuracy, accuracy under PGD at every eps of the grid, and their mean `robust`.

    `robust` is the area under the accuracy-eps curve on the grid: it tells weak methods apart where a single large eps
    gives 0 for all.
    """
    measure = subject.measure
    grid = {
        pgd_name(measure, eps): m.pgd(eps, step_of(measure, eps), measure.steps, measure.restarts)
        for eps in measure.eps
    }
    return {"clean": Measurement(m.accuracy), **grid, "robust": Combined(tuple(grid), "mean", {"step": measure.step})}


def standard_suite(subject: Subject) -> Items:
    """The robust suite and FGSM at every eps of the grid."""
    return {**robust_suite(subject), **{f"fgsm-{strength(eps)}": m.fgsm(eps) for eps in subject.measure.eps}}


def attribution_suite(subject: Subject) -> Items:
    """The strong protocol and its random control on every map asked for, the bound, and completeness."""
    settings, suite = subject.attribution, {}
    for explain in settings.maps:
        short = "" if explain == "integrated_gradients" else f"-{explain}"
        for name, control in (("strong", False), ("random", True)):
            protocol = attributions.strong(settings, explain, control)
            suite[name + short] = m.attribution(name + short, protocol, settings)
    return {**suite, "bound": m.bound(settings), "completeness": m.completeness(settings)}


def legacy_attribution_suite(subject: Subject) -> Items:
    """IN and K as published: the protocols of Singh et al. (2020) and of Chen et al. (2019)."""
    settings = subject.attribution
    protocols = {"art": attributions.art(settings), "rar": attributions.rar(settings)}
    return {name: m.attribution(name, protocol, settings) for name, protocol in protocols.items()}


def autoattack_suite(subject: Subject) -> Items:
    """AutoAttack's standard version at the largest eps of the grid."""
    return {"clean": Measurement(m.accuracy), **m.cascade(max(subject.measure.eps))}


def corruption_suite(subject: Subject) -> Items:
    """Accuracy under all 15 + 4 corruptions at five severities, and the means that papers report."""
    return _corrupted(subject, corruptions.CORRUPTIONS)


def _corrupted(subject: Subject, names: Iterable[str]) -> Items:
    """Every severity, each corruption's mean, and the mean over those of the published groups that are complete."""
    names = tuple(names)
    each = {f"{n}-{s}": m.corruption(n, s, subject.published) for n in names for s in SEVERITIES}
    means = {n: Combined(tuple(f"{n}-{s}" for s in SEVERITIES), "mean") for n in names}
    groups = {"corrupted": corruptions.STANDARD, "corrupted_art": corruptions.ART}
    over = {
        group: Combined(tuple(f"{n}-{s}" for n in members for s in SEVERITIES), "mean", {"corruptions": list(members)})
        for group, members in groups.items()
        if set(members) <= set(names)
    }
    return {"clean": Measurement(m.accuracy), **each, **means, **over}


def localization_suite(subject: Subject) -> Items:
    """Boxes and masks from gradient and class activation maps, where the images have true ones."""
    maps = ("grad", "cam") if subject.features else ("grad",)
    suite = {"boxes": m.boxes(maps)} if subject.boxes else {}
    return {**suite, "masks": m.masks()} if subject.masks else suite


def paper_sat_suite(subject: Subject) -> Items:
    """As Mangla et al. (2020): PGD-5 with steps of 2/255 at 1 to 4 of 255; and their weak CW, of 20 steps."""
    grid = {_pgd_name(5, e * PIXEL): m.pgd(e * PIXEL, 2 * PIXEL, 5) for e in (1, 2, 3, 4)}
    return {"clean": Measurement(m.accuracy), **grid, "cw20": m.cw("cw20", steps=20, searches=9)}


def paper_art_suite(subject: Subject) -> Items:
    """As Singh et al. (2020): PGD-40 at 8/255, IN and K by their protocol, and their 15 corruptions."""
    settings = subject.attribution
    return {
        "clean": Measurement(m.accuracy),
        _pgd_name(40, 8 * PIXEL): m.pgd(8 * PIXEL, 2 * PIXEL, 40),
        "art": m.attribution("art", attributions.art(settings), settings),
        **_corrupted(subject, corruptions.ART),
    }


def full_suite(subject: Subject) -> Items:
    """All there is, attacks at the largest eps of the grid; attributions on a few images, boxes where there are some.

    `worst` is the worst case per image over every attack of the maximum norm at that eps. The L2 attack's eps is that
    of the same place in the literature (128/255 beside 8/255 on 32x32x3), by the root of the number of values.
    """
    eps = max(subject.measure.eps)
    channels, height, width = subject.shape
    l2 = 16 * eps * (channels * height * width / 3072) ** 0.5
    attacked = {_pgd_name(steps, eps): m.pgd(eps, 2.5 * eps / steps, steps) for steps in (5, 7, 10, 20, 40, 100)}
    attacked |= {_pgd_name(10, eps, restarts=5): m.pgd(eps, 2.5 * eps / 10, 10, restarts=5)}
    attacked |= m.cascade(eps)
    few = dataclasses.replace(subject.attribution, images=subject.attribution.images or FEW)
    smaller = dataclasses.replace(subject, attribution=few)
    standard = standard_suite(subject)
    strongest = (pgd_name(subject.measure, eps), f"fgsm-{strength(eps)}", *attacked)
    return {
        **standard,
        **{name: item for name, item in attacked.items() if name not in standard},
        f"worst-{strength(eps)}": Combined(strongest, "worst"),
        _pgd_name(40, l2, norm="l2"): m.pgd(l2, 2.5 * l2 / 40, 40, norm="l2"),
        "cw100": m.cw("cw100", steps=100, searches=9),
        "stadv100": m.stadv(100, limit=height / 32),
        **corruption_suite(subject),
        **localization_suite(subject),
        **attribution_suite(smaller),
        **legacy_attribution_suite(smaller),
    }


SUITES: dict[str, Suite] = {
    "standard": standard_suite,
    "attribution": attribution_suite,
    "attribution-legacy": legacy_attribution_suite,
    "autoattack": autoattack_suite,
    "corruption": corruption_suite,
    "localization": localization_suite,
    "paper-sat": paper_sat_suite,
    "paper-art": paper_art_suite,
    "full": full_suite,
}


CORRUPTED = frozenset({"corruption", "paper-art", "full"})  # those that corrupt images


def named(names: Iterable[str]) -> Suite:
    """The suites of these names as one. Raises `Mistake` for an unknown one, or two that differ in a measurement."""
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in SUITES:
            raise unknown("suite", name, SUITES)

    def together(subject: Subject) -> Items:
        items: Items = {}
        for name in names:
            for key, item in SUITES[name](subject).items():
                if key in items and _about(items[key]) != _about(item):
                    raise Mistake(f"suites {', '.join(names)} measure {key!r} in different ways; ask for one at a time")
                items[key] = item
        return items

    return together


def _about(item: Measurement | Combined) -> tuple:
    """What tells it from another of the same name."""
    return (dict(item.protocol), *(getattr(item, name, None) for name in ("images", "after", "of", "how")))
