"""Parameter randomisation: how much of an attribution map is left when the net's weights are replaced by random ones.

The first sanity check of Adebayo et al. (2018, Sanity Checks for Saliency Maps). Cascading: the layers from the output
down to the named one are initialised anew. Independent: only the named layer is.

    for layer, similar in by_layer(net, explain, x, y, "cascading", seed=0):
        similar.rank.mean(), similar.ssim.mean()

Of the paper's two variants this is the one of absolute values, not that of signed ("diverging") maps: maps are compared
as `harness.explain.similarity.importance`, absolute values summed over channels. The class y is the same for every net.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from harness.errors import UserError, first_line
from harness.explain import similarity
from harness.explain.base import Map
from harness.explain.input_gradients import chunk_size
from harness.models.freezing import frozen
from harness.randomness import seeded

Order = Literal["cascading", "independent"]


@dataclass(frozen=True)
class Similarity:
    """Of two maps per image: Spearman's rank correlation, and SSIM of the maps scaled to a maximum of 1; (B,) each."""

    rank: Tensor
    ssim: Tensor


def layers(net: nn.Module, x: Tensor) -> list[str]:
    """Names of the modules with weights of their own, from the output down, by their last call in `net(x)`.

    Those that are not called (their weights may be used otherwise) come last, in reverse order of registration.
    """
    having = {name: module for name, module in net.named_modules() if _has_weights(module)}
    calls = dict.fromkeys(having, -1)  # number of the last call

    def hook(name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            calls[name] = max(calls.values()) + 1

        return count

    handles = [module.register_forward_hook(hook(name)) for name, module in having.items()]
    try:
        with frozen(net), torch.no_grad():
            net(x)
    finally:
        for handle in handles:
            handle.remove()
    return sorted(reversed(having), key=lambda name: -calls[name])


def _has_weights(module: nn.Module) -> bool:
    """Whether it has parameters of its own, or running statistics that it can reset."""
    resets = callable(getattr(module, "reset_parameters", None))
    return any(True for _ in module.parameters(recurse=False)) or (resets and any(True for _ in module.buffers(False)))


def randomised(net: nn.Module, names: Iterable[str], *, seed: int) -> nn.Module:
    """A copy of the net with new random weights in these modules; the net itself is untouched.

    A module is initialised anew by its `reset_parameters`, with the running statistics of a batch norm. Parameters that
    this leaves as they are (of modules without it, or that compute their weight from others) are permuted. A
    module's weights depend on its name and the seed only, not on the other modules or the device. Raises `UserError`
    for a net that cannot be copied.
    """
    try:
        result = copy.deepcopy(net)
    except (RuntimeError, TypeError) as error:
        reason = first_line(error)
        raise UserError(f"{type(net).__name__} cannot be copied, so its weights cannot be replaced: {reason}") from None
    for name in names:
        with seeded(seed, "parameter randomisation", name), torch.no_grad():
            _randomise(result.get_submodule(name))
    return result


def _randomise(module: nn.Module) -> None:
    fresh = copy.deepcopy(module).cpu()  # the same numbers on every device
    if callable(reset := getattr(fresh, "reset_parameters", None)):
        reset()
    own = dict(module.named_parameters(recurse=False))
    for name, new in fresh.named_parameters(recurse=False):
        same = torch.equal(new, own[name].cpu())
        own[name].copy_(new.flatten()[torch.randperm(new.numel())].view_as(new) if same else new)
    buffers = dict(module.named_buffers(recurse=False))
    for name, buffer in fresh.named_buffers(recurse=False):
        buffers[name].copy_(buffer)


def by_layer(
    net: nn.Module, explain: Map, x: Tensor, y: Tensor, order: Order, *, seed: int, most: int = 0
) -> Iterator[tuple[str, Similarity]]:
    """Similarity of the map of class y (B,) of images x (B, C, H, W) to that of the net with random weights.

    Yields the name of each of `layers`, from the output down, with the similarities (B,). most: of so many layers only,
    evenly spaced, with the first and the last (0: of all).
    """
    names = layers(net, x[:1])
    ends = list(range(len(names)))
    if 0 < most < len(names):
        ends = [round(i * (len(names) - 1) / max(1, most - 1)) for i in range(most)]
    original = _importance(explain, net, x, y, seed)
    for end in ends:
        replaced = names[: end + 1] if order == "cascading" else [names[end]]
        other = _importance(explain, randomised(net, replaced, seed=seed), x, y, seed)
        yield names[end], _similarity(original, other)


def with_all_random(net: nn.Module, explain: Map, x: Tensor, y: Tensor, *, seed: int) -> tuple[Similarity, Similarity]:
    """Similarity of the net's map to that of the net with all weights random, the end of the cascade; and a control.

    The first is the mean over two random nets. The control is the similarity of these two: what architecture and image
    give without training.
    """
    names = layers(net, x[:1])
    original = _importance(explain, net, x, y, seed)
    one, two = (_importance(explain, randomised(net, names, seed=s), x, y, seed) for s in (seed, seed + 1))
    first, second = _similarity(original, one), _similarity(original, two)
    mean = Similarity((first.rank + second.rank) / 2, (first.ssim + second.ssim) / 2)
    return mean, _similarity(one, two)


def _importance(explain: Map, net: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
    """Importance maps (B, H, W); a random map has the same draws for every net."""
    size = chunk_size(x)
    with seeded(seed, "maps", device=x.device):
        parts = [explain.detached(net, *part) for part in zip(x.split(size), y.split(size), strict=True)]
    return similarity.importance(torch.cat(parts))


def _similarity(a: Tensor, b: Tensor) -> Similarity:
    return Similarity(similarity.spearman(a, b), similarity.ssim(_scaled(a), _scaled(b)))


def _scaled(m: Tensor) -> Tensor:
    """Maps (B, H, W) divided by their maximum; a zero map stays zero."""
    largest = m.amax((1, 2), keepdim=True)
    return m / torch.where(largest > 0, largest, 1)
