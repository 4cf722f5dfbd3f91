"""Differentiable attribution maps: gradient, integrated gradients, SmoothGrad, Grad-CAM++."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.explain import input_gradients, saliency_maps
from harness.explain.input_gradients import Scalar, true_logit
from harness.models.nets import Net
from harness.models.relus import Softened

# Pixels per autograd graph, interpolated images included: bounds memory to some 200 bytes per pixel and channel of the
# widest layer. Small on a CPU, for its caches: 80 images of 32 x 32.
PIXELS = {"cpu": 80 * 1024, "cuda": 2000 * 1024}


def chunk_size(x: Tensor) -> int:
    """How many images of x's size to put into one autograd graph on x's device."""
    return max(1, PIXELS.get(x.device.type, PIXELS["cuda"]) // (x.shape[-2] * x.shape[-1]))


@dataclass(frozen=True)
class Gradient:
    """Gradient of the label's logit (Simonyan et al., 2014)."""

    images = 1  # forward passes per map

    def __call__(self, net: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        return input_gradients.of(lambda at: true_logit(net(at), y), z)


@dataclass(frozen=True)
class IntegratedGradients:
    """Integrated gradients: z times the mean gradient at `points` steps from black to z (Sundararajan et al., 2017).

    rule: interpolation points in units of 1 / points: `midpoint`, the most accurate for small `points`; `right`, 1 to
    points, as in published attacks; `trapezoid`, 0 to points with half weight at the ends. of: the label's logit or
    loss. through_factor: whether to differentiate the factor z, too (Chen et al. do, Singh et al. do not). Batches with
    more interpolated images than `chunk` (0: `chunk_size`) are split; the backward pass then recomputes each chunk.
    """

    points: int = 10
    rule: Literal["midpoint", "right", "trapezoid"] = "midpoint"
    of: Literal["logit", "loss"] = "logit"
    through_factor: bool = True
    chunk: int = 0

    @property
    def images(self) -> int:
        return self.points

    def __call__(self, net: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        nodes, weights = self._quadrature(z)
        scalar = input_gradients.SCALARS[self.of]
        per_chunk = max(1, (self.chunk or chunk_size(z)) // max(1, len(z)))
        chunks = list(zip(nodes.split(per_chunk), weights.split(per_chunk), strict=True))
        if len(chunks) > 1 and z.requires_grad:
            mean = _ChunkedGradient.apply(z, net, y, scalar, chunks)
        else:
            mean = sum(_weighted_gradient(net, z, y, scalar, *chunk) for chunk in chunks)
        return (z if self.through_factor else z.detach()) * mean

    def _quadrature(self, z: Tensor) -> tuple[Tensor, Tensor]:
        first = {"midpoint": 0.5, "right": 1.0, "trapezoid": 0.0}[self.rule]
        count = self.points + (self.rule == "trapezoid")
        nodes = (torch.arange(count, device=z.device, dtype=z.dtype) + first) / self.points
        weights = torch.full_like(nodes, 1 / self.points)
        if self.rule == "trapezoid":
            weights[[0, -1]] /= 2
        return nodes, weights


def _weighted_gradient(net: nn.Module, z: Tensor, y: Tensor, scalar: Scalar, nodes: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over `nodes` of the gradient at node * z, of z's shape."""
    interpolated = (nodes.view(-1, 1, 1, 1, 1) * z).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    g = input_gradients.of(lambda at: scalar(net(at), y.repeat(len(nodes))), interpolated)
    return (weights.view(-1, 1, 1, 1, 1) * g.unflatten(0, (len(nodes), len(z)))).sum(0)


class _ChunkedGradient(torch.autograd.Function):
    """Weighted gradient over all chunks with one chunk in memory at a time; recomputed in backward."""

    @staticmethod
    def forward(ctx, z: Tensor, net: nn.Module, y: Tensor, scalar: Scalar, chunks: list) -> Tensor:
        ctx.save_for_backward(z)
        ctx.settings = net, y, scalar, chunks
        return sum(_weighted_gradient(net, z.detach(), y, scalar, *chunk) for chunk in chunks)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v: Tensor) -> tuple:
        (z,) = ctx.saved_tensors
        net, y, scalar, chunks = ctx.settings
        total = torch.zeros_like(z)
        for chunk in chunks:
            at = z.detach().requires_grad_(True)
            with torch.enable_grad():
                total += input_gradients.gradient(_weighted_gradient(net, at, y, scalar, *chunk) * v, at)
        return total, None, None, None, None


@dataclass(frozen=True)
class SmoothGrad:
    """SmoothGrad: mean gradient of the label's logit over n noisy copies (Smilkov et al., 2017).

    All images share n fixed draws, so that the map is a deterministic function of the image. sigma is in units of each
    image's value range.
    """

    n: int = 10
    sigma: float = 0.15

    @property
    def images(self) -> int:
        return self.n

    def __call__(self, net: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        draws = torch.randn(self.n, 1, *z.shape[1:], generator=torch.Generator().manual_seed(0)).to(z)
        flat = z.detach().flatten(1)
        noise_scale = self.sigma * (flat.amax(1) - flat.amin(1)).view(-1, 1, 1, 1)
        noisy = (z + noise_scale * draws).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        g = input_gradients.of(lambda at: true_logit(net(at), y.repeat(self.n)), noisy)
        return g.unflatten(0, (self.n, len(z))).mean(0)


@dataclass(frozen=True)
class GradCAMPlusPlus:
    """Grad-CAM++ at the last feature maps, as `saliency.gradcam_pp`; of a `Net` or its softplus surrogate.

    Raises `UserError` for any other model.
    """

    images = 1

    def __call__(self, net: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        explained = net.model if isinstance(net, Softened) else net
        if not isinstance(explained, Net):
            raise UserError(f"class activation maps need a Net of harness.models, not {type(explained).__name__}")
        weight = net.head.weight.detach()[y][:, :, None, None]
        return saliency_maps.enlarged(saliency_maps.plus_plus(net.maps(z), weight), z)


Explain = Gradient | IntegratedGradients | SmoothGrad | GradCAMPlusPlus
EXPLAIN: dict[str, type[Explain]] = {
    "integrated_gradients": IntegratedGradients,
    "gradient": Gradient,
    "smoothgrad": SmoothGrad,
    "gradcam_pp": GradCAMPlusPlus,
}
