"""What can be measured: metrics of one number per image, with the protocol that their numbers rest on."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from harness import attacks, autoattack, corruptions, localization, minimal_attacks
from harness import attribution as attributions
from harness.batch import Batch
from harness.config import Attribution, Measure
from harness.corrupted import Folder
from harness.randomness import Draws

Named = dict[str, Tensor]
Metric = Callable[[nn.Module, Batch], Tensor | Named]
Attack = Callable[[nn.Module, Tensor, Tensor, Draws | None], Tensor]


@dataclass(frozen=True)
class Subject:
    """What is measured, as far as a suite has to know it: how, and what images (C, H, W) and net allow.

    boxes, masks: whether the images have them. features: whether the net has last features and a linear head, as class
    activation maps need. published: the files of a published corrupted set, where they are there.
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
    """A metric and what its numbers rest on.

    The metric gives one score, called as the suite calls it, or several under their own names. images: None, all of the
    split are measured; else only those that are classified correctly, the first so many of them (0: all). after: a
    score of yes or no, measured before: only images with a yes are measured, all others have a no. instead: gives
    other images (N, C, H, W) uint8 to measure in place of the split's. finish: makes the scores of what the metric gave
    for all images, of any shape (N, ...), and for the validation images where there are some. likeness: whether it
    compares maps, so that 1 means that an attack failed.
    """

    metric: Metric
    protocol: Mapping[str, object] = field(default_factory=dict)
    images: int | None = None
    after: str | None = None
    instead: Callable[[], Tensor] | None = None
    finish: Callable[[Named, Named | None], Named] | None = None
    likeness: bool = False


@dataclass(frozen=True)
class Combined:
    """A score made of others, image by image: their mean, or the worst of them."""

    of: tuple[str, ...]
    how: Literal["mean", "worst"]
    protocol: Mapping[str, object] = field(default_factory=dict)

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """One number per image, from those of the others by name."""
        together = torch.stack([values[name] for name in self.of])
        return together.mean(0) if self.how == "mean" else together.amin(0)


Suite = Callable[[Subject], dict[str, Measurement | Combined]]


def strength(eps: float) -> str:
    """eps in 255ths."""
    return f"{eps * 255:.6g}"


# Accuracy, and what attacks leave of it


def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    """1 where the prediction is the label, else 0; 0, too, where a logit is not finite. (B,)"""
    with torch.no_grad():
        logits = model(batch.x)
        return ((logits.argmax(1) == batch.y) & logits.isfinite().all(1)).float()


def attacked(attack: Attack, restarts: int = 1) -> Metric:
    """The metric "still right after the attack": 1 where no restart changes the prediction."""

    def metric(model: nn.Module, batch: Batch) -> Tensor:
        right = accuracy(model, batch)
        for restart in range(restarts):
            left = right.nonzero().squeeze(1)  # what is broken already needs no further attack
            if len(left):
                draws = batch.draws.of(restart).at(left) if batch.draws else None
                z = attack(model, batch.x[left], batch.y[left], draws)
                right[left] = accuracy(model, Batch(z, batch.y[left]))
        return right

    return metric


def pgd(eps: float, step: float, steps: int, restarts: int = 1, norm: attacks.Norm = "linf") -> Measurement:
    """Accuracy that PGD leaves, an image being broken by any of the iterates."""
    settings = {"eps": eps, "step": step, "steps": steps, "norm": norm}

    def attack(model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None) -> Tensor:
        return attacks.pgd_until_broken(model, x, y, **settings, draws=draws)

    about = {**settings, "restarts": restarts, "start": "uniform", "broken by": "any iterate"}
    return Measurement(attacked(attack, restarts), about)


def fgsm(eps: float) -> Measurement:
    """Accuracy that FGSM leaves."""
    attack = attacked(lambda model, x, y, draws: attacks.fgsm(model, x, y, eps=eps))
    return Measurement(attack, {"eps": eps, "norm": "linf"})


def cw(name: str, steps: int, searches: int) -> Measurement:
    """Accuracy that Carlini and Wagner's L2 attack leaves, at whatever distance; `name_l2`: the distances found."""

    def metric(model: nn.Module, batch: Batch) -> Named:
        right = accuracy(model, batch).bool()
        z = minimal_attacks.cw(model, batch.x, batch.y, steps=steps, searches=searches)
        left = accuracy(model, Batch(z, batch.y))
        distance = (z - batch.x).flatten(1).norm(dim=1)
        return {name: left * right, f"{name}_l2": distance.masked_fill(~right | left.bool(), torch.nan)}

    return Measurement(metric, {"steps": steps, "searches": searches, "norm": "l2", "eps": None})


