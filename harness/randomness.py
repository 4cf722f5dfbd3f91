"""What makes numbers repeatable: seeds derived by name, and full float32 where a number is reported."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive(*parts: object) -> int:
    """A seed in [0, 2**63) from any parts with a stable text, such as a seed, a purpose and an epoch."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@contextlib.contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Within, the global generators start from `derive(*parts)`; after, they go on as if nothing had been drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(*parts))
        yield


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
