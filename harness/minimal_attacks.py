"""Attacks that look for the smallest change of an image that changes its prediction, without a ball to stay in.

    attack(model, x, y, *, steps, lr, ...) -> z     in [0, 1], of x's shape; x itself where nothing was found

`cw` keeps the pixels' L2 distance small, `stadv` the roughness of a flow that moves them. Both descend by Adam on one
value per image and keep, of all images they see on the way, the one of least size that is no longer classified as y.
An image that is misclassified already comes back as it is. Nothing is drawn at random, and no image's result depends on
the others of its batch. What is found lies close to the border of its class: predict it anew, in full float32, before
it is reported.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_INSIDE = 0.999999  # keeps the inverse of tanh finite at black and at white
_ROUND = 1e-8  # under the root of the roughness, squared pixels: its gradient at no flow is then 0


@dataclass(frozen=True)
class _Seen:
    """An iterate: what is descended on, the size of the change, and whether it changes the prediction. Each (B,)."""

    loss: Tensor
    size: Tensor
    fools: Tensor


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
    """The L2 attack of Carlini and Wagner (2017), untargeted; the defaults are those of their code.

    Descends on |z - x|^2 + c * max(margin + confidence, 0), where z = (tanh(w) + 1) / 2 cannot leave [0, 1]. The
    constant c of every image starts at `initial` and is searched for in `searches` rounds of `steps` steps: ten times
    as large until a round succeeds, then by halving the interval between failure and success. An image leaves a round
    early where its loss has not fallen by a ten-thousandth in a tenth of the steps. confidence: by how much the best
    wrong logit must exceed that of y. Saliency-based adversarial training (2020) was measured with 20 steps and 3, 5 or
    9 searches, which is weak. Cost: up to steps * searches gradients.
    """
    z = x.detach().clone()
    todo = _unfooled(model, z, y, confidence)
    if not len(todo):
        return z
    x, y = z[todo], y[todo]
    start = torch.atanh((2 * x - 1) * _INSIDE)
    centre = _image(start)  # in the place of x: from there the distance has no gradient that Adam would blow up
    low, high = x.new_zeros(len(x)), x.new_full((len(x),), torch.inf)
    constant = x.new_full((len(x),), initial)
    best, least = x.clone(), high.clone()
    for _ in range(searches):

        def look(w: Tensor, which: Tensor, constant: Tensor = constant) -> _Seen:
            at = _image(w)
            margin = _margin(model(at), y[which]) + confidence
            loss = _squared(at - centre[which]) + constant[which] * margin.clamp_min(0)
            return _Seen(loss, _squared(at.detach() - x[which]), margin < 0)

        w, size = _descend(look, start, steps=steps, lr=lr, impatient=True)
        closer = size < least
        best, least = torch.where(_per_image(closer, x), _image(w), best), torch.where(closer, size, least)
        succeeded = size < torch.inf
        high, low = torch.where(succeeded, constant, high), torch.where(succeeded, low, constant)
        constant = torch.where(high < torch.inf, (low + high) / 2, 10 * constant)
    z[todo] = best
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
    """Spatially transformed images (Xiao et al., 2018), untargeted: pixels move, their values do not.

    limit: how many pixels far a value may come from, along each axis (None: any distance). See `stadv_flow`.
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
    """The flow (B, H, W, 2) of `stadv`, in pixels as `warped` takes it; 0 where nothing was found.

    Descends on max(margin, -confidence) + tau * roughness(flow) from no flow at all; of the flows that change the
    prediction the least rough is kept. Published is L-BFGS with a line search for each image; here it is Adam, `lr` in
    pixels a step, which takes a batch at once without mixing its images. A steep tau for the logits' scale hides flows
    that exist: success is what is found at this tau, not a bound. Cost: `steps` gradients.
    """
    flow = x.new_zeros(len(x), *x.shape[-2:], 2)
    todo = _unfooled(model, x.detach(), y, confidence)
    if not len(todo):
        return flow
    x, y = x.detach()[todo], y[todo]

    def look(at: Tensor, which: Tensor) -> _Seen:
        margin = _margin(model(warped(x[which], at)), y[which])
        rough = roughness(at)
        return _Seen(margin.clamp_min(-confidence) + tau * rough, rough.detach(), margin < -confidence)

    found, size = _descend(look, flow[todo], steps=steps, lr=lr, limit=limit)
    flow[todo] = torch.where(_per_image(size < torch.inf, found), found, 0)
    return flow


