"""Seeds derived by name: adding one draw never moves another."""

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
