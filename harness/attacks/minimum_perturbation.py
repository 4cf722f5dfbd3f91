"""Minimum-perturbation attacks without a norm bound: Carlini and Wagner's L2, stAdv.

    attack(model, x, y, *, steps, lr, ...) -> z     in [0, 1], of x's shape; x itself where the attack fails

`cw` minimises the pixels' L2 distance, `stadv` the roughness of a flow field. Both run Adam on one loss per image and
return the misclassified iterate of least size. Misclassified images are returned unchanged. The attacks are
deterministic, and results do not depend on the batch. Adversarial examples lie close to the decision boundary: predict
them again, in full float32, before reporting them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_ATANH_SCALE = 0.999999  # keeps atanh finite at 0 and 1
_ROOT_OFFSET = 1e-8  # under the square root of the roughness, in squared pixels: no gradient at zero flow


@dataclass(frozen=True)
class _Iterate:
    """An iterate: loss, size of the perturbation, and whether the prediction is wrong. (B,) each"""

    loss: Tensor
    size: Tensor
    adversarial: Tensor


def cw(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 10_000,
    searches: int = 9,
    lr: float = 0.01,
    initial: float = 1e-3,
    confidence: float = 0.0,
) -> Tensor:
    """Untargeted L2 attack of Carlini and Wagner (2017), with the defaults of their code.

    Minimises |z - x|^2 + c * max(margin + confidence, 0), with z = (tanh(w) + 1) / 2 in [0, 1]. The constant c of each
    image starts at `initial` and is searched in `searches` rounds of `steps` steps: times ten until a round succeeds,
    then by bisection. An image ends a round early if its loss has not fallen by 0.01 % in a tenth of the steps.
    confidence: least margin of the best wrong logit over that of y. Saliency-based adversarial training (2020) was
    measured with 20 steps and 3, 5 or 9 searches, which is weak. Cost: up to steps * searches gradients.
    """
    z = x.detach().clone()
    active = _not_misclassified(model, z, y, confidence)
    if not len(active):
        return z
    x, y = z[active], y[active]
    start = torch.atanh((2 * x - 1) * _ATANH_SCALE)
    centre = _image(start)  # replaces x in the loss: the distance's gradient, which Adam would amplify, starts at 0
    low, high = x.new_zeros(len(x)), x.new_full((len(x),), torch.inf)
    constant = x.new_full((len(x),), initial)
    best, best_size = x.clone(), high.clone()
    for _ in range(searches):

        def evaluate(w: Tensor, which: Tensor, constant: Tensor = constant) -> _Iterate:
            at = _image(w)
            margin = _margin(model(at), y[which]) + confidence
            loss = _squared(at - centre[which]) + constant[which] * margin.clamp_min(0)
            return _Iterate(loss, _squared(at.detach() - x[which]), margin < 0)

        w, size = _descend(evaluate, start, steps=steps, lr=lr, early_stop=True)
        closer = size < best_size
        best, best_size = torch.where(_per_image(closer, x), _image(w), best), torch.where(closer, size, best_size)
        succeeded = size < torch.inf
        high, low = torch.where(succeeded, constant, high), torch.where(succeeded, low, constant)
        constant = torch.where(high < torch.inf, (low + high) / 2, 10 * constant)
    z[active] = best
    return z


def stadv(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    tau: float = 0.05,
    steps: int = 500,
    lr: float = 0.05,
    limit: float | None = None,
    confidence: float = 0.0,
) -> Tensor:
    """stAdv, untargeted spatial transformation (Xiao et al., 2018): pixels move, their values stay.

    limit: largest displacement in pixels along each axis (None: unlimited). See `stadv_flow`.
    """
    flow = stadv_flow(model, x, y, tau=tau, steps=steps, lr=lr, limit=limit, confidence=confidence)
    moved = _per_image(flow.flatten(1).any(1), x)
    return torch.where(moved, warped(x.detach(), flow), x.detach())


def stadv_flow(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    tau: float = 0.05,
    steps: int = 500,
    lr: float = 0.05,
    limit: float | None = None,
    confidence: float = 0.0,
) -> Tensor:
    """The flow field (B, H, W, 2) of `stadv`, in pixels as for `warped`; 0 where the attack fails.

    Minimises max(margin, -confidence) + tau * roughness(flow) from zero flow; returns the smoothest flow that changes
    the prediction. The paper uses L-BFGS with line search per image; here Adam, `lr` in pixels per step, runs on a
    batch of independent images. With a tau too large for the scale of the logits the attack misses existing flows: its
    success rate is no bound. Cost: `steps` gradients.
    """
    flow = x.new_zeros(len(x), *x.shape[-2:], 2)
    active = _not_misclassified(model, x.detach(), y, confidence)
    if not len(active):
        return flow
    x, y = x.detach()[active], y[active]

    def evaluate(at: Tensor, which: Tensor) -> _Iterate:
        margin = _margin(model(warped(x[which], at)), y[which])
        rough = roughness(at)
        return _Iterate(margin.clamp_min(-confidence) + tau * rough, rough.detach(), margin < -confidence)

    best_flow, size = _descend(evaluate, flow[active], steps=steps, lr=lr, limit=limit)
    flow[active] = torch.where(_per_image(size < torch.inf, best_flow), best_flow, 0)
    return flow


def warped(x: Tensor, flow: Tensor) -> Tensor:
    """Warp x by a flow field: pixel (i, j) is x at (i + flow[..., 0], j + flow[..., 1]), interpolated bilinearly.

    x (B, C, H, W); flow (B, H, W, 2), down and to the right. The border is repeated outside.
    """
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device, dtype=flow.dtype).view(1, height, 1) + flow[..., 0]
    columns = torch.arange(width, device=x.device, dtype=flow.dtype).view(1, 1, width) + flow[..., 1]
    top, down = _floor_and_fraction(rows, height)
    left, right = _floor_and_fraction(columns, width)
    pixels = x.flatten(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = (row * width + column).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        return pixels.gather(2, index).view_as(x)

    below, beside = (top + 1).clamp_max(height - 1), (left + 1).clamp_max(width - 1)
    upper = at(top, left) + right * (at(top, beside) - at(top, left))
    lower = at(below, left) + right * (at(below, beside) - at(below, left))
    return (upper + down * (lower - upper)).clamp(0, 1)


def _floor_and_fraction(position: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Per axis: the pixel before each position (B, H, W), and the fraction towards the next one (B, 1, H, W)."""
    position = position.clamp(0, length - 1)
    before = position.detach().floor().clamp_max(max(length - 2, 0))  # the last pixel, too, has a gradient inwards
    return before.long(), (position - before)[:, None]


