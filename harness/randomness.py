"""What makes numbers repeatable: seeds derived by name, draws that belong to an image, and full float32 for reports."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def derive(*parts: object) -> int:
    """A seed in [0, 2**63) from any parts with a stable text, such as a seed, a purpose and an epoch."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@contextlib.contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Within, the global generators start from `derive(*parts)`; after, they go on as if nothing had been drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(*parts))
        yield


class Draws:
    """Random numbers of a batch of images, each from a seed of its own.

    What an image draws depends on its seed and on what was drawn before, but not on the batch it is in, on its place
    there, or on the device: so neither the size of a batch nor the order of the images can move a score. Every call
    draws anew. seeds (B,) int64; the results lie on their device.
    """

    def __init__(self, seeds: Tensor, stream: tuple[object, ...] = ()):
        self.seeds, self.stream, self.calls = seeds, stream, 0

    def __len__(self) -> int:
        return len(self.seeds)

    def of(self, *parts: object) -> "Draws":
        """An independent stream of the same images, such as that of a restart."""
        return Draws(self.seeds, (*self.stream, *parts))

    def at(self, index: Tensor | slice) -> "Draws":
        """The stream of these images of the batch, from its beginning."""
        return Draws(self.seeds[index], self.stream)

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape), uniform in [0, 1)."""
        return self._filled(torch.empty(len(self), *shape), lambda row, of: row.uniform_(generator=of))

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape), standard normal."""
        return self._filled(torch.empty(len(self), *shape), lambda row, of: row.normal_(generator=of))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64, uniform in [low, high)."""
        empty = torch.empty(len(self), *shape, dtype=torch.int64)
        return self._filled(empty, lambda row, of: row.random_(low, high, generator=of))

    def poisson(self, rate: Tensor) -> Tensor:
        """Of rate's shape (B, ...), Poisson with that mean."""
        return self._filled(rate.cpu(), lambda row, of: row.copy_(torch.poisson(row, generator=of)))

    def _filled(self, rows: Tensor, fill: Callable[[Tensor, torch.Generator], object]) -> Tensor:
        rows = rows.clone(memory_format=torch.contiguous_format)  # draws are dealt out in this order
        generator = torch.Generator()
        for i, seed in enumerate(self.seeds.tolist()):
            fill(rows[i : i + 1], generator.manual_seed(derive(seed, self.stream, self.calls)))
        self.calls += 1
        return rows.to(self.seeds.device)


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Within, a GPU's convolutions and products are true float32, not TF32."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
