"""Attacks on attribution maps: change the map, keep the prediction (Ghorbani et al., 2019).

    attack(model, x, y, explain=..., objective=..., criteria=..., eps=..., ...) -> {criterion: AttackResult}

The ascent of `harness.attacks.pgd` runs on a smooth surrogate, the net with softplus for ReLU, which has second-order
gradients. Of all iterates that the original net still classifies as y, the result is the one whose map is least similar
to the clean map. The caller freezes the model (`harness.models.freezing.frozen`); nothing here changes it.

    explain     (net, z, y) -> attribution (B, C or 1, H, W), differentiable if z requires gradients   `Map`
    judge       the same, of the net itself: its maps are compared; None: `explain` of the surrogate    `Map`
    objective   importance of x (B, H, W) -> a function of the importance of z -> (B,), maximised
    criterion   (importance of x, importance of z) -> similarity (B,), minimised                           metrics
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks.pgd import Start, ascend
from harness.explain import similarity as explain_similarity
from harness.explain.base import Map
from harness.explain.input_gradients import check_classes, chunk_size
from harness.models.relus import softened
from harness.randomness import PerImageRng

Objective = Callable[[Tensor], Callable[[Tensor], Tensor] | None]  # None: random signs
Criterion = Callable[[Tensor, Tensor], Tensor]


def top_k(k: int) -> Objective:
    """Objective: lower the importance of the clean map's top k pixels."""

    def objective(clean: Tensor) -> Callable[[Tensor], Tensor]:
        mask = explain_similarity.top_k(clean, k)
        return lambda s: -(s * mask).sum((1, 2))

    return objective


def mass_centre(clean: Tensor) -> Callable[[Tensor], Tensor]:
    """Objective: move the centre of mass away from the clean map's. Its gradient is 0 at x: use a random start."""
    centre = explain_similarity.mass_centre(clean)
    return lambda s: (explain_similarity.mass_centre(s) - centre).square().sum(1)


def towards(target: Tensor) -> Objective:
    """Objective: make every map similar to `target` (H, W), by cosine similarity."""
    return lambda clean: lambda s: F.cosine_similarity(s.flatten(1), target.to(s).flatten()[None])


def random_signs(clean: Tensor) -> None:
    """Control: steps in random directions, with everything else as in an attack."""


@dataclass(frozen=True)
class AttackResult:
    """Perturbed images z (B, C, H, W), and the similarity (B,) of their maps to the clean ones, on the surrogate.

    kept (B,): whether any iterate kept the prediction; otherwise z is the clean image and similarity inf.
    """

    z: Tensor
    similarity: Tensor
    kept: Tensor


def attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    explain: Map,
    objective: Objective,
    criteria: Mapping[str, Criterion],
    eps: float,
    step: float,
    steps: int,
    start: Start = "uniform",
    beta: float = 50.0,
    see_last: bool = True,
    draws: PerImageRng | None = None,
    judge: Map | None = None,
    maxima: bool = True,
) -> dict[str, AttackResult]:
    """Attack the attribution maps of x within eps, keeping the prediction y; one result per criterion.

    see_last: whether to consider the iterate after the last step, too (Singh et al. do not). beta: sharpness of the
    surrogate's softplus. maxima: whether the surrogate smooths max pooling, too (published attacks do not). draws: as
    in `pgd.ascend`. Images are attacked in chunks, so that a graph holds at most
    `chunk_size` images. The attack fails on a net whose second derivative is no use: ask `harness.explain.curvature`
    once before. Raises `UserError` for a net without two classes.
    """
    if len(x):
        with torch.no_grad():
            check_classes(model(x[:1]))
    parts, surrogate = [], softened(model, beta, maxima)
    per_chunk = max(1, chunk_size(x) // explain.passes)
    for start_index in range(0, max(1, len(x)), per_chunk):
        chunk = slice(start_index, start_index + per_chunk)
        chunk_draws = draws.select(chunk) if draws else None
        tracker = _BestIterate(model, explain, judge, objective, criteria, x[chunk], y[chunk], surrogate, chunk_draws)
        with without_denormals():
            last = ascend(tracker, x[chunk], eps=eps, step=step, steps=steps, start=start, draws=chunk_draws)
            if see_last or eps == 0:
                tracker.record(last)
        parts.append(tracker.results)
    return {name: _concatenated([part[name] for part in parts]) for name in criteria}


class _BestIterate:
    """Objective of an ascent that records the best iterate per criterion."""

    def __init__(
        self,
        model: nn.Module,
        explain: Map,
        judge: Map | None,
        objective: Objective,
        criteria: Mapping[str, Criterion],
        x: Tensor,
        y: Tensor,
        surrogate: nn.Module,
        draws: PerImageRng | None,
    ):
        self.model, self.surrogate, self.explain, self.judge = model, surrogate, explain, judge
        self.y, self.criteria, self.draws, self.step = y, criteria, draws, 0
        self.clean = self._compared(x, torch.ones_like(y, dtype=torch.bool))
        self.objective = objective(self.clean)
        none = torch.zeros_like(y, dtype=torch.bool)
        self.results = {
            name: AttackResult(x, torch.full(y.shape, torch.inf, device=x.device), none) for name in criteria
        }

    def __call__(self, z: Tensor) -> Tensor:
        if self.objective is None:
            self.record(z)
            signs = self.draws.normal(*z.shape[1:]).to(z) if self.draws else torch.randn_like(z)
            return (z * signs).sum((1, 2, 3))
        s = self._attacked(z)
        self.record(z, s if self.judge is None else None)
        return self.objective(s)

    def record(self, z: Tensor, s: Tensor | None = None) -> None:
        """Record z, per criterion, where it keeps the prediction and has the lowest similarity so far.

        s: the importance to compare, if it is known.
        """
        with torch.no_grad():
            z = z.detach()
            kept = self.model(z).argmax(1) == self.y
            s = self._compared(z, kept) if s is None else s.detach()
            for name, criterion in self.criteria.items():
                best, similarity = self.results[name], criterion(self.clean, s)
                better = kept & (similarity < best.similarity)
                self.results[name] = AttackResult(
                    torch.where(better[:, None, None, None], z, best.z),
                    torch.where(better, similarity, best.similarity),
                    best.kept | kept,
                )

    def _attacked(self, z: Tensor) -> Tensor:
        explain, self.step = self.explain.at_step(self.step), self.step + 1
        return explain_similarity.importance(explain(self.surrogate, z, self.y))

    def _compared(self, z: Tensor, kept: Tensor) -> Tensor:
        """The importance by which iterates are compared; 0 for those that are out of the running."""
        if self.judge is None:
            return explain_similarity.importance(self.explain(self.surrogate, z, self.y))
        s = torch.zeros_like(z[:, 0])
        if kept.any():
            s[kept] = explain_similarity.importance(self.judge(self.model, z[kept], self.y[kept]))
        return s


@functools.cache
def _start_threads() -> None:
    """Start torch's further threads: begun later, they would round denormal numbers to 0 for good."""
    torch.ones(1 << 20).mul_(1)


@contextlib.contextmanager
def without_denormals() -> Iterator[None]:
    """Round denormal numbers to 0 on the CPU, in this thread: arithmetic with them is many times slower.

    Second derivatives of softplus are full of them, where it is nearly linear or nearly 0. Torch's further threads, if
    it has any, keep them.
    """
    _start_threads()
    before = not bool(torch.tensor(torch.finfo(torch.float32).tiny) / 2)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _concatenated(parts: list[AttackResult]) -> AttackResult:
    return AttackResult(*(torch.cat([getattr(p, f) for p in parts]) for f in ("z", "similarity", "kept")))
