"""Reproducibility: named seeds, per-image random number generators, and full float32 (no TF32)."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

SeedPart = int | float | str | tuple["SeedPart", ...]  # values whose repr is the same everywhere


def derive_seed(*parts: SeedPart) -> int:
    """A seed in [0, 2**63) from the repr of the parts, such as a seed, a purpose and an epoch."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@contextlib.contextmanager
def seeded(*parts: SeedPart, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators with `derive_seed(*parts)`; their state is restored on exit.

    device: the accelerator in use. Only its generator and the CPU's are touched: asking for another one's state would
    open a context, hundreds of MB, on every visible GPU.
    """
    seed, device = derive_seed(*parts), torch.device(device)
    accelerators = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(accelerators, device_type=device.type if accelerators else "cuda"):
        torch.default_generator.manual_seed(seed)
        for accelerator in accelerators:
            module = torch.get_device_module(accelerator)
            with module.device(accelerator):
                module.manual_seed(seed)
        yield


class PerImageRng:
    """Random numbers of a batch of images, with one seed per image.

    An image's draws depend on its seed and the number of earlier calls, not on the batch, its position or the device.
    So neither batch size nor image order changes a score. seeds (B,) int64; results are on their device.
    """

    def __init__(self, seeds: Tensor, stream: tuple[SeedPart, ...] = ()):
        self.seeds, self._path, self.calls = seeds, stream, 0

    def __len__(self) -> int:
        return len(self.seeds)

    def stream(self, *parts: SeedPart) -> "PerImageRng":
        """An independent stream for the same images, such as for a restart."""
        return PerImageRng(self.seeds, (*self._path, *parts))

    def select(self, index: Tensor | slice) -> "PerImageRng":
        """The stream of a subset of the batch, from its start."""
        return PerImageRng(self.seeds[index], self._path)

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape), uniform in [0, 1)."""
        return self._filled(torch.empty(len(self), *shape), lambda row, rng: row.uniform_(generator=rng))

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape), standard normal."""
        return self._filled(torch.empty(len(self), *shape), lambda row, rng: row.normal_(generator=rng))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64, uniform in [low, high)."""
        empty = torch.empty(len(self), *shape, dtype=torch.int64)
        return self._filled(empty, lambda row, rng: row.random_(low, high, generator=rng))

    def poisson(self, rate: Tensor) -> Tensor:
        """Poisson with mean `rate` (B, ...), of the same shape."""
        return self._filled(rate.cpu(), lambda row, rng: row.copy_(torch.poisson(row, generator=rng)))

    def _filled(self, rows: Tensor, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        rows = rows.clone(memory_format=torch.contiguous_format)  # the order of the draws
        generator = torch.Generator()
        for i, seed in enumerate(self.seeds.tolist()):
            fill(rows[i : i + 1], generator.manual_seed(derive_seed(seed, self._path, self.calls)))
        self.calls += 1
        return rows.to(self.seeds.device)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Disable TF32 for CUDA convolutions and matrix products; no other flag of cuDNN changes."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False  # `cudnn.flags` would switch cuDNN off as a whole
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
