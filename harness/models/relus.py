"""Replace a net's ReLUs, module or function: softplus surrogates, guided backpropagation."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from harness.models.nets import Net

_IN_PLACE = {F.relu_, torch.relu_, Tensor.relu_}
_RELUS = {F.relu, torch.relu, Tensor.relu} | _IN_PLACE


class _Rectifier(TorchFunctionMode):
    """Replace ReLUs by `rectifier`, and with `affine` batch normalisation by `_affine_norm`."""

    def __init__(self, rectifier: Callable[[Tensor], Tensor], affine: bool = False):
        super().__init__()
        self.rectifier, self.affine = rectifier, affine

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and self.affine:
            return _affine_norm(*args, **kwargs)
        if func not in _RELUS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        if func in _IN_PLACE or kwargs.get("inplace"):
            return x.copy_(self.rectifier(x.clone()))  # the caller may use x and ignore the return value
        return self.rectifier(x)


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
def rectified_by(rectifier: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Context manager: replace every ReLU of this thread by `rectifier`: `nn.ReLU`, `F.relu`, in place or not."""
    with _Rectifier(rectifier):
        yield


class Softened(nn.Module):
    """`model` with softplus of sharpness beta for ReLU; all parameters and buffers are shared."""

    def __init__(self, model: nn.Module, beta: float):
        super().__init__()
        self.model, self.beta = model, beta

    def forward(self, x: Tensor) -> Tensor:
        with self._smooth():
            return self.model(x)

    def maps(self, x: Tensor) -> Tensor:
        """Last convolutional feature maps of x, as `Net.maps`."""
        with self._smooth():
            return cast(Net, self.model).maps(x)

    @property
    def head(self) -> nn.Linear:
        return cast(Net, self.model).head

    def _smooth(self) -> contextlib.AbstractContextManager[None]:
        return _Rectifier(lambda t: F.softplus(t, self.beta), affine=True)


def softened(model: nn.Module, beta: float = 50.0) -> Softened:
    """Softplus surrogate of a ReLU net, for second-order gradients: ReLU's second derivative is 0."""
    return Softened(model, beta)
