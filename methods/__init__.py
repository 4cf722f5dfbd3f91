"""Training methods, one per module: a frozen dataclass of hyperparameters, looked up by module name.

A method computes named loss terms from a model and a batch; the training loop minimises their sum:

    def loss(self, model, batch) -> dict[str, Tensor]

The defaults are the published values. A method that trains on maps sets `reads_maps = True`; one that differentiates
gradients sets `second_order = True`.
"""

import dataclasses
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from harness.errors import UserError, one_line, unknown_name
from harness.setting_types import Setting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.data.batches import Batch


@runtime_checkable
class Method(Protocol):
    """Interface between a training method, a dataclass, and the training loop."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def loss(self, model: "nn.Module", batch: "Batch") -> "dict[str, Tensor]": ...


def names() -> list[str]:
    """The names of all methods, without importing them."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def make(name: str, **fields: Setting) -> Method:
    """Build the method of module `name`; `fields` override its published values. Raises `UserError` if wrong."""
    if name not in names():
        raise unknown_name("method", name, names())
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except Exception as error:  # of anybody's code
        raise UserError(f"method {name!r} cannot be read: {one_line(error)}") from error
    classes: list[type[Method]] = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and c.__module__ == module.__name__ and hasattr(c, "__dataclass_fields__")
    ]
    if len(classes) != 1:
        raise UserError(f"method {name!r} must define one dataclass, its settings, not {len(classes)}")
    return classes[0](**fields)


def name(method: Method) -> str:
    """The module name of a method, as for `make`."""
    return type(method).__module__.rpartition(".")[2]


def reads_maps(method: Method) -> bool:
    """Whether the method trains on `batch.s`."""
    return getattr(method, "reads_maps", False)


def second_order(method: Method) -> bool:
    """Whether the method differentiates gradients; a training step then costs 10 to 100 of `standard`."""
    return getattr(method, "second_order", False)
