"""Range checks of settings, by the bounds that their types declare (`harness.setting_types`)."""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Annotated, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt

from harness.errors import UserError, shown
from harness.setting_types import Declared, PixelScale

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Bound = Ge | Gt | Le | Lt | Interval | PixelScale


def _declared_types(cls: type) -> dict[str, Declared]:
    """The types of a dataclass' fields by name, with what they declare."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


declared_types: Callable[[type], dict[str, Declared]] = cache(_declared_types)


@cache
def declarations(kind: Declared) -> tuple[object, ...]:
    """Bounds, `PixelScale` and `Unbounded` of a number's type; of the numbers in `T | None` and `tuple[T, ...]`."""
    if get_origin(kind) is Annotated:
        return kind.__metadata__
    return tuple(declared for inner in get_args(kind) for declared in declarations(inner))


def check_bounds(settings: "DataclassInstance", group: str = "") -> None:
    """Check the numbers of a dataclass and of those in it. Raises `UserError` for a value out of its bounds."""
    for name, kind in declared_types(type(settings)).items():
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            check_bounds(value, f"{name}.")
        elif value is not None:
            _check(f"{group}{name}", value, [d for d in declarations(kind) if isinstance(d, Bound)])


def _check(path: str, value: float | tuple[float, ...], bounds: list[Bound]) -> None:
    if bounds and value == ():
        raise UserError(f"{path} takes one number or more, not none")
    if bounds and not all(isinstance(one, int | float) for one in (value if isinstance(value, tuple) else (value,))):
        raise UserError(
            f"{path} takes a number, not {shown(value)}"
        )  # a default of a plug-in, which no text was read as
    for bound in bounds:
        inside, rule = _rule(bound)
        if not all(map(inside, value if isinstance(value, tuple) else (value,))):
            message = f"{rule}; {shown(value)} is beyond it" if bound == PixelScale() else f"{rule}, not {shown(value)}"
            raise UserError(f"{path} {message}")


def _rule(bound: Bound) -> tuple[Callable[[float], bool], str]:
    """Whether a number is inside a bound, and the bound in words."""
    match bound:
        case Ge(least):
            return lambda number: number >= least, f"must be at least {least}"
        case Gt(0):
            return lambda number: number > 0, "must be positive"
        case Gt(low):
            return lambda number: number > low, f"must be above {low}"
        case Le(high):
            return lambda number: number <= high, f"must be at most {high}"
        case Lt(high):
            return lambda number: number < high, f"must be below {high}"
        case PixelScale():
            return lambda number: number <= 1, "is on the [0, 1] scale of pixels, such as 8/255"
    (above, _), (below, _) = (_rule(side) for side in bound if isinstance(side, Bound))
    start = f"({bound.gt}" if bound.ge is None else f"[{bound.ge}"
    end = f"{bound.lt})" if bound.le is None else f"{bound.le}]"
    return lambda number: above(number) and below(number), f"must lie in {start}, {end}"
