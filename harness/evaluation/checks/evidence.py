"""Input (`Evidence`) and result (`Check`) of a check."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from harness.errors import UserError
from harness.randomness import PerImageRng


@dataclass(frozen=True)
class Check:
    """Result of one check. passed: None if not applicable. numbers: measured values. about: one sentence with them."""

    name: str
    passed: bool | None
    numbers: dict[str, float]
    about: str


def format_checks(checks: Sequence[Check]) -> list[str]:
    """Lines of text: one per failed check (`doubt`), then the names of those passed and not asked."""
    lines = [f"doubt: {c.name}: {c.about}" for c in checks if c.passed is False]
    for passed, title in ((True, "checks passed"), (None, "not asked")):
        names = ", ".join(c.name for c in checks if c.passed is passed)
        lines += [f"{title}: {names}"] if names else []
    return lines


@dataclass(frozen=True)
class Evidence:
    """An evaluation to be checked: model, sample images, scores and stored adversarial examples.

    model: in evaluation mode, with frozen parameters (`models.freezing.frozen`). x (B, C, H, W) in [0, 1] and y (B,):
    some 128 to 256 of the evaluated images. draws: their random numbers, on the same device. eps, step, steps: of the
    measured PGD, on the [0, 1] scale. scores: values per image of the split by score name without the split, such as
    `clean`, `pgd10x3-8`, `l2-pgd10-128`; 1 correct, 0 misclassified, NaN not counted. index: positions of x in these
    values; None: the first B. stored: by score name, adversarial examples of the first (or all) of x, and whether the
    score counts them as correct. other: a frozen net of another seed on the same data. lower: scores of attacks in
    bfloat16, before confirmation in float32.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    draws: PerImageRng
    eps: float
    step: float
    steps: int
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    index: np.ndarray | None = None
    stored: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    other: nn.Module | None = None
    lower: Mapping[str, np.ndarray] = field(default_factory=dict)

    def select(self, which: Tensor) -> "Evidence":
        """The same evaluation with only the sample images `which` (B,) bool; scores of the split stay whole."""
        (kept,) = which.nonzero(as_tuple=True)
        index = np.arange(len(self.x)) if self.index is None else self.index
        stored = {name: (z[which[: len(z)]], claimed[which[: len(z)]]) for name, (z, claimed) in self.stored.items()}
        return dataclasses.replace(
            self,
            x=self.x[kept],
            y=self.y[kept],
            draws=self.draws.select(kept),
            index=index[kept.cpu().numpy()],
            stored=stored,
        )


def check_range(x: Tensor) -> None:
    """Raise `UserError` unless x is in [0, 1], within 1e-6."""
    low, high = float(x.min()), float(x.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise UserError(f"images must lie in [0, 1], not in [{low:.4g}, {high:.4g}]; a net normalises them itself")
