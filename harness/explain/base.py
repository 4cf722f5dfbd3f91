"""What every attribution map declares of itself, and how it is called."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from harness.models.freezing import frozen


class Map(ABC):
    """An attribution map: `map(net, x, y)` explains class y of images x. A frozen dataclass; its fields are constants.

    x (B, C, H, W) in [0, 1], y (B,) -> (B, C, H, W), or (B, 1, H, W) unless `per_channel`. Positive values are evidence
    *for* class y, so that `x - eps * sign(map)` lowers it. If x requires gradients and the map is `differentiable`, the
    result has a graph. The caller chooses the net's mode; `detached` is the map of the evaluated net.
    """

    per_channel: ClassVar[bool] = True  # one map per channel of the image
    of_features: ClassVar[bool] = False  # needs a `Net`, or a net with a named feature layer; `UserError` for others
    differentiable: ClassVar[bool] = False  # can be attacked: has a useful derivative on softplus surrogates

    @property
    def signed(self) -> bool:
        """Whether it has values of both signs; else 0 is the least, not a boundary between evidences."""
        return True

    @property
    def complete(self) -> bool:
        """Whether it sums to logit(x) - logit(black), up to quadrature."""
        return False

    @property
    def random(self) -> bool:
        """Whether it draws from the global generator, for the batch as a whole."""
        return False

    @property
    def passes(self) -> int:
        """Its cost: images passed through the net, forward and backward, per map."""
        return 1

    def at_step(self, step: int) -> "Map":
        """The map to look at in this step of an attack, from 0; itself, unless its interpolation points change."""
        return self

    @abstractmethod
    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The map of class y (B,) of images x (B, C, H, W)."""

    def detached(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The map without a graph, of the net in evaluation mode; the net's modes and flags are restored."""
        with frozen(net):
            return self(net, x.detach(), y).detach()
