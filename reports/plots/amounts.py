"""Amounts by name, such as shares of importance or seconds per epoch, as horizontal bars."""

import math
from collections.abc import Iterable

from reports.plots.axes import (
    LETTER,
    WIDE,
    Axis,
    amount,
    ends,
    line,
    mark,
    name,
    opened,
    place,
    tick,
    wide,
    widened,
)

ROW = 36  # units: height of a row, which is a line of text and the bar below it
TEXT, BAR, THICK = 12, 23, 9  # units: where in a row text stands and the bar lies, and how thick that is
CSS = """
.bars .bar { fill: var(--accent); opacity: .75; }
.bars .dot { fill: var(--accent); }
.bars .way { stroke: var(--line); stroke-dasharray: 1 3; }
.bars .half { stroke: var(--ink); }
"""


def bars(items: Iterable[tuple[str, float, float, str]], *, unit: str = "", log: bool = False) -> str:
    """An SVG with a bar for each (name, value, half, said), from 0, in the order they come, the value behind it.

    half: of the interval, NaN for none. said: what hovering adds to name and value, or "". unit: `%` for shares, else
    what stands behind a value, such as ` s`. log: a logarithmic scale, with dots, since there a length means nothing;
    values of 0 or less lie at its lower end. A value of NaN has a dash and no bar."""
    items = list(items)
    drawn = [end for _, value, half, _ in items for end in ends(value, half) if math.isfinite(end)]
    if log:
        low, high = widened(drawn, log)
        axis = Axis(low / 1.1, high * 1.1, 0, WIDE, log)
    else:
        axis = Axis(min([0.0, *drawn]), max([0.0, *drawn]) or 1.0, 0, WIDE)
    shown = [amount(value, half, unit) for _, value, half, _ in items]
    said = "; ".join(f"{item[0]} {text}" for item, text in zip(items, shown, strict=True))
    parts = [opened("bars", WIDE, ROW * len(items), said or "no figures")]
    for i, ((label, value, half, more), text) in enumerate(zip(items, shown, strict=True)):
        parts.append(name(0, ROW * i + TEXT, "start", label, int((WIDE - 10 - wide(text)) / LETTER)))
        parts.append(tick(WIDE, ROW * i + TEXT, "end", text))
        parts += _drawn(axis, ROW * i + BAR, value, half, ", ".join(filter(None, [f"{label}: {text}", more])))
    return "\n".join([*parts, "</svg>"])


def _drawn(axis: Axis, y: float, value: float, half: float, said: str) -> list[str]:
    """A bar from 0, or on a logarithmic scale a dot on a dotted line, and the interval over it."""
    if not math.isfinite(value):
        return []
    x = axis.at(value)
    if axis.log:
        shape = f'class="dot" cx="{place(x)}" cy="{place(y)}" r="4.5"'
        parts = [line("way", axis.start, y, axis.end, y), mark("circle", shape, said)]
    else:
        start, end = sorted((axis.at(0), x))
        shape = f'x="{place(start)}" y="{place(y - THICK / 2)}" width="{place(end - start)}" height="{THICK}"'
        parts = [mark("rect", f'class="bar" {shape}', said)]
    if math.isfinite(half):
        low, high = ends(value, half)
        parts.append(line("half", axis.at(low), y, axis.at(high), y))
    return parts