def stadv(steps: int, limit: float) -> Measurement:
    """Accuracy that spatially transformed images leave, whose pixels come from at most `limit` pixels away."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None) -> Tensor:
        return minimal_attacks.stadv(model, x, y, steps=steps, limit=limit)

    return Measurement(attacked(attack), {"steps": steps, "limit": limit, "unit": "pixels"})


def cascade(eps: float, norm: attacks.Norm = "linf") -> dict[str, Measurement]:
    """AutoAttack's four attacks, each on what all before it left right; `aa` is what is left by all.

    The package draws at random for a batch as a whole: another order of the images moves these scores a little.
    """
    prefix = "l2-" if norm == "l2" else ""
    stages, before = {}, "clean"
    for name in autoattack.ATTACKS:
        key = f"{prefix}aa{'' if name == autoattack.ATTACKS[-1] else f'-{name}'}-{strength(eps)}"
        attack = partial(_of_package, name, eps, norm)
        stages[key] = Measurement(attacked(attack), {"eps": eps, "norm": norm, "attack": name}, after=before)
        before = key
    return stages


def _of_package(name: str, eps: float, norm: attacks.Norm, model: nn.Module, x: Tensor, y: Tensor, draws) -> Tensor:
    return autoattack.attack(name, model, x, y, eps=eps, norm=norm)


# Corruptions


@dataclass(frozen=True)
class Published:
    """The files of a corrupted test set. order: which of their rows the images of the split are."""

    folder: Folder
    order: np.ndarray

    def images(self, name: str, severity: int) -> Tensor:
        """The images (N, C, H, W) uint8 in the order of the split."""
        return torch.from_numpy(self.folder.images(name, severity, self.order)).permute(0, 3, 1, 2)


def corruption(name: str, severity: int, published: Published | None = None) -> Measurement:
    """Accuracy on images that are corrupted here, or that were published so."""
    about = {"corruption": name, "severity": severity}
    if published and name in published.folder.corruptions:
        origin = {"images": f"{published.folder.path.name}/{name}.npy", "sha256": _digest(published.folder, name)}
        return Measurement(accuracy, about | origin, instead=partial(published.images, name, severity))

    def metric(model: nn.Module, batch: Batch) -> Tensor:
        return accuracy(model, Batch(corruptions.corrupt(name, batch.x, severity, batch.draws), batch.y))

    return Measurement(metric, about | {"images": "generated here"})


@functools.lru_cache(maxsize=32)
def _digest(folder: Folder, name: str) -> str:
    return folder.digest(name)  # of a file of 150 MB, asked about at five severities


# Where the net looks


def boxes(maps: tuple[str, ...]) -> Measurement:
    """Localisation by these maps, by the published threshold, the best of validation, and the oracle's."""

    def metric(model: nn.Module, batch: Batch) -> Named:
        return localization.measure_boxes(model, batch.x, batch.y, batch.boxes, maps)

    def finish(here: Named, val: Named | None) -> Named:
        return localization.box_scores(here, localization.choose_boxes(val) if val else None)

    return Measurement(metric, {"iou": localization.HIT, "published": localization.PUBLISHED}, finish=finish)


def masks() -> Measurement:
    """Segmentation by the gradient map, by the same thresholds and Otsu's."""

    def metric(model: nn.Module, batch: Batch) -> Named:
        return localization.measure_masks(model, batch.x, batch.masks)

    def finish(here: Named, val: Named | None) -> Named:
        return localization.mask_scores(here, localization.choose_mask(val) if val else None)

    return Measurement(metric, {"published": localization.PUBLISHED["grad"]}, finish=finish)


# How stable its attributions are


def attribution(name: str, protocol: attributions.Protocol, settings: Attribution) -> Measurement:
    """Likeness of maps under an attack, by a protocol."""
    about = {**vars(settings), "step": attributions.step_of(settings), **protocol.about()}
    return Measurement(attributions.measured(name, protocol, settings), about, settings.images, likeness=True)


def bound(settings: Attribution) -> Measurement:
    """Both sides of Singh et al.'s bound on the change of the gradient."""
    ascent = {name: getattr(settings, name) for name in ("eps", "steps", "beta")}
    ascent |= {"step": attributions.step_of(settings), "start": "uniform", "norm": "linf"}
    return Measurement(attributions.bound(settings), ascent, settings.images)


def completeness(settings: Attribution) -> Measurement:
    """Whether the logit changes by no more than its map."""
    pgd = {**attributions.pgd_settings(settings), "start": "uniform", "norm": "linf"}
    return Measurement(attributions.completeness(settings), pgd, settings.images)
