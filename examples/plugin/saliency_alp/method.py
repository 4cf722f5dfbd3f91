"""Adversarial logit pairing (Kannan, Kurakin and Goodfellow, 2018)."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.batches import Batch
from harness.setting_types import NonNegative
from methods.pgd import PGD


@dataclass(frozen=True)
class ALP(PGD):
    """Mean cross-entropy of the clean image and its PGD example, and the mean squared difference of their logits.

    weight: of that difference, 0.5 on ImageNet in the paper. Cost: 2 + steps passes per batch.
    """

    weight: NonNegative = 0.5

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        attacked, clean = model(self.perturb(model, batch)), model(batch.x)
        ce = (F.cross_entropy(clean, batch.y) + F.cross_entropy(attacked, batch.y)) / 2
        return {"ce": ce, "pairing": self.weight * F.mse_loss(attacked, clean)}
