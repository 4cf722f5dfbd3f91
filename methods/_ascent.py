"""What the methods of second order share: the image that maximises an objective which is made of gradients."""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from harness import attacks
from harness.batch import Batch


class Ascending(Protocol):
    """A method that says what its perturbed image maximises."""

    eps: float
    step: float
    steps: int
    crafting: Literal["train", "eval"]

    def objective(self, model: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]: ...


def perturbed(method: Ascending, model: nn.Module, batch: Batch) -> Tensor:
    """The image near each x that maximises the method's objective; in float32, also while training is in bfloat16."""
    with (
        attacks.frozen(model, train=method.crafting == "train"),
        torch.autocast(batch.x.device.type, enabled=False),
    ):
        objective = method.objective(model, batch)
        return attacks.ascend(objective, batch.x, eps=method.eps, step=method.step, steps=method.steps)
