"""TRADES (Zhang et al., 2019), with the settings of Mangla et al. (2020)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import pgd
from harness.data.batches import Batch
from harness.models import freezing
from harness.setting_types import Count, NonNegative, Strength


@dataclass(frozen=True)
class TRADES:
    """Cross-entropy on the clean image plus beta times KL(p(x) || p(x')), x' maximising that divergence.

    The divergence is summed over classes and averaged over the batch; gradients flow through both predictions. Zhang
    et al. use beta 6, 10 steps of 0.007 and evaluation mode in the attack. Cost: 2 + steps passes.
    """

    eps: Strength = 8 / 255
    step: Strength = 2 / 255
    steps: Count = 5
    beta: NonNegative = 1.0
    crafting: Literal["train", "eval"] = "train"

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """The images within eps of x that maximise the KL divergence from the clean prediction."""
        with freezing.frozen(model, train=self.crafting == "train"):
            return pgd.pgd_kl(model, batch.x, eps=self.eps, step=self.step, steps=self.steps)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z = self.perturb(model, batch)
        clean = model(batch.x)
        kl = F.kl_div(model(z).log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)
        return {"ce": F.cross_entropy(clean, batch.y), "kl": self.beta * kl}
