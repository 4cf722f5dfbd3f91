"""Inner maximisation of second-order methods: PGD on an objective of input gradients."""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from harness.attacks import pgd
from harness.data.batches import Batch
from harness.models import freezing


class Ascending(Protocol):
    """A method with an objective for its perturbed image."""

    @property
    def eps(self) -> float: ...
    @property
    def step(self) -> float: ...
    @property
    def steps(self) -> int: ...
    @property
    def crafting(self) -> Literal["train", "eval"]: ...

    def objective(self, model: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]: ...


def perturbed(method: Ascending, model: nn.Module, batch: Batch) -> Tensor:
    """The images within eps of x that maximise the method's objective, in float32 also under bfloat16 training."""
    with (
        freezing.frozen(model, train=method.crafting == "train"),
        torch.autocast(batch.x.device.type, enabled=False),
    ):
        objective = method.objective(model, batch)
        return pgd.ascend(objective, batch.x, eps=method.eps, step=method.step, steps=method.steps)
