"""What an evaluation costs: PGD against other libraries on the same net and images, and every corruption."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from harness import corruptions, measurements, measuring
from harness.attacks import frozen
from harness.batch import Batch
from harness.bench.peers import PEERS
from harness.datasets import Split
from harness.errors import Mistake
from harness.randomness import Draws, exact

HERE = "here"


@dataclass(frozen=True)
class Side:
    """seconds: of every round. right: which images are still classified correctly, of all rounds. (N,)"""

    seconds: list[float]
    right: Tensor

    def against(self, other: "Side") -> tuple[int, int, float]:
        """Images that only the other side breaks, that only this one does, and the p of as uneven a share by chance."""
        mine, theirs = int((~self.right & other.right).sum()), int((self.right & ~other.right).sum())
        return theirs, mine, binomtest(mine, mine + theirs).pvalue if mine + theirs else 1.0


def side_by_side(
    model: nn.Module, split: Split, classes: int, *, eps: float, steps: int, images: int, rounds: int
) -> tuple[dict[str, Side], list[str]]:
    """PGD of every library that is installed, in turns on the same images; and the names of those that are not.

    A round is an evaluation: from images and labels to who is still classified correctly. The images are such as are
    classified correctly at first, so that no side gains by passing over the others.
    """
    settings = {"eps": eps, "step": 2.5 * eps / steps, "steps": steps}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library's warnings are its own affair
        return _sides(model, split, classes, settings, images, rounds)


def _sides(model, split, classes, settings, images, rounds) -> tuple[dict[str, Side], list[str]]:
    shape = tuple(split.x.shape[1:])
    metric = measurements.pgd(**settings).metric
    sides: dict[str, Callable[[Split, int], Tensor]] = {}
    sides[HERE] = lambda some, number: metric(model, measuring.batch(some, Draws(measuring.seeds(some), (number,))))
    missing = []
    for name, peer in PEERS.items():
        try:
            attack = peer(model, classes=classes, shape=shape, **settings)
        except ImportError:
            missing.append(name)
            continue
        sides[name] = lambda some, number, attack=attack: _asked(model, attack, some)
    seconds, right = {name: [] for name in sides}, {name: [] for name in sides}
    model.eval()
    with exact():
        kept = (
            torch.cat([measurements.accuracy(model, batch) for batch in measuring.chunks(split)]).nonzero().squeeze(1)
        )
        if len(kept) < images * rounds:
            asked = f"{rounds} rounds of {images} images"
            raise Mistake(f"{asked} are more than the {len(kept)} test images classified correctly; lower --images")
        split = split.at(kept)
        for side in sides.values():
            side(split.head(8), 0)  # the first call of anything is slow
        for number in range(rounds):
            some = split.at(slice(number * images, (number + 1) * images))
            names = list(sides)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                began = time.perf_counter()
                # Ours asks no parameter for a gradient; what the others do is theirs.
                with frozen(model) if name == HERE else torch.enable_grad():
                    verdict = sides[name](some, number).cpu()
                seconds[name].append(time.perf_counter() - began)
                right[name].append(verdict.bool())
    return {name: Side(seconds[name], torch.cat(right[name])) for name in sides}, missing


def _asked(model: nn.Module, attack: Callable[[Tensor, Tensor], Tensor], some: Split) -> Tensor:
    """Right before and after the attack, the way a user of that library would ask."""
    x = some.x.float().div(255)
    before = measurements.accuracy(model, Batch(x, some.y))
    return before * measurements.accuracy(model, Batch(attack(x, some.y).float(), some.y))


def corruption_seconds(split: Split) -> dict[str, list[float]]:
    """Seconds that every corruption takes on these images, a figure per severity."""
    seconds: dict[str, list[float]] = {}
    own = measuring.seeds(split)
    for name in corruptions.CORRUPTIONS:
        corruptions.corrupt(name, measuring.batch(split.head(1)).x, 1, Draws(own[:1]))  # what is made once
        for severity in range(1, 6):
            began = time.perf_counter()
            size = measuring.at_once(split.x)
            for first in range(0, len(split), size):
                some = slice(first, first + size)
                x, draws = measuring.batch(split.at(some)).x, Draws(own[some], (name, severity))
                corruptions.corrupt(name, x, severity, draws)
            seconds.setdefault(name, []).append(time.perf_counter() - began)
    return seconds
