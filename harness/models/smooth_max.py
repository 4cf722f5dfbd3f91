"""Maxima as log-sum-exp, their smooth counterpart: of max pooling, adaptive or not, and of maxima over dimensions.

log(sum(exp(beta x))) / beta exceeds max(x) by at most log(n) / beta for n values (Boyd and Vandenberghe, "Convex
optimization", 2004, section 3.1.5), and its gradient is their softmax. Of x and 0 it is the softplus of sharpness beta,
log(1 + exp(beta x)) / beta: a ReLU has the same curvature, whether it is written as one or as a maximum. A sum over
windows separates into rows and columns, so 3x3 windows cost 3 + 3 terms, not 9.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Sizes = int | Sequence[int]


def _windows(
    scaled: Tensor, dim: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> Tensor:
    """Log-sum-exp along `dim` over the windows of pooling."""
    length, extent = scaled.shape[dim], dilation * (kernel - 1) + 1
    free = length + 2 * padding - extent
    count = (-(-free // stride) if ceil_mode else free // stride) + 1
    if ceil_mode and (count - 1) * stride >= length + padding:  # a window begins within the image, or left of it
        count -= 1
    after = max(padding, (count - 1) * stride + extent - length - padding)
    padded = F.pad(scaled, [0, 0] * (-dim - 1) + [padding, after], value=-torch.inf) if padding or after else scaled
    return padded.unfold(dim, extent, stride).narrow(dim - 1, 0, count)[..., ::dilation].logsumexp(-1)


def _max_pool(dims: int) -> Callable[..., Tensor]:
    def pool(
        beta: float,
        x: Tensor,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor:
        scaled = beta * x
        settings = (kernel_size, kernel_size if stride is None or stride == [] else stride, padding, dilation)
        for i in range(dims):
            kernel, step, border, spread = (_at(setting, i) for setting in settings)
            scaled = _windows(scaled, i - dims, kernel, step, border, spread, ceil_mode)
        return scaled / beta

    return pool


def _at(sizes: Sizes, i: int) -> int:
    return sizes if isinstance(sizes, int) else sizes[i if len(sizes) > 1 else 0]


def _adaptive_max_pool(dims: int) -> Callable[..., Tensor]:
    def pool(beta: float, x: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
        scaled = beta * x
        for i in range(dims):
            dim = i - dims
            length = scaled.shape[dim]
            count = output_size if isinstance(output_size, int) else output_size[i]
            count = length if count is None else count
            bounds = [(j * length // count, -(-(j + 1) * length // count)) for j in range(count)]
            parts = [scaled.narrow(dim, start, end - start).logsumexp(dim, keepdim=True) for start, end in bounds]
            scaled = torch.cat(parts, dim)
        return scaled / beta

    return pool


def _amax(beta: float, x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    if dim == ():
        return torch.amax(x)  # over the images of a batch, too: no layer of a classifier
    return torch.logsumexp(beta * x, dim, keepdim) / beta


def _amin(beta: float, x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return -_amax(beta, -x, dim, keepdim)


def _with_indices(extreme: Callable[..., Any], smooth: Callable[..., Tensor]) -> Callable[..., Any]:
    """torch.max or torch.min over a dimension: smooth values, with the indices as they are."""

    def of_dimension(beta: float, x: Tensor, dim: int, keepdim: bool = False) -> Any:
        kind = torch.return_types.max if extreme is torch.max else torch.return_types.min
        return kind((smooth(beta, x, dim, keepdim), extreme(x, dim, keepdim).indices))

    return of_dimension


max_of_dimension, min_of_dimension = _with_indices(torch.max, _amax), _with_indices(torch.min, _amin)

# Functions of torch -> (beta, *its arguments) -> result
SMOOTH_MAXIMA: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _max_pool(1)),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d, torch.ops.aten.max_pool2d.default), _max_pool(2)),
    **dict.fromkeys((F.max_pool3d, torch.max_pool3d), _max_pool(3)),
    F.adaptive_max_pool1d: _adaptive_max_pool(1),
    F.adaptive_max_pool2d: _adaptive_max_pool(2),
    F.adaptive_max_pool3d: _adaptive_max_pool(3),
    **dict.fromkeys((torch.amax, Tensor.amax), _amax),
    **dict.fromkeys((torch.amin, Tensor.amin), _amin),
}