def warped(x: Tensor, flow: Tensor) -> Tensor:
    """The image whose pixel (i, j) is x at (i + flow[..., 0], j + flow[..., 1]), bilinearly between four pixels.

    x (B, C, H, W); flow (B, H, W, 2), down and to the right. Beyond the border lies the nearest pixel of the border.
    """
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device, dtype=flow.dtype).view(1, height, 1) + flow[..., 0]
    columns = torch.arange(width, device=x.device, dtype=flow.dtype).view(1, 1, width) + flow[..., 1]
    top, down = _between(rows, height)
    left, right = _between(columns, width)
    pixels = x.flatten(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = (row * width + column).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        return pixels.gather(2, index).view_as(x)

    below, beside = (top + 1).clamp_max(height - 1), (left + 1).clamp_max(width - 1)
    upper = at(top, left) + right * (at(top, beside) - at(top, left))
    lower = at(below, left) + right * (at(below, beside) - at(below, left))
    return (upper + down * (lower - upper)).clamp(0, 1)


def _between(place: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The pixel before each place (B, H, W) on an axis, and the share of the way from it to the next (B, 1, H, W)."""
    place = place.clamp(0, length - 1)
    before = place.detach().floor().clamp_max(max(length - 2, 0))  # so that the last pixel, too, feels a way inwards
    return before.long(), (place - before)[:, None]


def roughness(flow: Tensor) -> Tensor:
    """How much each pixel moves otherwise than its neighbours: the lengths of the differences, summed. (B,)

    flow (B, H, W, 2). Every pair of neighbours counts twice, once from either side, as published.
    """
    across = (flow[:, :, 1:] - flow[:, :, :-1]).square().sum(-1)
    along = (flow[:, 1:] - flow[:, :-1]).square().sum(-1)
    return 2 * sum(((d + _ROUND).sqrt() - _ROUND**0.5).sum((1, 2)) for d in (across, along))


def _descend(
    look: Callable[[Tensor, Tensor], _Seen],
    start: Tensor,
    *,
    steps: int,
    lr: float,
    limit: float | None = None,
    impatient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Adam from `start` (B, ...): the iterate of least size that fools the model, and that size, inf for none. (B,)

    look(at, which): those images' iterates. limit: the largest absolute value of a coordinate. impatient: leave images
    whose loss has not fallen since the last look, ten of which are taken on the way.
    """
    best, least = start.clone(), start.new_full((len(start),), torch.inf)
    which, at = torch.arange(len(start), device=start.device), start
    mean, square, before = torch.zeros_like(start), torch.zeros_like(start), torch.full_like(least, torch.inf)
    for step in range(steps + 1):
        at = at.detach().requires_grad_(True)
        with torch.enable_grad():
            seen = look(at, which)
            (g,) = torch.autograd.grad(seen.loss.sum(), at)
        at, loss = at.detach(), seen.loss.detach()
        better = seen.fools & (seen.size < least[which])
        best[which] = torch.where(_per_image(better, at), at, best[which])
        least[which] = torch.where(better, seen.size, least[which])
        if impatient and step % max(1, steps // 10) == 0:
            falls = (loss <= 0.9999 * before[which]).nonzero().squeeze(1)
            before[which] = loss
            which, at, g, mean, square = (t[falls] for t in (which, at, g, mean, square))
            if not len(which):
                break
        mean = torch.lerp(g, mean, 0.9)
        square = torch.lerp(g.square(), square, 0.999)
        scale = (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        at = at - lr / (1 - 0.9 ** (step + 1)) * mean / scale
        if limit is not None:
            at = at.clamp(-limit, limit)
    return best, least


def _unfooled(model: nn.Module, x: Tensor, y: Tensor, confidence: float) -> Tensor:
    """The numbers of the images that are not misclassified with that confidence already."""
    with torch.no_grad():
        return (_margin(model(x), y) >= -confidence).nonzero().squeeze(1)


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    """The logit of y less the largest other one; negative where the prediction is wrong. (B,)"""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return logits.gather(1, y[:, None]).squeeze(1) - others.amax(1)


def _image(w: Tensor) -> Tensor:
    return (w.tanh() + 1) / 2


def _squared(d: Tensor) -> Tensor:
    return d.flatten(1).square().sum(1)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
