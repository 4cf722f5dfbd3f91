"""Integrated gradients, differentiable and in bounded memory: attacked, scored, shown and trained on."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.explain import input_gradients
from harness.explain.base import Map
from harness.explain.input_gradients import Scalar, chunk_size

Chunk = tuple[Tensor, Tensor]  # nodes and weights of a quadrature
TURNS, STRIDE = 10, 7  # of rotating points: subsets, and from one to the next; without a common divisor


@dataclass(frozen=True)
class IntegratedGradients(Map):
    """Integrated gradients: x times the mean gradient at `points` steps from black to x (Sundararajan et al., 2017).

    rule: interpolation points in units of 1 / points: `midpoint`, the most accurate for small `points`; `right`, 1 to
    points, as in published attacks; `trapezoid`, 0 to points with half weight at the ends; `rotating`, in each step of
    an attack another subset of the `right` ones of TURNS * points, so that TURNS steps visit each once. of: the label's
    logit or loss. through_factor: whether to differentiate the factor x, too (Chen et al. do, Singh et al. do not).

    chunk: interpolated images per pass, at most, larger batches being split; 0: `chunk_size` of them, but whole
    batches. In a graph of several chunks, the backward pass recomputes each. spacing: `linspace` rounds the points of a
    trapezoid as `torch.linspace` does; then maps differ in the last bit.
    """

    points: int = 10
    rule: Literal["midpoint", "right", "trapezoid", "rotating"] = "midpoint"
    of: Literal["logit", "loss"] = "logit"
    through_factor: bool = True
    chunk: int = 0
    spacing: Literal["arange", "linspace"] = field(default="arange", repr=False)  # not in descriptions of scores
    turn: int = field(default=0, repr=False)  # of `rotating`: which subset

    differentiable = True

    @property
    def complete(self) -> bool:
        return self.of == "logit"

    @property
    def passes(self) -> int:
        return self.points

    def at_step(self, step: int) -> "IntegratedGradients":
        return replace(self, turn=step) if self.rule == "rotating" else self

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if 0 < self.chunk < len(x):
            parts = zip(x.split(self.chunk), y.split(self.chunk), strict=True)
            return torch.cat([self(net, *part) for part in parts])
        nodes, weights = self._quadrature(x)
        scalar = input_gradients.SCALARS[self.of]
        per_chunk = max(1, (self.chunk or chunk_size(x)) // max(1, len(x)))
        chunks = list(zip(nodes.split(per_chunk), weights.split(per_chunk), strict=True))
        if len(chunks) > 1 and x.requires_grad:
            mean = _ChunkedGradient.apply(x, net, y, scalar, chunks)
        else:
            mean = _total(net, x, y, scalar, chunks)
        return (x if self.through_factor else x.detach()) * mean

    def _quadrature(self, x: Tensor) -> tuple[Tensor, Tensor]:
        turned = (1 + STRIDE * self.turn % TURNS) / TURNS
        first = {"midpoint": 0.5, "right": 1.0, "trapezoid": 0.0, "rotating": turned}[self.rule]
        count = self.points + (self.rule == "trapezoid")
        nodes = (torch.arange(count, device=x.device, dtype=x.dtype) + first) / self.points
        if self.rule == "trapezoid" and self.spacing == "linspace":
            nodes = torch.linspace(0, 1, count, device=x.device, dtype=x.dtype)
        weights = torch.full_like(nodes, 1 / self.points)
        if self.rule == "trapezoid":
            weights[[0, -1]] /= 2
        return nodes, weights


def _weighted_gradient(net: nn.Module, x: Tensor, y: Tensor, scalar: Scalar, nodes: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over `nodes` of the gradient at node * x, of x's shape."""
    interpolated = (nodes.view(-1, 1, 1, 1, 1) * x).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    g = input_gradients.of(lambda at: scalar(net(at), y.repeat(len(nodes))), interpolated)
    return (weights.view(-1, 1, 1, 1, 1) * g.unflatten(0, (len(nodes), len(x)))).sum(0)


def _total(net: nn.Module, x: Tensor, y: Tensor, scalar: Scalar, chunks: list[Chunk]) -> Tensor:
    return sum((_weighted_gradient(net, x, y, scalar, *chunk) for chunk in chunks), x.new_zeros(()))


class _ChunkedGradient(torch.autograd.Function):
    """Weighted gradient over all chunks with one chunk in memory at a time; recomputed in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, net: nn.Module, y: Tensor, scalar: Scalar, chunks: list[Chunk]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.settings = net, y, scalar, chunks
        return _total(net, x.detach(), y, scalar, chunks)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x,) = ctx.saved_tensors
        net, y, scalar, chunks = ctx.settings
        total = torch.zeros_like(x)
        for chunk in chunks:
            at = x.detach().requires_grad_(True)
            with torch.enable_grad():
                total += input_gradients.gradient(_weighted_gradient(net, at, y, scalar, *chunk) * v, at)
        return total, None, None, None, None
