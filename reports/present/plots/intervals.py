"""Interval chart (SVG): mean, interval and single seeds per cell, on a common axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.present.plots.axes import Axis, ends, mark, percent, shares, tick, with_half

ROW, SCALE = 32, 24  # pixels: height of a row and of the scale below
LEFT, RIGHT = 4.0, 96.0  # per cent of the width: start and end of the axis
CSS = """
.reference { stroke: var(--soft); stroke-dasharray: 3 3; }
.interval .range { stroke: var(--far); stroke-width: 8; }
.interval.best .range { stroke: var(--accent); opacity: .35; }
.interval .dot { fill: var(--ink); stroke: var(--page); stroke-width: 1.5; }
.interval.best .dot { fill: var(--accent); }
.interval.control .dot { fill: var(--page); stroke: var(--ink); stroke-width: 2; }
.interval .seed { stroke: var(--soft); stroke-width: 1.5; }
"""


@dataclass(frozen=True)
class Dot:
    """A row of `interval_chart`. mean, half (NaN: none), values: at most 1. kind: `best`, `rest` or `control`."""

    mean: float
    half: float
    values: tuple[float, ...] = ()
    kind: str = "rest"


def interval_chart(dots: Sequence[Dot], reference: float = math.nan, *, least: float = 0.0) -> tuple[list[str], str]:
    """An SVG per dot, with its interval, mean and single seeds, and one with their common axis.

    Stacked without a gap they form one plot; the page puts names and numbers beside them as text. They are as wide as
    their container: x coordinates are percentages. reference: a share marked by a dashed line (NaN: none). least: lower
    bound of the score, and so of the axis."""
    low, high, marks = shares([v for dot in dots for v in (*ends(dot.mean, dot.half), *dot.values)], least)
    axis = Axis(low, high, LEFT, RIGHT)

    def at(share: float) -> str:
        return f"{axis.at(share):.2f}%"

    lines = [f'<line class="grid" x1="{at(t)}" x2="{at(t)}" y1="0" y2="{ROW}"/>' for t in marks]
    if not math.isnan(reference):
        lines.append(f'<line class="reference" x1="{at(reference)}" x2="{at(reference)}" y1="0" y2="{ROW}"/>')
    rows = []
    for dot in dots:
        tooltip = with_half(dot.mean, dot.half)
        parts = [f'<svg class="interval {dot.kind}" width="100%" height="{ROW}" aria-hidden="true">', *lines]
        if not math.isnan(dot.half):
            left, right = ends(dot.mean, dot.half)
            attributes = f'x1="{at(left)}" x2="{at(right)}"'
            parts.append(mark("line", f'class="range" {attributes} y1="14" y2="14"', tooltip))
        for value in sorted(dot.values):
            attributes = f'class="seed" x1="{at(value)}" x2="{at(value)}" y1="21" y2="26"'
            parts.append(mark("line", attributes, f"one seed: {percent(value)}"))
        parts.append(mark("circle", f'class="dot" cx="{at(dot.mean)}" cy="14" r="5"', tooltip))
        rows.append("\n".join([*parts, "</svg>"]))
    parts = [f'<svg class="axis" width="100%" height="{SCALE}" aria-hidden="true">']
    parts += [tick(at(t), 16, "middle", percent(t)) for t in marks]
    return rows, "\n".join([*parts, "</svg>"])
