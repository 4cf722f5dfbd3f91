"""Plot of accuracy against eps (SVG)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.present.plots.axes import (
    NARROW,
    Axis,
    bare,
    below,
    coord,
    levels,
    mark,
    number,
    open_svg,
    path,
    percent,
    with_half,
)

HEIGHT = 142
LEFT, RIGHT, TOP, FOOT = 34, 12, 8, 24  # margins
HIGHEST = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # possible ends of the y axis
CSS = """
.curve .other { stroke: var(--far); stroke-width: 1; opacity: .7; }
.curve .other:hover { stroke: var(--ink); stroke-width: 2; opacity: 1; }
.curve polyline.own { stroke: var(--accent); stroke-width: 2.25; pointer-events: none; }
.curve circle.own { fill: var(--accent); stroke: transparent; stroke-width: 8; }
.curve .band { fill: var(--accent); opacity: .2; pointer-events: none; }
"""


@dataclass(frozen=True)
class Curve:
    """A cell's accuracies: (eps in 255ths, mean, half) by rising eps, clean at 0. half may be NaN."""

    name: str
    points: tuple[tuple[float, float, float], ...]


def curve(own: Curve, others: Sequence[Curve]) -> str:
    """An SVG of one cell's accuracy against eps with its interval, the other cells behind it in grey."""
    drawn = [point for c in (own, *others) for point in c.points]
    furthest = max(eps for eps, _, _ in drawn) or 1.0
    highest = max(mean + (0.0 if math.isnan(half) else half) for _, mean, half in drawn)
    highest = next((end for end in HIGHEST if highest <= end), 1.0)
    across = Axis(0, furthest, LEFT, NARROW - RIGHT)
    up = Axis(0, highest, HEIGHT - FOOT, TOP)

    def joined(points: Sequence[tuple[float, ...]]) -> str:
        return path((across.at(eps), up.at(share)) for eps, share, *_ in points)

    summary = ", ".join(f"{percent(mean)} {_strength(eps)}" for eps, mean, _ in own.points)
    parts = [open_svg("curve", NARROW, HEIGHT, f"{own.name}: {summary}")]
    parts += levels(up, LEFT, NARROW - RIGHT, (0, highest / 2, highest), bare)
    labels = [(eps, number(eps) if eps else "clean") for eps, _, _ in own.points]
    parts += below(across, HEIGHT - 5, labels, NARROW)
    for other in others:
        parts.append(mark("polyline", f'class="other" points="{joined(other.points)}"', other.name))
    banded = [p for p in own.points if not math.isnan(p[2])]
    if len(banded) > 1:
        outline = [(e, m + h) for e, m, h in banded] + [(e, m - h) for e, m, h in reversed(banded)]
        parts.append(f'<polygon class="band" points="{joined(outline)}"/>')
    parts.append(f'<polyline class="own" points="{joined(own.points)}"/>')
    for eps, mean, half in own.points:
        shape = f'class="own" cx="{coord(across.at(eps))}" cy="{coord(up.at(mean))}" r="3"'
        parts.append(mark("circle", shape, f"{with_half(mean, half)} {_strength(eps)}"))
    return "\n".join([*parts, "</svg>"])


def _strength(eps: float) -> str:
    return f"at {number(eps)}/255" if eps else "clean"
