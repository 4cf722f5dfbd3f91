"""Attention-based dropout layers (Choe and Shim, CVPR 2019): a net that may not look at its best evidence alone."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import models
from harness.batch import Batch
from harness.errors import Mistake


def attention(features: Tensor) -> Tensor:
    """The mean over channels. (B, D, h, w) -> (B, 1, h, w)"""
    return features.mean(1, keepdim=True)


def drop_mask(features: Tensor, gamma: float) -> Tensor:
    """0 where the attention reaches gamma times its largest value in the image, 1 elsewhere. (B, 1, h, w)"""
    a = attention(features)
    return (a < gamma * a.amax((2, 3), keepdim=True)).to(features.dtype)


def importance_map(features: Tensor) -> Tensor:
    """The sigmoid of the attention. (B, 1, h, w)"""
    return attention(features).sigmoid()


@dataclass(frozen=True)
class ADL:
    """Cross-entropy on the clean image, while the net's features lose their most attended part, or are weighted by it.

    Each gated stage draws a coin for each batch: with probability `drop` its features are multiplied by the drop mask,
    else by the importance map. gamma: share of the largest attention from which a place is dropped. at: which stages,
    counted from the end: 1 is the last features, 2 and 3 the places before (see `harness.models.stages`). The defaults
    are those of ResNet-50 on CUB, where they are the released code's positions 5, 41 and 31. A net in evaluation mode
    is gated nowhere. Cost: as `standard`.
    """

    drop: float = 0.75
    gamma: float = 0.9
    at: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        for name in ("drop", "gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise Mistake(f"method.{name} must lie in [0, 1], not {getattr(self, name)!r}")
        if not self.at or min(self.at) < 1 or len(set(self.at)) < len(self.at):
            raise Mistake(f"method.at takes stages counted from the end, such as 1,2,3, each once, not {self.at!r}")

    def gate(self, features: Tensor) -> Tensor:
        """The features, of which one is taken: all but the most attended part, or all by their importance."""
        if float(torch.rand(())) < self.drop:
            return features * drop_mask(features, self.gamma)
        return features * importance_map(features)

    @contextlib.contextmanager
    def gated(self, model: nn.Module) -> Iterator[None]:
        """Within, the stages of the net are gated while it is in training mode. Raises `Mistake` for missing ones."""
        stages = models.stages(model)
        if max(self.at) > len(stages):
            raise Mistake(f"method.at names stage {max(self.at)} from the end; this net has {len(stages)}")
        hooks = []
        try:
            for place in self.at:
                hooks.append(stages[-place].register_forward_hook(self._hook))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, stage: nn.Module, inputs: tuple[Tensor], features: Tensor) -> Tensor:
        return self.gate(features) if stage.training else features

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        with self.gated(model):
            return {"ce": F.cross_entropy(model(batch.x), batch.y)}
