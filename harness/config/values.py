"""Parse and validate a setting's value by its declared type."""

import re
import types
from fractions import Fraction
from typing import Annotated, Literal, Union, get_args, get_origin

from harness.errors import UserError, shown, unknown_name
from harness.setting_types import Declared
from methods import Setting

_DIGITS = re.compile("[+-]?[0-9_]{1,40}")


def parse_value(path: str, value: Setting, kind: Declared) -> Setting:
    """`value` as type `kind`; strings are parsed. Raises `UserError` for a value of the wrong type."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        empty = value is None or (isinstance(value, str) and value.lower() == "none")
        if empty and type(None) in get_args(kind):
            return None
        return parse_value(path, value, next(k for k in get_args(kind) if k is not type(None)))
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        several = items if isinstance(items, (tuple, list)) else (items,)
        return tuple(_parse_one(path, item, get_args(kind)[0]) for item in several)
    return _parse_one(path, value, kind)


def _parse_one(path: str, value: Setting, kind: Declared) -> bool | int | float | str:
    if get_origin(kind) is Annotated:
        return _parse_one(path, value, get_args(kind)[0])
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise unknown_name(f"{path}:", str(value), [str(v) for v in get_args(kind)])
        return str(value)
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind in (int, float) and isinstance(value, str):
        value = _parse_number(path, value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{path} takes a finite number, not {shown(value)}") from None
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UserError(f"{path} takes {_type_name(kind)}, not {shown(value)}")
    if kind is float and not abs(value) < float("inf"):
        raise UserError(f"{path} takes a finite number, not {shown(value)}")
    return value


def _parse_number(path: str, text: str) -> float | int:
    """A number as text: digits give an `int`, a quotient such as 8/255 the nearest number, all else a `float`."""
    try:
        if "/" in text:
            number = Fraction(text.replace(" ", ""))
            return int(number) if number.denominator == 1 else float(number)
        return int(text) if _DIGITS.fullmatch(text.strip()) else float(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UserError(f"{path} takes a number such as 0.03 or 8/255, not {shown(text)}") from None


def _type_name(kind: Declared) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}.get(kind, str(kind))
