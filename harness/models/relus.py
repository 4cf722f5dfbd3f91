"""Replace a net's ReLUs, module or function: smooth surrogates, guided backpropagation."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from harness.models.feature_layer import WithFeatureLayer
from harness.models.nets import Net
from harness.models.smooth_max import SMOOTH_MAXIMA, max_of_dimension, min_of_dimension

Rectifier = Callable[[Tensor], Tensor]
Bound = float | Tensor | None
_RELUS_IN_PLACE = {F.relu_, torch.relu_, Tensor.relu_, torch.ops.aten.relu_.default}
_RELUS = {F.relu, torch.relu, Tensor.relu, torch.ops.aten.relu.default} | _RELUS_IN_PLACE


class _Rectifier(TorchFunctionMode):
    """Replace ReLUs by `rectifier`; with `beta` also what is made of ReLUs, maxima, and batch normalisation."""

    def __init__(self, rectifier: Rectifier, beta: float | None = None, maxima: bool = True):
        super().__init__()
        self.rectifier, self.beta, self.maxima = rectifier, beta, maxima

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and self.beta:
            return _affine_norm(*args, **kwargs)
        smooth = self._smooth(func)
        if smooth is None:
            return func(*args, **kwargs)
        x, *rest = args or [kwargs.pop("input")]
        if not x.is_floating_point():
            return func(x, *rest, **kwargs)
        in_place = func in _RELUS_IN_PLACE or func in _OF_RELUS_IN_PLACE
        if in_place | kwargs.pop("inplace", False):
            return x.copy_(smooth(x.clone(), *rest, **kwargs))  # the caller may ignore the return value
        return smooth(x, *rest, **kwargs)

    def _smooth(self, func: Callable[..., Any]) -> Callable[..., Any] | None:
        """What replaces `func`, if anything."""
        if func in _RELUS:
            return lambda x, *_, **__: self.rectifier(x)
        if self.beta and func in _OF_RELUS:
            return functools.partial(_OF_RELUS[func], self.rectifier)
        if self.beta and self.maxima and func in SMOOTH_MAXIMA:
            return functools.partial(SMOOTH_MAXIMA[func], self.beta)
        if self.beta and func in _EXTREMA:
            return functools.partial(self._extreme, func)
        return None

    def _extreme(self, func: Callable[..., Any], x: Tensor, *rest: Any, **kwargs: Any) -> Any:
        """torch.max or torch.min, whose meaning depends on the type of the second argument, if there is one."""
        pairwise, over_dimension = _EXTREMA[func]
        second = rest[0] if rest else kwargs.get("other", kwargs.get("dim"))
        if isinstance(second, Tensor):
            return pairwise(self.rectifier, x, second)
        if second is None or not self.maxima:
            return func(x, *rest, **kwargs)
        return over_dimension(cast(float, self.beta), x, *rest, **kwargs)


# Piecewise linear functions as sums of ReLUs; their second derivative is 0, too


def _clamp(relu: Rectifier, x: Tensor, min: Bound = None, max: Bound = None) -> Tensor:
    x = x if min is None else min + relu(x - min)
    return x if max is None else max - relu(max - x)


def _clamp_min(relu: Rectifier, x: Tensor, min: Bound) -> Tensor:
    return _clamp(relu, x, min)


def _clamp_max(relu: Rectifier, x: Tensor, max: Bound) -> Tensor:
    return _clamp(relu, x, None, max)


def _relu6(relu: Rectifier, x: Tensor, inplace: bool = False) -> Tensor:
    return _clamp(relu, x, 0.0, 6.0)


def _hardtanh(relu: Rectifier, x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    return _clamp(relu, x, min_val, max_val)


def _hardsigmoid(relu: Rectifier, x: Tensor, inplace: bool = False) -> Tensor:
    return _clamp(relu, x / 6 + 0.5, 0.0, 1.0)


def _hardswish(relu: Rectifier, x: Tensor, inplace: bool = False) -> Tensor:
    return x * _hardsigmoid(relu, x)


def _leaky_relu(relu: Rectifier, x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return negative_slope * x + (1 - negative_slope) * relu(x)


def _prelu(relu: Rectifier, x: Tensor, weight: Tensor) -> Tensor:
    slope = weight.view(-1, *[1] * (x.dim() - 2)) if weight.numel() > 1 else weight
    return slope * x + (1 - slope) * relu(x)


def _maximum(relu: Rectifier, x: Tensor, other: Tensor) -> Tensor:
    return other + relu(x - other)


def _minimum(relu: Rectifier, x: Tensor, other: Tensor) -> Tensor:
    return other - relu(other - x)


def _abs(relu: Rectifier, x: Tensor) -> Tensor:
    return relu(x) + relu(-x)


_OF_RELUS_IN_PLACE: dict[Callable[..., Any], Callable[..., Tensor]] = {
    **dict.fromkeys((torch.clamp_, Tensor.clamp_, torch.clip_, Tensor.clip_), _clamp),
    **dict.fromkeys((torch.clamp_min_, Tensor.clamp_min_), _clamp_min),
    **dict.fromkeys((torch.clamp_max_, Tensor.clamp_max_), _clamp_max),
    F.hardtanh_: _hardtanh,
    F.leaky_relu_: _leaky_relu,
    **dict.fromkeys((torch.abs_, Tensor.abs_), _abs),
}
_OF_RELUS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    **_OF_RELUS_IN_PLACE,
    **dict.fromkeys((torch.clamp, Tensor.clamp, torch.clip, Tensor.clip), _clamp),
    **dict.fromkeys((torch.clamp_min, Tensor.clamp_min), _clamp_min),
    **dict.fromkeys((torch.clamp_max, Tensor.clamp_max), _clamp_max),
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    F.hardsigmoid: _hardsigmoid,
    F.hardswish: _hardswish,
    F.leaky_relu: _leaky_relu,
    **dict.fromkeys((F.prelu, torch.prelu, Tensor.prelu), _prelu),
    **dict.fromkeys((torch.maximum, Tensor.maximum), _maximum),
    **dict.fromkeys((torch.minimum, Tensor.minimum), _minimum),
    **dict.fromkeys((torch.abs, Tensor.abs, Tensor.__abs__, torch.absolute, Tensor.absolute), _abs),
}

# (maximum of two tensors, maximum over a dimension)
_EXTREMA: dict[Callable[..., Any], tuple[Callable[..., Tensor], Callable[..., Any]]] = {
    **dict.fromkeys((torch.max, Tensor.max), (_maximum, max_of_dimension)),
    **dict.fromkeys((torch.min, Tensor.min), (_minimum, min_of_dimension)),
}


def _affine_norm(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalisation as multiply-add: double backward at half the cost of the built-in one.

    Falls back to the built-in one if running statistics must be updated.
    """
    if training and mean is not None:
        return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    if mean is None or var is None:
        var, mean = torch.var_mean(x, (0, *range(2, x.dim())), correction=0)
    scale = (var + eps).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * scale
    per_channel = (-1, *[1] * (x.dim() - 2))
    return torch.addcmul(shift.view(per_channel), x, scale.view(per_channel))


