"""Measurements: functions (model, batch) -> one number per image, each with its stored protocol.

`suites.py` groups them by name, `evaluator.py` runs them, `scores.py` holds the results.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from harness.attacks import autoattack, minimum_perturbation
from harness.attacks import pgd as attacks_pgd
from harness.data.batches import Batch
from harness.data.corruptions import registry
from harness.data.corruptions.published_files import Folder
from harness.errors import required
from harness.evaluation import attribution_protocols
from harness.evaluation.score_name import ScoreName, in_255ths
from harness.evaluation.settings import Attribution, Measure
from harness.explain import localization
from harness.randomness import PerImageRng

AUTOATTACK_PASSES = {"apgd-ce": 101, "apgd-t": 901, "fab-t": 1801, "square": 5001}  # at most, with a prediction

ScoreValues = dict[str, Tensor]
Family = Literal["accuracy", "attack", "unseeded_attack", "attribution", "corruption", "localization", "other"]
MetricFunction = Callable[[nn.Module, Batch], Tensor | ScoreValues]
Attack = Callable[[nn.Module, Tensor, Tensor, PerImageRng | None], Tensor]


@dataclass(frozen=True)
class EvaluationContext:
    """Settings and properties of data and net by which a suite chooses its measurements. shape: (C, H, W).

    boxes, masks: whether the images have them. features: whether the net has known final feature maps, as class
    activation maps need. published: files of a published corrupted test set, if available.
    """

    measure: Measure
    attribution: Attribution = field(default_factory=Attribution)
    shape: tuple[int, int, int] = (3, 32, 32)
    boxes: bool = False
    masks: bool = False
    features: bool = True
    published: "Published | None" = None


@dataclass(frozen=True)
class Measurement:
    """A metric, its stored protocol, and the images that it is computed on.

    metric: returns one score, named by the suite, or several by name. images: None for all of the split; else the
    first `images` correctly classified ones (0: all of these). only_correct_after: an earlier 0/1 score; only images
    with 1 are measured, the others get 0. replacement: returns images (N, C, H, W) uint8 that replace the split's.
    postprocess: computes the scores from the metric's values for all images, of any shape (N, ...), and from those of
    `val_metric` (None: `metric`) for the validation images, if given. is_similarity: whether it compares maps, so that
    1 means a failed attack. passes: most forward-backward passes per measured image; a second derivative counts as two,
    a forward pass alone as one. family: of its version of measuring. starts: what the names of its scores begin with,
    if not with its own name.
    """

    metric: MetricFunction
    protocol: Mapping[str, object] = field(default_factory=dict)
    images: int | None = None
    only_correct_after: str | None = None
    replacement: Callable[[], Tensor] | None = None
    postprocess: Callable[[ScoreValues, ScoreValues | None], ScoreValues] | None = None
    val_metric: MetricFunction | None = None
    is_similarity: bool = False
    passes: int = 1
    family: Family = "other"
    starts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Combined:
    """A score computed from others, image by image: their mean, or their minimum (worst case)."""

    of: tuple[str, ...]
    reduction: Literal["mean", "worst"]
    protocol: Mapping[str, object] = field(default_factory=dict)

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """Reduce per-image values by score name to one number per image."""
        stacked = torch.stack([values[name] for name in self.of])
        return stacked.mean(0) if self.reduction == "mean" else stacked.amin(0)


Items = dict[str, Measurement | Combined]


# Clean and adversarial accuracy


def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    """Accuracy per image (B,): 1 if the prediction is the label and all logits are finite, else 0."""
    with torch.no_grad():
        logits = model(batch.x)
        return ((logits.argmax(1) == batch.y) & logits.isfinite().all(1)).float()


def clean() -> Measurement:
    """Accuracy on the images as they are."""
    return Measurement(accuracy, family="accuracy")


def attacked(attack: Attack, restarts: int = 1) -> MetricFunction:
    """Adversarial accuracy per image: 1 where the prediction is correct after every restart of the attack."""

    def metric(model: nn.Module, batch: Batch) -> Tensor:
        correct = accuracy(model, batch)
        for restart in range(restarts):
            index = correct.nonzero().squeeze(1)  # misclassified images need no further attack
            if len(index):
                draws = batch.draws.stream(restart).select(index) if batch.draws else None
                z = attack(model, batch.x[index], batch.y[index], draws)
                correct[index] = accuracy(model, Batch(z, batch.y[index]))
        return correct

    return metric


def pgd(eps: float, step: float, steps: int, restarts: int = 1, norm: attacks_pgd.Norm = "linf") -> Measurement:
    """Accuracy under PGD; misclassification at any iterate counts."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, draws: PerImageRng | None) -> Tensor:
        return attacks_pgd.pgd_until_broken(model, x, y, eps=eps, step=step, steps=steps, norm=norm, draws=draws)

    protocol = {"eps": eps, "step": step, "steps": steps, "norm": norm, "restarts": restarts}
    stored = {**protocol, "start": "uniform", "broken by": "any iterate"}
    return Measurement(attacked(attack, restarts), stored, passes=restarts * (steps + 1), family="attack")


