"""Attributional robustness training, ART (Singh et al., ECCV 2020): gradients aligned with the image.

The distance between the image and the gradient of the true logit bounds attributional robustness. A triplet loss, with
the image as anchor and cosine distances, pulls this gradient towards it and pushes the best wrong logit's away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.batches import Batch
from harness.explain.input_gradients import check_classes, gradient, true_logit, wrong_logit
from harness.models.freezing import evaluating, untracked
from harness.models.relus import softened
from harness.setting_types import Count, NonNegative, Positive, Strength
from methods._ascent import perturbed


def normalisation(model: nn.Module) -> tuple[Tensor, Tensor] | tuple[float, float]:
    """Mean and standard deviation (C, 1, 1) of the net's input normalisation; 0, 1 if it has none."""
    mean, std = getattr(model, "mean", None), getattr(model, "std", None)
    if isinstance(mean, Tensor) and isinstance(std, Tensor):
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)
    return 0.0, 1.0


def triplet_vectors(model: nn.Module, x: Tensor, y: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Triplet vectors (B, D) each: image, gradient of the true logit, gradient of the best wrong logit.

    D = C * H * W, signed. The image is normalised as in the net, (x - mean) / std, and the gradients are with respect
    to that, std times those with respect to x. They are of the softplus surrogate of sharpness beta, with their graph;
    x must require gradients.
    """
    logits = softened(model, beta, maxima=False)(x)  # the released code keeps max pooling
    check_classes(logits)
    mean, std = normalisation(model)
    true, wrong = (std * gradient(f(logits, y), x, graph=True) for f in (true_logit, wrong_logit))
    return ((x - mean) / std).flatten(1), true.flatten(1), wrong.flatten(1)


def top_gradient_indices(model: nn.Module, x: Tensor, y: Tensor, k: int) -> Tensor:
    """Indices of the largest absolute gradient of the true logit, with ReLU. (B, min(k, D))"""
    logits = model(x)
    check_classes(logits)
    size = (normalisation(model)[1] * gradient(true_logit(logits, y), x)).abs().flatten(1)
    return size.topk(min(k, size.shape[1])).indices


def triplet(image: Tensor, true: Tensor, wrong: Tensor, copies: int = 1) -> Tensor:
    """Triplet loss with hard mining, log(1 + exp(d(image, true) - d(image, wrong))). (copies * B, D) -> (copies * B,)

    d is 1 - cosine similarity. Rows are all images of the first copy, then all of the next. Each row uses the gradients
    of all copies of its image: the largest distance to a true one, the smallest to a wrong one.
    """
    image, true, wrong = (t.unflatten(0, (copies, -1)) for t in (image, true, wrong))
    positive = F.cosine_similarity(image[:, None], true[None], dim=3).amin(1)  # row's copy, gradient's copy, image
    negative = F.cosine_similarity(image[:, None], wrong[None], dim=3).amax(1)
    return F.softplus(negative - positive).flatten()


@dataclass(frozen=True)
class ART:
    """Cross-entropy on x' plus weight times the triplet loss of attributions, x' maximising the triplet loss.

    eps, step on the [0, 1] scale; the defaults are those for CIFAR-10. weight: the paper's lambda. beta: sharpness of
    the softplus that replaces ReLU in second-order terms; the cross-entropy is of the original net. topk: in the
    attack, cosines use only the coordinates with the largest gradient of the true logit at the random start; the step
    still changes all of them (the released code takes 1,000 of 3,072; the paper has no such limit). mining: `pair`, as
    released, hard-mines between clean image and x' in one batch; `none`, as in the paper, uses x' alone. The attack
    treats each image separately in both cases, and differentiates through the gradients and the anchor; in the loss the
    images are constants. crafting: mode of the net in the attack and in the triplet loss. In `train` mode, as released,
    gradients pass through batch statistics and include an image's effect on the rest of its batch; a net may align
    those without changing its maps in evaluation mode. In `eval` mode they are those maps, at two thirds of the cost;
    but with weights above 1 the batch statistics of the cross-entropy and the running ones of the maps may diverge.
    Digits, small net, weight 0.5, three seeds: accuracy under PGD at 16/255 62 to 66 % (train), 76 to 78 % (eval).

    Unlike in the released code, BatchNorm running statistics are updated by the images of the cross-entropy only: those
    under softplus belong to a net that is never evaluated. The released attack compares gradients with respect to x,
    not to the normalised x; the two differ only if the channels' std do. Second-order parts are in float32. Cost: 5
    or 6 passes per attack step, 1 for the cross-entropy and 5 to 9 for the triplets (`pair`: on twice the images, with
    the graph of their gradients in memory).
    """

    second_order: ClassVar[bool] = True

    eps: Strength = 8 / 255
    step: Strength = 5 / 255
    steps: Count = 3
    weight: NonNegative = 0.5
    beta: Positive = 50.0
    topk: Count | None = None
    mining: Literal["pair", "none"] = "pair"
    crafting: Literal["train", "eval"] = "train"

    def objective(self, model: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Objective of the attack: triplet loss per image. (B, C, H, W) -> (B,); the first call fixes the top k."""
        top_indices = None

        def triplet_loss(z: Tensor) -> Tensor:
            nonlocal top_indices
            if self.topk is not None and top_indices is None:  # the first call is at the random start
                top_indices = top_gradient_indices(model, z, batch.y, self.topk)
            vectors = triplet_vectors(model, z, batch.y, self.beta)
            return triplet(*(vectors if top_indices is None else (v.gather(1, top_indices) for v in vectors)))

        return triplet_loss

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """The images within eps of x that maximise the triplet loss."""
        return perturbed(self, model, batch)

    def attribution_loss(self, model: nn.Module, batch: Batch, z: Tensor) -> Tensor:
        """Mean triplet loss of x', and of x with `pair` mining. ()"""
        x, y = (torch.cat([batch.x, z]), batch.y.repeat(2)) if self.mining == "pair" else (z, batch.y)
        mode = untracked if self.crafting == "train" else evaluating
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False), mode(model):
            image, true, wrong = triplet_vectors(model, x.detach().requires_grad_(True), y, self.beta)
            return triplet(image.detach(), true, wrong, len(x) // len(z)).mean()

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z = self.perturb(model, batch)
        attr = self.attribution_loss(model, batch, z)
        return {"ce": F.cross_entropy(model(z), batch.y), "attr": self.weight * attr}
