"""Two plots as plain SVG text: a dot and its interval per cell, and accuracy against eps.

Nothing is fixed across: positions are per cents or in a viewBox, so that a plot fills a phone as it fills a
desk. Colours are the page's, by class, for light, dark and print."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROW, AXIS = 32, 24  # pixels: height of a row of `intervals` and of its axis
LEFT, RIGHT = 4.0, 96.0  # per cent of the width: where its scale begins and ends
WIDTH, HEIGHT = 200, 140  # the viewBox of `curve`
MARGINS = (30, 12, 8, 22)  # within it: left, right, top, bottom


@dataclass(frozen=True)
class Dot:
    """A row of `intervals`. mean, half (NaN: none), values: at most 1. kind: `best`, `rest` or `control`."""

    mean: float
    half: float
    values: tuple[float, ...] = ()
    kind: str = "rest"


@dataclass(frozen=True)
class Curve:
    """A cell's accuracies: (eps in 255ths, mean, half) by rising eps, clean at 0. half may be NaN."""

    name: str
    points: tuple[tuple[float, float, float], ...]


def intervals(dots: Sequence[Dot], reference: float = math.nan, *, least: float = 0.0) -> tuple[list[str], str]:
    """An SVG per dot, with its interval, mean and single seeds, and one with the scale that they share.

    Put one below the other, without a gap, they are one plot; names and numbers stand beside them as text.
    reference: a share at which a dashed line runs through (NaN: none). least: the lowest value there can be,
    below which no scale goes."""
    low, high, ticks = _scale([v for dot in dots for v in _extent(dot)], least)

    def at(share: float) -> str:
        inside = (min(max(share, low), high) - low) / (high - low)
        return f"{LEFT + (RIGHT - LEFT) * inside:.2f}%"

    lines = [f'<line class="grid" x1="{at(t)}" x2="{at(t)}" y1="0" y2="{ROW}"/>' for t in ticks]
    if not math.isnan(reference):
        lines.append(f'<line class="reference" x1="{at(reference)}" x2="{at(reference)}" y1="0" y2="{ROW}"/>')
    rows = []
    for dot in dots:
        parts = [f'<svg class="interval {dot.kind}" width="100%" height="{ROW}" aria-hidden="true">', *lines]
        if not math.isnan(dot.half):
            ends = f'x1="{at(dot.mean - dot.half)}" x2="{at(dot.mean + dot.half)}"'
            parts.append(f'<line class="range" {ends} y1="14" y2="14"/>')
        for value in sorted(dot.values):
            parts.append(f'<line class="seed" x1="{at(value)}" x2="{at(value)}" y1="21" y2="26"/>')
        parts.append(f'<circle class="dot" cx="{at(dot.mean)}" cy="14" r="5"/>')
        rows.append("\n".join([*parts, "</svg>"]))
    axis = [f'<svg class="axis" width="100%" height="{AXIS}" aria-hidden="true">']
    for tick in ticks:
        axis.append(_tick(at(tick), 16, "middle", _percent(tick)))
    return rows, "\n".join([*axis, "</svg>"])


def curve(own: Curve, others: Sequence[Curve]) -> str:
    """An SVG of one cell's accuracy against eps with its interval, the other cells behind it in grey."""
    left, right, top, foot = MARGINS
    drawn = [point for c in (own, *others) for point in c.points]
    furthest = max(eps for eps, _, _ in drawn) or 1.0
    highest = max(mean + (0.0 if math.isnan(half) else half) for _, mean, half in drawn)
    highest = next((round_ for round_ in (0.1, 0.2, 0.4, 0.6, 0.8) if highest <= round_), 1.0)

    def x(eps: float) -> float:
        return left + (WIDTH - left - right) * eps / furthest

    def y(share: float) -> float:
        return top + (HEIGHT - top - foot) * (1 - min(max(share, 0.0), highest) / highest)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in points)

    said = (f"{_percent(m)} at {e:g}/255" if e else f"{_percent(m)} clean" for e, m, _ in own.points)
    name = escape(f"{own.name}: {', '.join(said)}")
    parts = [f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">']
    for share in (0, highest / 2, highest):
        h = y(share)
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{h:g}" y2="{h:g}"/>')
        parts.append(_tick(left - 6, h + 4, "end", f"{100 * share:g}"))
    last = -math.inf
    for eps, _, _ in own.points:
        if x(eps) - last >= 24:  # room for a number
            last = x(eps)
            parts.append(_tick(last, HEIGHT - 5, "middle", f"{eps:g}" if eps else "clean"))
    parts += [f'<polyline class="other" points="{path([p[:2] for p in c.points])}"/>' for c in others]
    banded = [p for p in own.points if not math.isnan(p[2])]
    if len(banded) > 1:
        outline = [(e, m + h) for e, m, h in banded] + [(e, m - h) for e, m, h in reversed(banded)]
        parts.append(f'<polygon class="band" points="{path(outline)}"/>')
    parts.append(f'<polyline class="own" points="{path([p[:2] for p in own.points])}"/>')
    parts += [f'<circle class="own" cx="{x(e):.1f}" cy="{y(m):.1f}" r="3"/>' for e, m, _ in own.points]
    return "\n".join([*parts, "</svg>"])


def _tick(x: float | str, y: float, anchor: str, label: str) -> str:
    x = x if isinstance(x, str) else f"{x:.1f}"
    return f'<text class="tick" x="{x}" y="{y:g}" text-anchor="{anchor}">{label}</text>'


def _extent(dot: Dot) -> list[float]:
    half = 0.0 if math.isnan(dot.half) else dot.half
    return [dot.mean - half, dot.mean + half, *dot.values]


def _scale(values: Sequence[float], least: float = 0.0) -> tuple[float, float, list[float]]:
    """Round ends within [least, 1] that hold all values, and at most six round ticks from end to end."""
    low, high = max(least, min(values)), min(1.0, max(values))
    for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if first == last:
            first, last = (first - 1, last) if first * step > least else (first, last + 1)
        if last - first <= 5:
            break
    return first * step, last * step, [k * step for k in range(first, last + 1)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0").replace("-", "−") + " %"
