"""Adversarial training on PGD examples (Madry et al., 2018), with the settings of Mangla et al. (2020)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import pgd
from harness.data.batches import Batch
from harness.models import freezing
from harness.setting_types import Count, Strength


@dataclass(frozen=True)
class PGD:
    """Cross-entropy on the PGD example only.

    eps, step on the [0, 1] scale. crafting: mode of the net in the attack; the published scripts leave it in training
    mode. Madry's CIFAR-10 settings are steps 10 (7 in his library). Cost: 1 + steps passes per batch.
    """

    eps: Strength = 8 / 255
    step: Strength = 2 / 255
    steps: Count = 5
    crafting: Literal["train", "eval"] = "train"

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """The PGD examples of the batch."""
        with freezing.frozen(model, train=self.crafting == "train"):
            return pgd.pgd(model, batch.x, batch.y, eps=self.eps, step=self.step, steps=self.steps)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(model(self.perturb(model, batch)), batch.y)}
