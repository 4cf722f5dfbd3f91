"""Image times gradient (Shrikumar et al., 2016)."""

from dataclasses import dataclass

from torch import Tensor, nn

from harness.explain.base import Map
from harness.explain.maps import Gradient


@dataclass(frozen=True)
class InputXGradient(Map):
    """Image times the gradient of the logit. It can be attacked, for it has a graph where the image has one."""

    differentiable = True

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x * Gradient()(net, x, y)
