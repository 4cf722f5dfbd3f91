"""Training methods, one a module: a frozen dataclass whose fields are its hyperparameters, found by module name.

A method turns a model and a batch into named loss terms; their sum is minimised:

    def loss(self, model, batch) -> dict[str, Tensor]

Its defaults are the published values. A method that trains on maps says so by `reads_maps = True`, one that
differentiates gradients by `second_order = True`.
"""

import dataclasses
import importlib
import pkgutil
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from harness.errors import unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.batch import Batch


@runtime_checkable
class Method(Protocol):
    """What the training loop asks of a method."""

    def loss(self, model: "nn.Module", batch: "Batch") -> "dict[str, Tensor]": ...


def names() -> list[str]:
    """Every method there is, without importing one."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def make(name: str, **fields: object) -> Method:
    """The method of that module name, with its published values where `fields` says nothing."""
    if name not in names():
        raise unknown("method", name, names())
    module = importlib.import_module(f"{__name__}.{name}")
    (cls,) = (
        c
        for c in vars(module).values()
        if dataclasses.is_dataclass(c) and isinstance(c, type) and c.__module__ == module.__name__
    )
    return cls(**fields)


def name(method: Method) -> str:
    """The module name of a method: what `make` takes."""
    return type(method).__module__.rpartition(".")[2]


def reads_maps(method: Method) -> bool:
    """Whether the method trains on `batch.s`."""
    return getattr(method, "reads_maps", False)


def second_order(method: Method) -> bool:
    """Whether the method differentiates gradients, and so costs ten to a hundred training steps of `standard`."""
    return getattr(method, "second_order", False)
