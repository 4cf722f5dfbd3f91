"""Training on clean images: the row "Original" of Mangla et al. (2020)."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.batches import Batch


@dataclass(frozen=True)
class Standard:
    """Cross-entropy on the clean image. Cost: one training step per batch; the unit of all other costs."""

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(model(batch.x), batch.y)}
