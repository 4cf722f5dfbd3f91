"""Suites: named sets of measurements, selected by `measure.suites` or --suite.

    suite(context) -> {name: Measurement or Combined}      by name in SUITES

`measurements.py` defines them, `evaluator.py` runs them.
"""

import dataclasses
from collections.abc import Iterable

from harness.data.corruptions import registry
from harness.data.corruptions.registry import SEVERITIES
from harness.errors import UserError, unknown_name
from harness.evaluation import attribution_protocols, measurements
from harness.evaluation.measurements import Combined, EvaluationContext, Measurement, Suite, strength
from harness.evaluation.settings import Measure

PIXEL = 1 / 255
FULL_SUITE_ATTRIBUTIONS = 64  # images whose attributions `full` attacks if `attribution.images` is 0

Items = dict[str, Measurement | Combined]


def step_of(measure: Measure, eps: float) -> float:
    """Step size of PGD at this eps: `measure.step`, or 2.5 eps / steps."""
    return measure.step or 2.5 * eps / measure.steps


def pgd_name(measure: Measure, eps: float) -> str:
    """Score name of PGD: `pgd10-8`, or `pgd10x3-8` for three restarts."""
    return _pgd_name(measure.steps, eps, measure.restarts)


def _pgd_name(steps: int, eps: float, restarts: int = 1, norm: str = "linf") -> str:
    suffix = f"x{restarts}" if restarts > 1 else ""
    return f"{'l2-' if norm == 'l2' else ''}pgd{steps}{suffix}-{strength(eps)}"


def robust_suite(context: EvaluationContext) -> Items:
    """Clean accuracy, accuracy under PGD at every eps of the grid, and their mean `robust`.

    `robust` is the area under the accuracy-eps curve on the grid: it distinguishes weak methods where a single large
    eps gives 0 for all.
    """
    measure = context.measure
    grid = {
        pgd_name(measure, eps): measurements.pgd(eps, step_of(measure, eps), measure.steps, measure.restarts)
        for eps in measure.eps
    }
    return {
        "clean": Measurement(measurements.accuracy),
        **grid,
        "robust": Combined(tuple(grid), "mean", {"step": measure.step}),
    }


def standard_suite(context: EvaluationContext) -> Items:
    """The robust suite and FGSM at every eps of the grid."""
    return {**robust_suite(context), **{f"fgsm-{strength(eps)}": measurements.fgsm(eps) for eps in context.measure.eps}}


def attribution_suite(context: EvaluationContext) -> Items:
    """The protocol `strong` and its random control for each of `attribution.maps`, the bound, and completeness."""
    settings, suite = context.attribution, {}
    for explain in settings.maps:
        short = "" if explain == "integrated_gradients" else f"-{explain}"
        for name, control in (("strong", False), ("random", True)):
            protocol = attribution_protocols.strong(settings, explain, control)
            suite[name + short] = measurements.attribution(name + short, protocol, settings)
    return {**suite, "bound": measurements.bound(settings), "completeness": measurements.completeness(settings)}


def legacy_attribution_suite(context: EvaluationContext) -> Items:
    """IN and K as published: the protocols of Singh et al. (2020) and of Chen et al. (2019)."""
    settings = context.attribution
    protocols = {"art": attribution_protocols.art(settings), "rar": attribution_protocols.rar(settings)}
    return {name: measurements.attribution(name, protocol, settings) for name, protocol in protocols.items()}


def autoattack_suite(context: EvaluationContext) -> Items:
    """AutoAttack's standard version at the largest eps of the grid."""
    return {"clean": Measurement(measurements.accuracy), **measurements.cascade(max(context.measure.eps))}


def corruption_suite(context: EvaluationContext) -> Items:
    """Accuracy under all 15 + 4 corruptions at five severities, and the means that papers report."""
    return _corrupted(context, registry.CORRUPTIONS)


def _corrupted(context: EvaluationContext, names: Iterable[str]) -> Items:
    """Every severity, the mean per corruption, and the mean over each published group that `names` contains."""
    names = tuple(names)
    each = {f"{n}-{s}": measurements.corruption(n, s, context.published) for n in names for s in SEVERITIES}
    means = {n: Combined(tuple(f"{n}-{s}" for s in SEVERITIES), "mean") for n in names}
    groups = {"corrupted": registry.STANDARD, "corrupted_art": registry.ART}
    over = {
        group: Combined(tuple(f"{n}-{s}" for n in members for s in SEVERITIES), "mean", {"corruptions": list(members)})
        for group, members in groups.items()
        if set(members) <= set(names)
    }
    return {"clean": Measurement(measurements.accuracy), **each, **means, **over}


