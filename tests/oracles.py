"""Nets and a map whose answers are known, and parts to build nets of, for more than one file of tests."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.explain.base import Map


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Wrapped(nn.Module):
    """A net with something done to its images and to its logits."""

    def __init__(self, net, before=lambda x: x, after=lambda out: out):
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


class Linear(nn.Module):
    """Three logits of so many pixels, whose gradients are the rows of w."""

    def __init__(self, pixels: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, pixels, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T


def mask(x: Tensor) -> Tensor:
    """ReLU as a product with a mask, which `softened` cannot recognise."""
    return x * (x > 0)


class FirstOrderSquare(torch.autograd.Function):
    """The square, whose gradient cannot be differentiated; the error has two lines."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, g):
        return _SlopeOfSquare.apply(ctx.saved_tensors[0], g)


class _SlopeOfSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):
        return 2 * x * g

    @staticmethod
    def backward(ctx, g):
        raise RuntimeError("no derivative of the derivative\nand a trace")


class Fragile(nn.Module):
    """Keeps its prediction 0 only at multiples of 1 / 255 where the first pixel is bright, everywhere where it is not.

    The logit of class 1 is that of class 0, less a margin, plus a very large wave over every pixel.
    """

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(64))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        zero = (flat * self.w).tanh().sum(1)
        wave = 1e6 * (flat * 255 * torch.pi).sin().square().sum(1)
        return torch.stack([zero, zero - 10 + torch.where(flat[:, 0] > 0.5, wave, 0)], 1)


def fragile() -> tuple[Fragile, Tensor]:
    """The net, and eight images of multiples of 1 / 255, of class 0: bright in the first pixel the first four only."""
    x = torch.randint(1, 255, (8, 1, 8, 8)) / 255
    x[:4, 0, 0, 0], x[4:, 0, 0, 0] = 200 / 255, 20 / 255
    return Fragile().eval(), x


@dataclass(frozen=True)
class Brightness(Map):
    """The image itself: a map that no weight changes."""

    def __call__(self, net, x, y):
        return x.abs()
