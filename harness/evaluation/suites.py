"""Suites: named sets of measurements, selected by `measure.suites` or --suite.

    suite(context) -> {name: Measurement or Combined}      by name in SUITES

`measurements.py` defines them, `evaluator.py` runs them.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from harness.attacks.pgd import Norm
from harness.data.corruptions import names, registry
from harness.errors import UserError
from harness.evaluation import attribution_protocols, measurements, metrics
from harness.evaluation.measurements import Combined, EvaluationContext, Items, Measurement
from harness.evaluation.metrics import Metric
from harness.evaluation.score_name import OWN_MAP, ScoreName, in_255ths
from harness.evaluation.settings import Measure
from harness.plugins import Thing, label
from harness.plugins.registry import Registry

PIXEL = 1 / 255
FULL_SUITE_ATTRIBUTIONS = 64  # images whose attributions `full` attacks if `attribution.images` is 0


def step_of(measure: Measure, eps: float) -> float:
    """Step size of PGD at this eps: `measure.step`, or 2.5 eps / steps."""
    return measure.step or 2.5 * eps / measure.steps


def eps_l2(measure: Measure, shape: tuple[int, int, int]) -> float:
    """eps in L2 for images of that (C, H, W): `measure.eps_l2`, or what corresponds to the largest eps of the grid.

    As in the literature, that is 128/255 to 8/255 on 3x32x32, scaled by the square root of the number of values.
    Raises `UserError` for one beyond the distance between black and white, as 128 for 128/255 is.
    """
    values = math.prod(shape)
    if measure.eps_l2 > values**0.5:
        size = "x".join(map(str, shape))
        raise UserError(
            f"measure.eps_l2 is a distance of images in [0, 1], such as 128/255; {measure.eps_l2:g} is beyond the"
            f" {values**0.5:.3g} from black to white at {size}"
        )
    return measure.eps_l2 or 16 * max(measure.eps) * (values / 3072) ** 0.5


def pgd_name(measure: Measure, eps: float) -> str:
    """Score name of PGD: `pgd10-8`, or `pgd10x3-8` for three restarts."""
    return _attack_name("pgd", eps, steps=measure.steps, restarts=measure.restarts)


def _attack_name(metric: str, eps: float, *, steps: int = 0, restarts: int = 1, norm: Norm = "linf") -> str:
    return str(ScoreName(metric, steps=steps, restarts=restarts, norm=norm, strength=in_255ths(eps)))


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
        "clean": measurements.clean(),
        **grid,
        "robust": Combined(tuple(grid), "mean", {"step": measure.step}),
    }


def standard_suite(context: EvaluationContext) -> Items:
    """The robust suite and FGSM at every eps of the grid."""
    fgsm = {_attack_name("fgsm", eps): measurements.fgsm(eps) for eps in context.measure.eps}
    return {**robust_suite(context), **fgsm}


def attribution_suite(context: EvaluationContext) -> Items:
    """The protocol `strong` and its random control for each of `attribution.maps`, the bound, and completeness."""
    settings, suite = context.attribution, {}
    for explain in settings.maps:
        short = "" if explain == OWN_MAP else label(explain)
        for name, control in (("strong", False), ("random", True)):
            protocol = attribution_protocols.strong(settings, explain, control)
            suite["-".join(filter(None, (name, short)))] = measurements.attribution(name, protocol, settings, short)
    return {**suite, "bound": measurements.bound(settings), "completeness": measurements.completeness(settings)}


def legacy_attribution_suite(context: EvaluationContext) -> Items:
    """IN and K as published: the protocols of Singh et al. (2020) and of Chen et al. (2019)."""
    settings = context.attribution
    protocols = {"art": attribution_protocols.art(settings), "rar": attribution_protocols.rar(settings)}
    return {name: measurements.attribution(name, protocol, settings) for name, protocol in protocols.items()}


def fast_attribution_suite(context: EvaluationContext) -> Items:
    """IN and K by the protocol `fast`: those of Singh et al. (2020) at a fraction of the cost, approximately."""
    settings = context.attribution
    return {"fast": measurements.attribution("fast", attribution_protocols.fast(settings), settings)}


def autoattack_suite(context: EvaluationContext) -> Items:
    """AutoAttack's standard version at the largest eps of the grid."""
    return {"clean": measurements.clean(), **measurements.cascade(max(context.measure.eps))}