def localization_suite(context: EvaluationContext) -> Items:
    """Boxes and masks from gradient and class activation maps, if the data has annotations."""
    maps = ("grad", "cam") if context.features else ("grad",)
    suite = {"boxes": measurements.boxes(maps)} if context.boxes else {}
    return {**suite, "masks": measurements.masks()} if context.masks else suite


def paper_sat_suite(context: EvaluationContext) -> Items:
    """As Mangla et al. (2020): PGD-5 with steps of 2/255 at eps 1/255 to 4/255; and their weak CW of 20 steps."""
    grid = {_pgd_name(5, e * PIXEL): measurements.pgd(e * PIXEL, 2 * PIXEL, 5) for e in (1, 2, 3, 4)}
    return {"clean": Measurement(measurements.accuracy), **grid, "cw20": measurements.cw("cw20", steps=20, searches=9)}


def paper_art_suite(context: EvaluationContext) -> Items:
    """As Singh et al. (2020): PGD-40 at 8/255, IN and K by their protocol, and their 15 corruptions."""
    settings = context.attribution
    return {
        "clean": Measurement(measurements.accuracy),
        _pgd_name(40, 8 * PIXEL): measurements.pgd(8 * PIXEL, 2 * PIXEL, 40),
        "art": measurements.attribution("art", attribution_protocols.art(settings), settings),
        **_corrupted(context, registry.ART),
    }


def full_suite(context: EvaluationContext) -> Items:
    """All measurements, with attacks at the largest eps of the grid, and attributions on a sample of the images.

    `worst` is the worst case per image over all L-inf attacks at that eps. The L2 attack's eps corresponds to it as in
    the literature (128/255 to 8/255 on 32x32x3), scaled by the square root of the number of values.
    """
    eps = max(context.measure.eps)
    channels, height, width = context.shape
    l2 = 16 * eps * (channels * height * width / 3072) ** 0.5
    attacked = {
        _pgd_name(steps, eps): measurements.pgd(eps, 2.5 * eps / steps, steps) for steps in (5, 7, 10, 20, 40, 100)
    }
    attacked |= {_pgd_name(10, eps, restarts=5): measurements.pgd(eps, 2.5 * eps / 10, 10, restarts=5)}
    attacked |= measurements.cascade(eps)
    sample = dataclasses.replace(context.attribution, images=context.attribution.images or FULL_SUITE_ATTRIBUTIONS)
    sampled = dataclasses.replace(context, attribution=sample)
    standard = standard_suite(context)
    strongest = (pgd_name(context.measure, eps), f"fgsm-{strength(eps)}", *attacked)
    return {
        **standard,
        **{name: item for name, item in attacked.items() if name not in standard},
        f"worst-{strength(eps)}": Combined(strongest, "worst"),
        _pgd_name(40, l2, norm="l2"): measurements.pgd(l2, 2.5 * l2 / 40, 40, norm="l2"),
        "cw100": measurements.cw("cw100", steps=100, searches=9),
        "stadv100": measurements.stadv(100, limit=height / 32),
        **corruption_suite(context),
        **localization_suite(context),
        **attribution_suite(sampled),
        **legacy_attribution_suite(sampled),
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


CORRUPTION_SUITES = frozenset({"corruption", "paper-art", "full"})  # suites that corrupt images


def combined(names: Iterable[str]) -> Suite:
    """Union of named suites. Raises `UserError` for an unknown name, or two suites that define a score differently."""
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in SUITES:
            raise unknown_name("suite", name, SUITES)

    def union(context: EvaluationContext) -> Items:
        items: Items = {}
        for name in names:
            for key, item in SUITES[name](context).items():
                if key in items and _definition(items[key]) != _definition(item):
                    raise UserError(
                        f"suites {', '.join(names)} measure {key!r} in different ways; ask for one at a time"
                    )
                items[key] = item
        return items

    return union


def _definition(item: Measurement | Combined) -> tuple:
    """The fields that two measurements of the same name must share."""
    return (
        dict(item.protocol),
        *(getattr(item, name, None) for name in ("images", "only_correct_after", "of", "reduction")),
    )