def fgsm(eps: float) -> Measurement:
    """Accuracy under FGSM."""
    attack = attacked(lambda model, x, y, draws: attacks_pgd.fgsm(model, x, y, eps=eps))
    return Measurement(attack, {"eps": eps, "norm": "linf"}, passes=2, family="unseeded_attack")


def cw(steps: int, searches: int) -> Measurement:
    """Accuracy under the unbounded L2 attack of Carlini and Wagner; `cw_l2`: L2 norm of successful perturbations."""
    accuracy_name, distance_name = (str(ScoreName(metric, steps=steps)) for metric in ("cw", "cw_l2"))

    def metric(model: nn.Module, batch: Batch) -> ScoreValues:
        correct = accuracy(model, batch).bool()
        z = minimum_perturbation.cw(model, batch.x, batch.y, steps=steps, searches=searches)
        robust = accuracy(model, Batch(z, batch.y))
        distance = (z - batch.x).flatten(1).norm(dim=1)
        smallest = distance.masked_fill(~correct | robust.bool(), torch.nan)
        return {accuracy_name: robust * correct, distance_name: smallest}

    protocol = {"steps": steps, "searches": searches, "norm": "l2", "eps": None}
    return Measurement(metric, protocol, passes=steps * searches + 2, family="unseeded_attack")


