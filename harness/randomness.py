"""Reproducibility: named seeds, per-image random number generators, and full float32 (no TF32)."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from harness import counter_rng

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


# Words that are made together: as many as fit a CPU's cache, or as an accelerator easily holds.
WORDS = {"cpu": 2**14, "cuda": 2**22}


class PerImageRng:
    """Random numbers of a batch of images, with one seed per image.

    An image's draws depend on its seed, the stream, the number of earlier calls and the shape, not on the batch or its
    position. So neither batch size nor image order changes a score. seeds (B,) int64; results are made on their device.
    Uniform numbers and integers are the same on every device. Normal numbers agree to 1e-6, and Poisson numbers but for
    the rare ones that rounding in float64 decides.
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
        """(B, *shape) float32, uniform in [0, 1): multiples of 2^-24."""
        return self._filled(shape, torch.float32, 2, lambda words, out, rows: counter_rng.uniform(words, out))

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal."""
        return self._filled(shape, torch.float32, 2, lambda words, out, rows: counter_rng.normal(words, out))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64, uniform in [low, high), to 2^-33. Raises `ValueError` unless 0 < high - low < 2^31."""
        count = high - low
        if not 0 < count < 2**31:
            raise ValueError(f"there are {count} integers from {low} to below {high}: not 1 to 2^31 - 1")

        def fill(words: Tensor, out: Tensor, rows: slice) -> Tensor:
            return counter_rng.integers(words, count, out).add_(low)

        return self._filled(shape, torch.int64, 1, fill)

    def poisson(self, rate: Tensor) -> Tensor:
        """Poisson with mean `rate` (B, ...), of the same shape and type."""
        shape = rate.shape[1:]
        rates = rate.reshape(len(self), math.prod(shape))

        def fill(words: Tensor, out: Tensor, rows: slice) -> Tensor:
            normal = counter_rng.normal(words, torch.empty_like(out, dtype=torch.float64))
            return counter_rng.poisson_quantile(normal, rates[rows].double(), out)

        return self._filled(shape, rate.dtype, 2, fill)

    def _filled(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        per_word: int,
        fill: Callable[[Tensor, Tensor, slice], Tensor],
    ) -> Tensor:
        """(B, *shape), some images at a time by `fill(words, out, rows)`, with `per_word` numbers of each word."""
        keys = counter_rng.mix(self.seeds + derive_seed(self._path, self.calls))
        self.calls += 1
        size = math.prod(shape)
        out = torch.empty(len(self), size, dtype=dtype, device=keys.device)
        count = math.ceil(size / per_word)
        step = max(1, WORDS.get(keys.device.type, WORDS["cuda"]) // max(1, count))
        for first in range(0, len(self), step):
            rows = slice(first, first + step)
            fill(counter_rng.words(keys[rows], count), out[rows], rows)
        return out.view(len(self), *shape)


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
