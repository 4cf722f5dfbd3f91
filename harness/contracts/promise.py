"""A promise, and how its functions say that it is broken."""

from collections.abc import Callable

import torch
from torch import Tensor

Promise = Callable[[str], None]  # of a name of the kind, or a reference; raises `AssertionError`


def require(kept: bool | Tensor, says: str) -> None:
    """Raise `AssertionError` that says what is wrong, unless it is kept. Unlike `assert`, under `python -O` too."""
    if not kept:
        raise AssertionError(says)


def require_close(one: Tensor, other: Tensor, says: str, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Raise `AssertionError` that says what is wrong, unless two tensors agree."""
    torch.testing.assert_close(one, other, rtol=rtol, atol=atol, msg=lambda more: f"{says}\n{more}")


def title(promise: Promise) -> str:
    """A promise in words, by the name of its function."""
    return str(getattr(promise, "__name__", promise)).replace("_", " ")