def stadv(steps: int, limit: float) -> Measurement:
    """Accuracy under spatial transformations (stAdv) with a flow of at most `limit` pixels."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, draws: PerImageRng | None) -> Tensor:
        return minimum_perturbation.stadv(model, x, y, steps=steps, limit=limit)

    protocol = {"steps": steps, "limit": limit, "unit": "pixels"}
    return Measurement(attacked(attack), protocol, passes=steps + 1, family="unseeded_attack")


def cascade(eps: float, norm: attacks_pgd.Norm = "linf") -> dict[str, Measurement]:
    """Accuracy under AutoAttack's four attacks, each on the images that are still correct; `aa` is the last.

    The package draws random numbers for a whole batch: the order of the images changes these scores a little.
    """
    stages, before = {}, "clean"
    for name in autoattack.ATTACKS:
        metric = "aa" if name == autoattack.ATTACKS[-1] else f"aa-{name}"
        key = str(ScoreName(metric, norm=norm, strength=in_255ths(eps)))
        attack = partial(_autoattack, name, eps, norm)
        protocol, passes = {"eps": eps, "norm": norm, "attack": name}, AUTOATTACK_PASSES[name]
        stages[key] = Measurement(
            attacked(attack), protocol, only_correct_after=before, passes=passes, family="unseeded_attack"
        )
        before = key
    return stages


def _autoattack(
    name: str, eps: float, norm: attacks_pgd.Norm, model: nn.Module, x: Tensor, y: Tensor, draws: PerImageRng | None
) -> Tensor:
    return autoattack.attack(name, model, x, y, eps=eps, norm=norm)


# Corruptions


@dataclass(frozen=True)
class Published:
    """Files of a published corrupted test set. order: their row for each image of the split."""

    folder: Folder
    order: np.ndarray

    def images(self, name: str, severity: int) -> Tensor:
        """The images (N, C, H, W) uint8 in the order of the split."""
        return torch.from_numpy(self.folder.images(name, severity, self.order)).permute(0, 3, 1, 2)


def corruption(name: str, severity: int, published: Published | None = None) -> Measurement:
    """Accuracy on corrupted images: generated here, or read from published files."""
    protocol = {"corruption": name, "severity": severity}
    if published and name in published.folder.corruptions:
        origin = {"images": f"{published.folder.path.name}/{name}.npy", "sha256": _digest(published.folder, name)}
        replacement = partial(published.images, name, severity)
        return Measurement(accuracy, protocol | origin, replacement=replacement, family="corruption")

    def metric(model: nn.Module, batch: Batch) -> Tensor:
        x = registry.corrupt(name, batch.x, severity, required(batch.draws, "random draws"))
        return accuracy(model, Batch(x, batch.y))

    return Measurement(metric, protocol | {"images": "generated here"}, family="corruption")


@functools.lru_cache(maxsize=32)
def _digest(folder: Folder, name: str) -> str:
    return folder.digest(name)  # cached: a file of 150 MB, needed at five severities


# Localisation


def boxes(maps: tuple[str, ...]) -> Measurement:
    """Box localisation by these maps, at the published, the best validation, and the oracle threshold."""

    def metric(model: nn.Module, batch: Batch, contours: bool = True) -> ScoreValues:
        true = required(batch.boxes, "boxes")
        return localization.measure_boxes(model, batch.x, batch.y, true, maps, contours=contours)

    def postprocess(values: ScoreValues, val: ScoreValues | None) -> ScoreValues:
        return localization.box_scores(values, localization.choose_boxes(val) if val else None)

    protocol = {"iou": localization.HIT, "published": localization.PUBLISHED}
    passes, starts = 1 + len(maps), ("gtknown", "top1loc", "maxboxacc")
    return Measurement(
        metric,
        protocol,
        postprocess=postprocess,
        val_metric=partial(metric, contours=False),
        passes=passes,
        family="localization",
        starts=starts,
    )


def masks() -> Measurement:
    """Segmentation by the gradient map, at the same thresholds and Otsu's."""

    def metric(model: nn.Module, batch: Batch) -> ScoreValues:
        return localization.measure_masks(model, batch.x, required(batch.masks, "masks"))

    def postprocess(values: ScoreValues, val: ScoreValues | None) -> ScoreValues:
        return localization.mask_scores(values, localization.choose_mask(val) if val else None)

    protocol, starts = {"published": localization.PUBLISHED["grad"]}, ("iou", "dice", "pixel")
    return Measurement(metric, protocol, postprocess=postprocess, family="localization", starts=starts)


# Attributional robustness


def attribution(
    name: str, protocol: attribution_protocols.Protocol, settings: Attribution, explain: str = ""
) -> Measurement:
    """Similarity of attribution maps under an attack, by a protocol. explain: the map in the names of the scores."""
    stored = {**vars(settings), "step": attribution_protocols.step_of(settings), **protocol.description()}
    measured = attribution_protocols.protocol_metric(name, protocol, settings, explain)
    passes = attribution_protocols.passes(protocol, settings)
    return Measurement(measured, stored, settings.images, is_similarity=True, passes=passes, family="attribution")


def bound(settings: Attribution) -> Measurement:
    """Both sides of the bound of Singh et al. (2020) on the change of the gradient."""
    protocol = {name: getattr(settings, name) for name in ("eps", "steps", "beta")}
    protocol |= {"step": attribution_protocols.step_of(settings), "start": "uniform", "norm": "linf"}
    passes = 3 * settings.steps + 3  # maps of the clean image, by both nets, and of the changed one
    measured = attribution_protocols.bound(settings)
    return Measurement(measured, protocol, settings.images, passes=passes, family="attribution")


def completeness(settings: Attribution) -> Measurement:
    """Completeness inequality: the logit changes by at most its map's change."""
    attack = attribution_protocols.pgd_settings(settings)
    protocol = {**attack, "start": "uniform", "norm": "linf"}
    passes = attack["steps"] + 2 + 2 * attribution_protocols.SCORING_POINTS
    measured = attribution_protocols.completeness(settings)
    return Measurement(measured, protocol, settings.images, passes=passes, family="attribution")
