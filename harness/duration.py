"""Durations as users write them: `90m`, `2h30m`, `7200s`."""

import re

from harness.errors import UserError, shown

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
LONGEST = 1e9  # seconds: a timer does not take just any number
_DURATION = re.compile("".join(rf"(?:(\d{{1,9}}(?:\.\d{{1,6}})?){unit})?" for unit in UNITS))


def seconds_of(text: str) -> float:
    """Seconds of a duration. Raises `UserError` for any other text, also for a number without a unit."""
    match = _DURATION.fullmatch(text.strip())
    numbers = match.groups() if match else ()
    seconds = sum(float(number or 0) * unit for number, unit in zip(numbers, UNITS.values(), strict=False))
    if not 0 < seconds <= LONGEST:
        raise UserError(f"takes a time such as 90m, 2h30m or 7200s, not {shown(text)}")
    return seconds


def duration_text(seconds: float) -> str:
    """The shortest text of a duration, such as `2h30m`."""
    parts, rest = [], seconds
    for unit, length in UNITS.items():
        count = rest if unit == "s" else rest // length
        rest -= count * length
        if count:
            parts.append(f"{count:.10g}{unit}")
    return "".join(parts) or "0s"
