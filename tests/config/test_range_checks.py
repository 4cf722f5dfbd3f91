"""Bounds of settings: every number declares its own, and what is out of them is named in one line."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, get_args

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt

import methods
from harness import setting_types
from harness.config.range_checks import Bound, check_bounds, declarations, declared_types
from harness.config.trial import Trial, build
from harness.data.settings import Augment, DataSource
from harness.errors import UserError
from harness.evaluation.settings import Attribution, Measure
from harness.setting_types import Count, PixelScale, Share, Strength, Unbounded
from harness.training.settings import Maps, Optim

SETTINGS = (Trial, DataSource, Augment, Optim, Maps, Measure, Attribution)
TYPES = [name for name, kind in vars(setting_types).items() if hasattr(kind, "__metadata__")]


def number(kind):
    """Whether a type is int or float, or made of one."""
    return kind in (int, float) or any(map(number, get_args(kind)))


@pytest.mark.parametrize("cls", [*SETTINGS, *(type(methods.make(name)) for name in methods.names())])
def test_every_number_declares_its_bounds(cls):
    for name, kind in declared_types(cls).items():
        declared = any(isinstance(d, Bound | Unbounded) for d in declarations(kind))
        assert declared or not number(kind), (
            f"{cls.__module__}: {name} is a number without bounds. Write `{name}: Share` or another type of"
            f" harness/setting_types.py ({', '.join(TYPES)}); AnyNumber if it has none."
        )


def test_no_setting_has_the_bounds_of_another_of_its_name():
    @dataclass(frozen=True)
    class Newcomer:
        beta: float = -1.0
        k: Share = 0.5

    check_bounds(Newcomer())
    with pytest.raises(UserError, match=r"^k must lie in \[0, 1\], not 3$"):
        check_bounds(Newcomer(k=3))


@pytest.mark.parametrize(
    ("kind", "inside", "outside", "rule"),
    [
        (Annotated[int, Ge(2)], [2, 3], [1, -5], "must be at least 2"),
        (Annotated[float, Gt(0)], [1e-9, 5.0], [0.0, -1.0], "must be positive"),
        (Annotated[float, Gt(2)], [2.1], [2], "must be above 2"),
        (Annotated[float, Le(3)], [3, -9], [3.1], "must be at most 3"),
        (Annotated[float, Lt(3)], [2.9], [3], "must be below 3"),
        (Annotated[float, Interval(ge=0, lt=1)], [0, 0.99], [1.0, -0.01], "must lie in [0, 1)"),
        (Annotated[float, Interval(gt=0, le=1)], [0.01, 1], [0, 1.01], "must lie in (0, 1]"),
        (Annotated[int, Ge(1), Le(3)], [1, 3], [4], "must be at most 3"),
        (Count | None, [1, None], [0], "must be at least 1"),
        (tuple[Strength, ...], [(0.0, 1.0), (0.5,)], [(0.5, -0.1)], "must be at least 0"),
        (Annotated[float, Unbounded()], [-math.inf, 1e300], [], ""),
    ],
)
def test_bounds_by_hand(kind, inside, outside, rule):
    cls = dataclasses.make_dataclass("Made", [("one", kind)])
    for value in inside:
        check_bounds(cls(value))
    for value in outside:
        with pytest.raises(UserError) as mistake:
            check_bounds(cls(value))
        assert str(mistake.value) == f"one {rule}, not {value!r}"


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("measure.step", {}),
        ("measure.eps", {}),
        ("method.step", {"method": "pgd"}),
        ("method.eps", {"method": "trades_sat"}),
        ("attribution.step", {"measure.suites": "attribution"}),
    ],
)
def test_a_strength_in_255ths_is_refused(path, settings):
    """2 for 2/255 would be 510/255."""
    shown = "(2.0,)" if path == "measure.eps" else "2.0"
    with pytest.raises(UserError) as mistake:
        build({**settings, path: "2"})
    assert str(mistake.value) == f"{path} is on the [0, 1] scale of pixels, such as 8/255; {shown} is beyond it"
    assert build({**settings, path: "2/255"}) != build(settings)


def test_a_strength_is_what_is_on_the_scale_of_pixels():
    assert {
        f"{cls.__name__}.{name}"
        for cls in (Measure, Attribution, type(methods.make("art")))
        for name, kind in declared_types(cls).items()
        if PixelScale() in declarations(kind)
    } == {f"{cls}.{name}" for cls in ("Measure", "Attribution", "ART") for name in ("eps", "step")}
