"""Types of settings that are numbers: each declares its bounds, which `harness.config.range_checks` enforces.

A field of a settings class or a training method has one of these types, or its own, such as `Annotated[int, Ge(2)]`.
One that trials of earlier versions did not have is declared by `later`.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

from annotated_types import Ge, Gt, Interval, Le

# The value of a hyperparameter, or other setting.
Setting: TypeAlias = bool | int | float | str | tuple[int | float | str, ...] | None
# The type that a setting declares: a class, a union, `Annotated[...]` and so on, which have no type in common.
Declared: TypeAlias = Any
_Default = TypeVar("_Default")
_LATER = "later"


def later(default: _Default) -> _Default:
    """A setting that an earlier version did not have: `crop: SideOrZero = later(0)`.

    Its default must mean what that version did. It is then not in the trial key, so that existing keys stay.
    """
    return dataclasses.field(default=default, metadata={_LATER: True})


def is_new(field: "dataclasses.Field[Any]", value: Setting) -> bool:
    """Whether a field was declared by `later` and has its default: an earlier version had no such setting."""
    return _LATER in field.metadata and value == field.default


@dataclass(frozen=True)
class PixelScale:
    """A number on the [0, 1] scale of pixels: at most 1, and shown in 255ths."""


@dataclass(frozen=True)
class Unbounded:
    """A number without bounds."""


# The upper bounds are far beyond any use: they refuse what would only fill the memory or overflow.
Count = Annotated[int, Ge(1), Le(1_000_000)]
CountOrZero = Annotated[int, Ge(0), Le(1_000_000_000)]
SideOrZero = Annotated[int, Ge(0), Le(4096)]  # pixels of a height and width
BatchSize = Annotated[int, Ge(2), Le(65_536)]
Seed = Annotated[int, Ge(-(2**63) + 1), Le(2**63 - 1)]

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
ProperShareOrZero = Annotated[float, Interval(ge=0, lt=1)]
ProperShare = Annotated[float, Interval(gt=0, lt=1)]
Decay = Annotated[float, Interval(ge=0, lt=1)]
Strength = Annotated[float, Ge(0), PixelScale()]
AnyNumber = Annotated[float, Unbounded()]