def autoattack_l2_suite(context: EvaluationContext) -> Items:
    """AutoAttack's standard version in L2, at `eps_l2`."""
    eps = eps_l2(context.measure, context.shape)
    return {"clean": measurements.clean(), **measurements.cascade(eps, norm="l2")}


def corruption_suite(context: EvaluationContext) -> Items:
    """Accuracy under all 15 + 4 corruptions at five severities, and the means that papers report."""
    return _corrupted(context, tuple(registry.CORRUPTIONS))


def _corrupted(context: EvaluationContext, corruptions: tuple[str, ...]) -> Items:
    """Every severity, the mean per corruption, and the mean over each published group that `corruptions` contains."""
    severities = {c: {s: str(ScoreName(c, severity=s)) for s in names.SEVERITIES} for c in corruptions}
    each = {
        name: measurements.corruption(c, severity, context.published)
        for c, scores in severities.items()
        for severity, name in scores.items()
    }
    means = {c: Combined(tuple(scores.values()), "mean") for c, scores in severities.items()}
    over = {
        group: Combined(tuple(n for c in members for n in severities[c].values()), "mean", {"corruptions": [*members]})
        for group, members in {"corrupted": names.STANDARD, "corrupted_art": names.ART}.items()
        if set(members) <= set(corruptions)
    }
    return {"clean": measurements.clean(), **each, **means, **over}


def localization_suite(context: EvaluationContext) -> Items:
    """Boxes and masks from gradient and class activation maps, if the data has annotations."""
    maps = ("grad", "cam") if context.features else ("grad",)
    items: Items = {}
    if context.boxes:
        items["boxes"] = measurements.boxes(maps)
    if context.masks:
        items["masks"] = measurements.masks()
    return items


def paper_sat_suite(context: EvaluationContext) -> Items:
    """As Mangla et al. (2020): PGD-5 with steps of 2/255 at eps 1/255 to 4/255; and their weak CW of 20 steps."""
    grid = {_attack_name("pgd", e * PIXEL, steps=5): measurements.pgd(e * PIXEL, 2 * PIXEL, 5) for e in (1, 2, 3, 4)}
    return {"clean": measurements.clean(), **grid, "cw20": measurements.cw(steps=20, searches=9)}


def paper_art_suite(context: EvaluationContext) -> Items:
    """As Singh et al. (2020): PGD-40 at 8/255, IN and K by their protocol, and their 15 corruptions.

    Attributions of the first 1,000 images, about as many as theirs, unless `attribution.images` is set.
    """
    settings = dataclasses.replace(context.attribution, images=context.attribution.images or 1000)
    return {
        "clean": measurements.clean(),
        _attack_name("pgd", 8 * PIXEL, steps=40): measurements.pgd(8 * PIXEL, 2 * PIXEL, 40),
        "art": measurements.attribution("art", attribution_protocols.art(settings), settings),
        **_corrupted(context, names.ART),
    }


