"""Attributional robustness training, ART (Singh et al., ECCV 2020): gradients that look like the image.

What a stable attribution needs is bounded by how far the gradient of the true logit is from the image itself. So draw
it near, by its cosine, and keep the gradient of the best wrong logit away: a triplet with the image as its anchor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.batch import Batch
from harness.errors import Mistake
from harness.gradients import check_classes, evaluating, gradient, true_logit, untracked, wrong_logit
from harness.models import softened
from methods._ascent import perturbed


def normalisation(model: nn.Module) -> tuple[Tensor, Tensor] | tuple[float, float]:
    """Mean and standard deviation of each channel, (C, 1, 1), that the net takes off its input; 0, 1 if it has none."""
    mean, std = getattr(model, "mean", None), getattr(model, "std", None)
    if isinstance(mean, Tensor) and isinstance(std, Tensor):
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)
    return 0.0, 1.0


def compared(model: nn.Module, x: Tensor, y: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors of the triplet, (B, D) each: image, gradient of the true logit, gradient of the best wrong one.

    D = C * H * W, signs and channels kept. The image is what the net sees after its own normalisation, (x - mean) /
    std, and the gradients are those with respect to that, std times the ones with respect to x. They are of the
    softplus twin of sharpness beta, with their graph; x must ask for a gradient.
    """
    logits = softened(model, beta)(x)
    check_classes(logits)
    mean, std = normalisation(model)
    true, wrong = (std * gradient(f(logits, y), x, graph=True) for f in (true_logit, wrong_logit))
    return ((x - mean) / std).flatten(1), true.flatten(1), wrong.flatten(1)


def largest(model: nn.Module, x: Tensor, y: Tensor, k: int) -> Tensor:
    """Where the true logit's gradient of the net as it is, compared as above, is largest in size. (B, min(k, D))"""
    logits = model(x)
    check_classes(logits)
    size = (normalisation(model)[1] * gradient(true_logit(logits, y), x)).abs().flatten(1)
    return size.topk(min(k, size.shape[1])).indices


def triplet(image: Tensor, true: Tensor, wrong: Tensor, copies: int = 1) -> Tensor:
    """log(1 + exp(d(image, true) - d(image, wrong))) of each row, d = 1 - cosine; (copies * B, D) -> (copies * B,).

    The rows are all images of the first copy, then all of the next. Each row is held against the gradients of all
    copies of its image, and the hardest count: the largest distance to a true one, the smallest to a wrong one.
    """
    image, true, wrong = (t.unflatten(0, (copies, -1)) for t in (image, true, wrong))
    near = F.cosine_similarity(image[:, None], true[None], dim=3).amin(1)  # row's copy, gradient's copy, image
    far = F.cosine_similarity(image[:, None], wrong[None], dim=3).amax(1)
    return F.softplus(far - near).flatten()


@dataclass(frozen=True)
class ART:
    """Cross-entropy on x' plus weight times the triplet loss of attributions, x' maximising the triplet loss.

    eps, step on the [0, 1] scale; the defaults are those for CIFAR-10. weight: the paper's lambda. beta: sharpness of
    the softplus that stands in for ReLU wherever gradients of gradients are taken; the cross-entropy is that of the
    net as it is. topk: within the attack, the cosines are over so many coordinates only, those in which the true
    logit's gradient is largest at the random start; the step still moves all of them (the released code takes 1,000 of
    3,072; the paper has no such limit). mining: `pair`, as released, takes the triplet loss of clean image and x' in
    one batch of both, the hardest of the two counting; `none`, as in the paper, that of x' alone. The attack looks at
    each image by itself in either case, and moves it through its gradients and as the anchor; in the loss the images
    are constants and the gradients learn. crafting: mode of the net while it is attacked and while its gradients are
    compared. In `train` mode, as released, gradients go through the batch's statistics, and hold what an image does to
    all others of its batch; a net may align those and leave the maps of the evaluated net as they were. In `eval` mode
    they are those maps, at two thirds of the cost; but with weights above 1 the statistics that cross-entropy learns
    with and those of the maps may drift apart. Digits, small net, weight 0.5, three seeds: accuracy under PGD at 16/255
    62 to 66 % (train), 76 to 78 % (eval).

    Unlike in the released code, running statistics of batch normalisation follow the images of the cross-entropy only:
    those of softplus belong to a net that is never evaluated. Its attack also compares gradients with respect to x,
    not to the normalised x, which differ only in how far the channels' std do. Second-order parts are in float32.
    Cost: 5 or 6 passes for each step of the attack, 1 for the cross-entropy and 5 to 9 for the triplets (`pair`: on
    twice the images, whose gradients' graph is held).
    """

    second_order: ClassVar[bool] = True

    eps: float = 8 / 255
    step: float = 5 / 255
    steps: int = 3
    weight: float = 0.5
    beta: float = 50.0
    topk: int | None = None
    mining: Literal["pair", "none"] = "pair"
    crafting: Literal["train", "eval"] = "train"

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise Mistake(f"method.beta must be positive, not {self.beta!r}")

    def objective(self, model: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]:
        """What x' maximises: the triplet loss per image. (B, C, H, W) -> (B,); the first call fixes the top k."""
        kept = None

        def triplet_loss(z: Tensor) -> Tensor:
            nonlocal kept
            if self.topk is not None and kept is None:  # the ascent first asks at its random start
                kept = largest(model, z, batch.y, self.topk)
            vectors = compared(model, z, batch.y, self.beta)
            return triplet(*(vectors if kept is None else (v.gather(1, kept) for v in vectors)))

        return triplet_loss

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """The image near x whose true gradient is least, and whose wrong gradient most, like it."""
        return perturbed(self, model, batch)

    def attributional(self, model: nn.Module, batch: Batch, z: Tensor) -> Tensor:
        """The mean triplet loss of x', and of x where they are mined in pairs. ()"""
        x, y = (torch.cat([batch.x, z]), batch.y.repeat(2)) if self.mining == "pair" else (z, batch.y)
        mode = untracked if self.crafting == "train" else evaluating
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False), mode(model):
            image, true, wrong = compared(model, x.detach().requires_grad_(True), y, self.beta)
            return triplet(image.detach(), true, wrong, len(x) // len(z)).mean()

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z = self.perturb(model, batch)
        attr = self.attributional(model, batch, z)
        return {"ce": F.cross_entropy(model(z), batch.y), "attr": self.weight * attr}
