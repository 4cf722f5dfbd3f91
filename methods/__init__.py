"""Training methods, one per module: a frozen dataclass of hyperparameters, looked up by module name.

A method computes named loss terms from a model and a batch; the training loop minimises their sum:

    def loss(self, model, batch) -> dict[str, Tensor]

The defaults are the published values. A method that trains on maps sets `reads_maps = True`; one that differentiates
gradients sets `second_order = True`. One of your own is `METHODS["path/to/alp.py:ALP"]`.
"""

import dataclasses
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from harness import plugins
from harness.errors import UserError, one_line
from harness.plugins import Thing
from harness.plugins.registry import Modules, Registry
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


def _load(name: str) -> type[Method]:
    """Import the dataclass of one of our modules."""
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
    return classes[0]


def _check(thing: Thing) -> type[Method]:
    """A plug-in's method: a frozen dataclass with a `loss`, whose fields all have defaults."""
    if not isinstance(thing, type) or not dataclasses.is_dataclass(thing) or not callable(getattr(thing, "loss", None)):
        raise UserError("a method is a frozen dataclass with loss(self, model, batch) -> {name: Tensor}")
    kind: Thing = thing
    if not kind.__dataclass_params__.frozen:
        raise UserError("its dataclass must be frozen: @dataclass(frozen=True)")
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory]  # both are MISSING
    if required:
        raise UserError(f"its setting {required[0]!r} needs a default, the published value")
    return kind


METHODS: Registry[type[Method]] = Registry("method", "methods", Modules(names, _load), _check)


def make(name: str, **fields: Setting) -> Method:
    """Build the method of module `name`, or of a plug-in; `fields` override its published values.

    Raises `UserError` if the name is not known, or the method is wrong.
    """
    return METHODS.find(name)(**fields)


def name(method: Method) -> str:
    """The module name of a method, or the reference of a plug-in, as for `make`."""
    module, _, own = type(method).__module__.rpartition(".")
    return own if module == __name__ else plugins.reference(type(method))


def reads_maps(method: Method) -> bool:
    """Whether the method trains on `batch.s`."""
    return getattr(method, "reads_maps", False)


def second_order(method: Method) -> bool:
    """Whether the method differentiates gradients; a training step then costs 10 to 100 of `standard`."""
    return getattr(method, "second_order", False)
