"""Horizontal bar chart (SVG), for importances or seconds per epoch."""

import math
from collections.abc import Iterable

from reports.present.plots.axes import (
    LETTER,
    WIDE,
    Axis,
    amount,
    coord,
    ends,
    line,
    mark,
    name,
    open_svg,
    tick,
    wide,
    widened,
)

ROW = 36  # units: height of a row, a line of text and the bar below it
TEXT, BAR, THICK = 12, 23, 9  # units: y of text and of the bar within a row, thickness of the bar
CSS = """
.bars .bar { fill: var(--accent); opacity: .75; }
.bars .dot { fill: var(--accent); }
.bars .way { stroke: var(--line); stroke-dasharray: 1 3; }
.bars .half { stroke: var(--ink); }
"""


def bar_chart(items: Iterable[tuple[str, float, float, str]], *, unit: str = "", log: bool = False) -> str:
    """An SVG with a bar for each (name, value, half, extra), from 0, in the given order, with its value.

    half: half-width of the interval, NaN for none. extra: text that the tooltip adds to name and value. unit: `%` for
    shares, else the suffix of a value, such as ` s`. log: a logarithmic scale, with dots, since lengths have no
    meaning there; values of 0 or less are drawn at its lower end. A value of NaN has a dash and no bar."""
    items = list(items)
    drawn = [end for _, value, half, _ in items for end in ends(value, half) if math.isfinite(end)]
    if log:
        low, high = widened(drawn, log)
        axis = Axis(low / 1.1, high * 1.1, 0, WIDE, log)
    else:
        axis = Axis(min([0.0, *drawn]), max([0.0, *drawn]) or 1.0, 0, WIDE)
    shown = [amount(value, half, unit) for _, value, half, _ in items]
    summary = "; ".join(f"{item[0]} {text}" for item, text in zip(items, shown, strict=True))
    parts = [open_svg("bars", WIDE, ROW * len(items), summary or "no figures")]
    for i, ((label, value, half, extra), text) in enumerate(zip(items, shown, strict=True)):
        parts.append(name(0, ROW * i + TEXT, "start", label, int((WIDE - 10 - wide(text)) / LETTER)))
        parts.append(tick(WIDE, ROW * i + TEXT, "end", text))
        parts += _drawn(axis, ROW * i + BAR, value, half, ", ".join(filter(None, [f"{label}: {text}", extra])))
    return "\n".join([*parts, "</svg>"])


def _drawn(axis: Axis, y: float, value: float, half: float, tooltip: str) -> list[str]:
    """A bar from 0, or on a logarithmic scale a dot on a dotted line, and the interval over it."""
    if not math.isfinite(value):
        return []
    x = axis.at(value)
    if axis.log:
        shape = f'class="dot" cx="{coord(x)}" cy="{coord(y)}" r="4.5"'
        parts = [line("way", axis.start, y, axis.end, y), mark("circle", shape, tooltip)]
    else:
        start, end = sorted((axis.at(0), x))
        shape = f'x="{coord(start)}" y="{coord(y - THICK / 2)}" width="{coord(end - start)}" height="{THICK}"'
        parts = [mark("rect", f'class="bar" {shape}', tooltip)]
    if math.isfinite(half):
        low, high = ends(value, half)
        parts.append(line("half", axis.at(low), y, axis.at(high), y))
    return parts