@contextlib.contextmanager
def rectified_by(rectifier: Rectifier) -> Iterator[None]:
    """Context manager: replace every ReLU of this thread by `rectifier`: `nn.ReLU`, `F.relu`, in place or not."""
    with _Rectifier(rectifier):
        yield


class Softened(nn.Module):
    """`model` with softplus of sharpness beta for ReLU, and for what is made of ReLUs: clamp, LeakyReLU, abs, ...

    Maxima over windows (max pooling) and over dimensions become log-sum-exp of the same beta, which is softplus for the
    maximum of x and 0; without `maxima` they stay, as in code that replaces only ReLUs. Attention uses its plain
    kernel: the fused ones have no second derivative. All parameters and buffers are shared. Masks such as
    `x * (x > 0)` stay as they are: see `harness.explain.curvature`.
    """

    def __init__(self, model: nn.Module, beta: float, maxima: bool = True):
        super().__init__()
        self.model, self.beta, self.maxima = model, beta, maxima

    def forward(self, x: Tensor) -> Tensor:
        with self._smooth():
            return self.model(x)

    def maps(self, x: Tensor) -> Tensor:
        """Last convolutional feature maps of x, as `Net.maps`."""
        with self._smooth():
            return cast(Net, self.model).maps(x)

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of a net with a named feature layer, as `WithFeatureLayer.features_and_logits`."""
        with self._smooth():
            return cast(WithFeatureLayer, self.model).features_and_logits(x)

    @property
    def head(self) -> nn.Linear:
        return cast(Net, self.model).head

    @contextlib.contextmanager
    def _smooth(self) -> Iterator[None]:
        with _Rectifier(lambda t: F.softplus(t, self.beta), self.beta, self.maxima), sdpa_kernel(SDPBackend.MATH):
            yield


def softened(model: nn.Module, beta: float = 50.0, maxima: bool = True) -> Softened:
    """Smooth surrogate of a net of ReLUs, for second-order gradients: ReLU's second derivative is 0."""
    return Softened(model, beta, maxima)
