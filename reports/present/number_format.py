"""Format numbers and settings: per cent, points, seconds, 255ths; a dash for missing values."""

import ast
import math
from collections.abc import Sequence

from harness.evaluation.metrics import SHARE, Unit
from methods import Setting
from reports.analyse.missing import is_missing

NONE = "–"  # a missing figure


def percent(share: float) -> str:
    """0.7123 -> `71.2`; a missing value -> a dash."""
    return in_unit(share, SHARE)


def in_unit(value: float, unit: Unit, sign: str = "") -> str:
    """A score in the unit of its metric: per cent with one decimal, else four figures. sign: `+` to show that too."""
    if is_missing(value):
        return NONE
    return _minus(format(unit.scale * value, f"{sign}.1f" if unit.name == "%" else f"{sign}.4g"))


def points(difference: float, half: float = math.nan, unit: Unit = SHARE) -> str:
    """A signed difference of shares in percentage points, or of other scores in their unit: `+12.4 ± 2.0`."""
    number = in_unit(difference, unit, "+")
    return number if is_missing(difference) or is_missing(half) else f"{number} ± {in_unit(half, unit)}"


def with_interval(mean: float, half: float, unit: Unit = SHARE) -> str:
    """`71.2 ± 1.3`; the mean alone without an interval."""
    number = in_unit(mean, unit)
    return number if is_missing(mean) or is_missing(half) else f"{number} ± {in_unit(half, unit)}"


def correlation(value: float) -> str:
    """A correlation with two decimals: `0.04`, `−0.12`."""
    return NONE if is_missing(value) else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def seconds(value: float) -> str:
    """Device-seconds: without decimals from ten on, with one or two below."""
    if is_missing(value):
        return NONE
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def number(value: float | None) -> str:
    """A count, or a mean of counts: `64`, `63.3`."""
    return NONE if is_missing(value) else f"{value:,.1f}".removesuffix(".0")


def duration(value: float) -> str:
    """Seconds as days, hours, minutes or seconds."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} seconds"


def setting(path: str, text: str) -> str:
    """Format a setting: eps and step as k/255, other numbers with three figures."""
    value = plain(text)
    if isinstance(value, tuple):
        return ", ".join(setting(path, repr(v)) for v in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text
    if in_255ths(path) and 0 < value <= 1:
        return f"{value * 255:.3g}/255"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def plain(text: str) -> Setting:
    """The Python value of a setting's text; the text itself if it is no literal."""
    try:
        value: Setting = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
    return value


def in_255ths(path: str) -> bool:
    """Whether a setting is a strength on the scale of images in [0, 1]."""
    return path.rpartition(".")[2] in ("eps", "step")


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def capitalised(text: str) -> str:
    """The text with its first letter in upper case, the rest unchanged."""
    return text[:1].upper() + text[1:]


def _minus(number: str) -> str:
    """A number with a typographic minus sign, and none before 0."""
    return "0.0" if float(number) == 0 else number.replace("-", "−")
