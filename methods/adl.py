"""Attention-based dropout layers, ADL (Choe and Shim, CVPR 2019): hide the most discriminative region in training."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.batches import Batch
from harness.errors import UserError
from harness.models import nets
from harness.setting_types import Count, Share


def attention(features: Tensor) -> Tensor:
    """Attention: mean of feature maps over channels. (B, D, h, w) -> (B, 1, h, w)"""
    return features.mean(1, keepdim=True)


def drop_mask(features: Tensor, gamma: float) -> Tensor:
    """Mask: 0 where attention >= gamma times its maximum in the image, 1 elsewhere. (B, 1, h, w)"""
    a = attention(features)
    return (a < gamma * a.amax((2, 3), keepdim=True)).to(features.dtype)


def importance_map(features: Tensor) -> Tensor:
    """Sigmoid of the attention. (B, 1, h, w)"""
    return attention(features).sigmoid()


@dataclass(frozen=True)
class ADL:
    """Cross-entropy on clean images, with feature maps multiplied by a drop mask or an importance map.

    Per batch, each gated stage multiplies its feature maps by the drop mask with probability `drop`, else by the
    importance map. gamma: fraction of the maximal attention above which positions are dropped. at: stages, counted from
    the end: 1 is the last feature maps, 2 and 3 the stages before (see `harness.models.nets.stages`). The defaults are
    those of ResNet-50 on CUB, where they are the released code's positions 5, 41 and 31. Evaluation mode has no gates.
    Cost: as `standard`.
    """

    drop: Share = 0.75
    gamma: Share = 0.9
    at: tuple[Count, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        if not self.at or min(self.at) < 1 or len(set(self.at)) < len(self.at):
            raise UserError(f"method.at takes stages counted from the end, such as 1,2,3, each once, not {self.at!r}")

    def gate(self, features: Tensor) -> Tensor:
        """Multiply feature maps by the drop mask or the importance map, at random."""
        if float(torch.rand(())) < self.drop:
            return features * drop_mask(features, self.gamma)
        return features * importance_map(features)

    @contextlib.contextmanager
    def gated(self, model: nn.Module) -> Iterator[None]:
        """Gate the stages of a net in training mode. Raises `UserError` for missing stages."""
        stages = nets.stages(model)
        if max(self.at) > len(stages):
            raise UserError(f"method.at names stage {max(self.at)} from the end; this net has {len(stages)}")
        hooks = []
        try:
            for from_end in self.at:
                hooks.append(stages[-from_end].register_forward_hook(self._hook))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, stage: nn.Module, inputs: tuple[Tensor], features: Tensor) -> Tensor:
        return self.gate(features) if stage.training else features

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        with self.gated(model):
            return {"ce": F.cross_entropy(model(batch.x), batch.y)}