def roughness(flow: Tensor) -> Tensor:
    """Flow loss of stAdv: sum of the lengths of flow differences between neighbouring pixels. (B,)

    flow (B, H, W, 2). Every pair of neighbours counts twice, once from each side, as published.
    """
    across = (flow[:, :, 1:] - flow[:, :, :-1]).square().sum(-1)
    along = (flow[:, 1:] - flow[:, :-1]).square().sum(-1)
    return 2 * sum(((d + _ROOT_OFFSET).sqrt() - _ROOT_OFFSET**0.5).sum((1, 2)) for d in (across, along))


def _descend(
    evaluate: Callable[[Tensor, Tensor], _Iterate],
    start: Tensor,
    *,
    steps: int,
    lr: float,
    limit: float | None = None,
    early_stop: bool = False,
) -> tuple[Tensor, Tensor]:
    """Per-image Adam from `start` (B, ...): the adversarial iterate of least size, and that size (B,), inf for none.

    evaluate(at, which): iterates of the images `which`. limit: largest absolute value of a coordinate. early_stop: drop
    images whose loss has not fallen since the last of ten checks.
    """
    best, best_size = start.clone(), start.new_full((len(start),), torch.inf)
    which, at = torch.arange(len(start), device=start.device), start
    mean, square, before = torch.zeros_like(start), torch.zeros_like(start), torch.full_like(best_size, torch.inf)
    for step in range(steps + 1):
        at = at.detach().requires_grad_(True)
        with torch.enable_grad():
            iterate = evaluate(at, which)
            (g,) = torch.autograd.grad(iterate.loss.sum(), at)
        at, loss = at.detach(), iterate.loss.detach()
        better = iterate.adversarial & (iterate.size < best_size[which])
        best[which] = torch.where(_per_image(better, at), at, best[which])
        best_size[which] = torch.where(better, iterate.size, best_size[which])
        if early_stop and step % max(1, steps // 10) == 0:
            falling = (loss <= 0.9999 * before[which]).nonzero().squeeze(1)
            before[which] = loss
            which, at, g, mean, square = (t[falling] for t in (which, at, g, mean, square))
            if not len(which):
                break
        mean = torch.lerp(g, mean, 0.9)
        square = torch.lerp(g.square(), square, 0.999)
        scale = (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        at = at - lr / (1 - 0.9 ** (step + 1)) * mean / scale
        if limit is not None:
            at = at.clamp(-limit, limit)
    return best, best_size


def _not_misclassified(model: nn.Module, x: Tensor, y: Tensor, confidence: float) -> Tensor:
    """Indices of the images not yet misclassified with this confidence."""
    with torch.no_grad():
        return (_margin(model(x), y) >= -confidence).nonzero().squeeze(1)


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    """The logit of y minus the largest other one; negative if the prediction is wrong. (B,)"""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return logits.gather(1, y[:, None]).squeeze(1) - others.amax(1)


def _image(w: Tensor) -> Tensor:
    return (w.tanh() + 1) / 2


def _squared(d: Tensor) -> Tensor:
    return d.flatten(1).square().sum(1)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
