"""Cost of an evaluation: PGD compared with other libraries on the same net and images, and every corruption."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from harness.bench.other_libraries import PEERS, Attack
from harness.data.batches import Batch
from harness.data.corruptions import registry
from harness.data.datasets import Split
from harness.errors import UserError
from harness.evaluation import batching, measurements
from harness.models.freezing import frozen
from harness.randomness import PerImageRng, full_float32

HARNESS = "here"  # name of the harness's own PGD in the figures


@dataclass(frozen=True)
class LibraryResult:
    """seconds: per round. correct: which images are still classified correctly under attack, of all rounds (N,)."""

    seconds: list[float]
    correct: Tensor

    def compare(self, other: "LibraryResult") -> tuple[int, int, float]:
        """Images that only the other attack fools, that only this one fools, and the p-value of a sign test."""
        only_self = int((~self.correct & other.correct).sum())
        only_other = int((self.correct & ~other.correct).sum())
        total = only_self + only_other
        return only_other, only_self, binomtest(only_self, total).pvalue if total else 1.0


def compare_pgd(
    model: nn.Module, split: Split, classes: int, *, eps: float, steps: int, images: int, rounds: int
) -> tuple[dict[str, LibraryResult], list[str]]:
    """Time PGD of every installed library on the same images, in turn. Also returns the libraries not installed.

    A round is a full evaluation, from images and labels to correctness under attack. All images are classified
    correctly when clean, so that no library gains by skipping others. Raises `UserError` if there are too few.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        return _time_libraries(model, split, classes, eps, steps, images, rounds)


def _time_libraries(
    model: nn.Module, split: Split, classes: int, eps: float, steps: int, images: int, rounds: int
) -> tuple[dict[str, LibraryResult], list[str]]:
    step = 2.5 * eps / steps
    metric = measurements.pgd(eps, step, steps).metric

    def here(sample: Split, number: int) -> Tensor:
        robust = metric(model, batching.to_batch(sample, PerImageRng(batching.image_seeds(sample), (number,))))
        assert isinstance(robust, Tensor)  # one score
        return robust

    attacks: dict[str, Callable[[Split, int], Tensor]] = {HARNESS: here}
    missing = []
    for name, peer in PEERS.items():
        try:
            peer_attack = peer(model, classes=classes, shape=split.shape, eps=eps, step=step, steps=steps)
        except ImportError:
            missing.append(name)
            continue
        attacks[name] = partial(_robust, model, peer_attack)
    seconds: dict[str, list[float]] = {name: [] for name in attacks}
    correct: dict[str, list[Tensor]] = {name: [] for name in attacks}
    model.eval()
    with full_float32():
        clean = (
            torch.cat([measurements.accuracy(model, batch) for batch in batching.to_batches(split)])
            .nonzero()
            .squeeze(1)
        )
        if len(clean) < images * rounds:
            requested = f"{rounds} rounds of {images} images"
            raise UserError(
                f"{requested} are more than the {len(clean)} test images classified correctly; lower --images"
            )
        split = split.at(clean)
        for attack in attacks.values():
            attack(split.head(8), 0)  # warm-up
        for number in range(rounds):
            sample = split.at(slice(number * images, (number + 1) * images))
            names = list(attacks)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                began = time.perf_counter()
                # The harness freezes the parameters in an attack; other libraries run as their users would run them.
                with frozen(model) if name == HARNESS else torch.enable_grad():
                    robust = attacks[name](sample, number).cpu()
                seconds[name].append(time.perf_counter() - began)
                correct[name].append(robust.bool())
    return {name: LibraryResult(seconds[name], torch.cat(correct[name])) for name in attacks}, missing


def _robust(model: nn.Module, attack: Attack, sample: Split, number: int) -> Tensor:
    """Which images are correct both clean and attacked, as a user of the library would measure it in any round."""
    x = sample.x.float().div(255)
    clean = measurements.accuracy(model, Batch(x, sample.y))
    return clean * measurements.accuracy(model, Batch(attack(x, sample.y).float(), sample.y))


def corruption_seconds(split: Split) -> dict[str, list[float]]:
    """Seconds of every corruption on these images, one value per severity."""
    seconds: dict[str, list[float]] = {}
    seeds = batching.image_seeds(split)
    for name in registry.CORRUPTIONS:
        registry.corrupt(name, batching.to_batch(split.head(1)).x, 1, PerImageRng(seeds[:1]))  # fills caches
        for severity in range(1, 6):
            began = time.perf_counter()
            size = batching.chunk_size(split.x)
            for first in range(0, len(split), size):
                chunk = slice(first, first + size)
                x, draws = batching.to_batch(split.at(chunk)).x, PerImageRng(seeds[chunk], (name, severity))
                registry.corrupt(name, x, severity, draws)
            seconds.setdefault(name, []).append(time.perf_counter() - began)
    return seconds