def full_suite(context: EvaluationContext) -> Items:
    """All measurements, with attacks at the largest eps of the grid, and attributions on a sample of the images.

    Not AutoAttack in L2, which costs as much as in L-inf. `worst` is the worst case per image over all L-inf attacks at
    that eps. The L2 attack is at `eps_l2`.
    """
    eps, l2 = max(context.measure.eps), eps_l2(context.measure, context.shape)
    attacked = {
        _attack_name("pgd", eps, steps=steps): measurements.pgd(eps, 2.5 * eps / steps, steps)
        for steps in (5, 7, 10, 20, 40, 100)
    }
    attacked[_attack_name("pgd", eps, steps=10, restarts=5)] = measurements.pgd(eps, 2.5 * eps / 10, 10, restarts=5)
    attacked |= measurements.cascade(eps)
    sample = dataclasses.replace(context.attribution, images=context.attribution.images or FULL_SUITE_ATTRIBUTIONS)
    sampled = dataclasses.replace(context, attribution=sample)
    standard = standard_suite(context)
    strongest = (pgd_name(context.measure, eps), _attack_name("fgsm", eps), *attacked)
    return {
        **standard,
        **{name: item for name, item in attacked.items() if name not in standard},
        _attack_name("worst", eps): Combined(strongest, "worst"),
        _attack_name("pgd", l2, steps=40, norm="l2"): measurements.pgd(l2, 2.5 * l2 / 40, 40, norm="l2"),
        "cw100": measurements.cw(steps=100, searches=9),
        "stadv100": measurements.stadv(100, limit=context.shape[1] / 32),
        **corruption_suite(context),
        **localization_suite(context),
        **attribution_suite(sampled),
        **fast_attribution_suite(sampled),
        **legacy_attribution_suite(sampled),
    }


@dataclass(frozen=True)
class Suite:
    """A named set of measurements, and what it asks of data and settings.

    build: see `__call__`. attacks_attributions: whether it reads the settings `attribution.*`. corrupts: whether it
    corrupts images, and so reads published corrupted files. needs_annotations: whether it is nothing without boxes or
    masks. metrics: of a plug-in, how reports show its scores, by name; those of ours are in `metrics.METRICS`.
    """

    name: str
    build: Callable[[EvaluationContext], Items]
    attacks_attributions: bool = False
    corrupts: bool = False
    needs_annotations: bool = False
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def __call__(self, context: EvaluationContext) -> Items:
        """The measurements by name."""
        return self.build(context)


_ALL = (
    Suite("standard", standard_suite),
    Suite("attribution", attribution_suite, attacks_attributions=True),
    Suite("attribution-fast", fast_attribution_suite, attacks_attributions=True),
    Suite("attribution-legacy", legacy_attribution_suite, attacks_attributions=True),
    Suite("autoattack", autoattack_suite),
    Suite("autoattack-l2", autoattack_l2_suite),
    Suite("corruption", corruption_suite, corrupts=True),
    Suite("localization", localization_suite, needs_annotations=True),
    Suite("paper-sat", paper_sat_suite),
    Suite("paper-art", paper_art_suite, attacks_attributions=True, corrupts=True),
    Suite("full", full_suite, attacks_attributions=True, corrupts=True),
)


def _check(thing: Thing) -> Suite:
    """A plug-in's suite: a `Suite`, or a function (context) -> {name: Measurement or Combined}."""
    if isinstance(thing, Suite):
        metrics.declare(thing.metrics)
        return thing
    if isinstance(thing, type) or not callable(thing):
        raise UserError("a suite is a function (context) -> {name: Measurement}, or a harness.evaluation.suites.Suite")
    return Suite(getattr(thing, "__name__", "own"), thing)


SUITES: Registry[Suite] = Registry("suite", "suites", {suite.name: suite for suite in _ALL}, _check)


def known(names: Iterable[str]) -> list[Suite]:
    """The suites of these names; without names of none, which `combined` refuses."""
    return [SUITES[name] for name in names if name in SUITES]


def combined(suites: Iterable[str]) -> Callable[[EvaluationContext], Items]:
    """Union of named suites. Raises `UserError` for an unknown name, or two suites that define a score differently."""
    chosen = tuple(dict.fromkeys(suites))
    for name in chosen:
        SUITES.find(name)

    def union(context: EvaluationContext) -> Items:
        items: Items = {}
        for name in chosen:
            for key, item in SUITES[name](context).items():
                if key in items and _definition(items[key]) != _definition(item):
                    raise UserError(
                        f"suites {', '.join(chosen)} measure {key!r} in different ways; ask for one at a time"
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
