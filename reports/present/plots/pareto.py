"""Scatter plot (SVG) of the cells by two scores, or score and cost, with their Pareto front."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from reports.analyse import stats
from reports.present.plots.axes import (
    WIDE,
    Axis,
    amount,
    bare,
    below,
    coord,
    ends,
    figures,
    levels,
    line,
    mark,
    name,
    number,
    open_svg,
    path,
    shares,
    tick,
    ticks,
    wide,
    widened,
)

HEIGHT = 252
LEFT, RIGHT, TOP, FOOT = 36, 14, 24, 42  # margins
NAMED, NAME, KEY = 12, 26, 46  # most points labelled by name; letters of a name there, and in the key
AROUND = (
    (0.75, -0.8),
    (1, 0),
    (0, -1),
    (-0.75, -0.8),
    (0.75, 0.8),
    (-1, 0),
    (0, 1),
    (-0.75, 0.8),
)  # directions from a point to its label
CSS = """
.front .steps { stroke: var(--accent); stroke-width: 1.5; opacity: .6; }
.front .bar { stroke: var(--soft); }
.front .leader { stroke: var(--far); }
.front .dot { fill: var(--ink); stroke: var(--page); stroke-width: 1.5; }
.front .best.dot { fill: var(--accent); }
.front .control.dot { fill: var(--page); stroke: var(--ink); }
.front .faint.dot { fill: var(--far); }
.front .faint.control.dot { fill: var(--page); stroke: var(--far); }
.front .dot:hover { stroke: var(--ink); }
.front .label { paint-order: stroke; stroke: var(--page); stroke-width: 3px; stroke-linejoin: round; }
"""


@dataclass(frozen=True)
class Point:
    """A cell in `front`. y: a share; x: a share, or in the plot's unit. Halves may be NaN. kind: `best`, `rest` or
    `control`."""

    name: str
    x: float
    y: float
    half_x: float = math.nan
    half_y: float = math.nan
    kind: str = "rest"


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    foot: float


def front(
    points: Iterable[Point], *, x: str, y: str, log_x: bool = False, less_x: bool = False, unit_x: str = "%"
) -> str:
    """An SVG of cells by two scores: those on the Pareto front highlighted and joined by steps, the others faint.

    x, y: axis titles. less_x: less of x is better. unit_x: `%` for shares, else the suffix of a number, such as ` s`.
    Points of the front are labelled by name if all names fit; else, and beyond twelve, by numbers with a key below.
    The intervals of the other points are in their tooltips only. Points with a missing coordinate are left out."""
    points = sorted((p for p in points if math.isfinite(p.x + p.y)), key=lambda p: (p.x, p.y, p.name))
    if log_x:
        points = [p for p in points if p.x > 0]
    on = stats.front((-p.x if less_x else p.x, p.y) for p in points)
    best = [p for p, strong in zip(points, on, strict=True) if strong]
    others = [p for p, strong in zip(points, on, strict=True) if not strong]
    widths = [*(p.x for p in points), *(v for p in best for v in ends(p.x, p.half_x))]
    across, marks = _across(widths, min([0.0, *(p.x for p in points)]), log_x, unit_x)
    heights = [*(p.y for p in points), *(v for p in best for v in ends(p.y, p.half_y))]
    low, high, upright = shares(heights, min([0.0, *(p.y for p in points)]))
    up = Axis(low, high, HEIGHT - FOOT, TOP)
    labels, keyed = _labels(best, points, across, up, -1 if less_x else 1)

    summary = "; ".join(f"{p.name}: {y} {amount(p.y)}, {x} {amount(p.x, unit=unit_x)}" for p in best)
    summary = f"{len(best)} of {len(points)} are on the Pareto front of {y} and {x}: {summary}"
    parts = [open_svg("front", WIDE, HEIGHT + 17 * len(keyed) + (6 if keyed else 0), summary)]
    parts += levels(up, LEFT, WIDE - RIGHT, upright, bare)
    for value in marks:
        parts.append(line("grid", across.at(value), TOP, across.at(value), HEIGHT - FOOT))
    most = figures(marks)
    labels_x = [(v, bare(v) if unit_x == "%" else number(v, most)) for v in marks]
    parts += below(across, HEIGHT - FOOT + 18, labels_x, WIDE)
    parts.append(name(0, 12, "start", f"{y}, %", 48, "tick"))
    suffix = ", less is better" if less_x else ""
    parts.append(name(WIDE - RIGHT, HEIGHT - 6, "end", f"{x}, {unit_x.strip()}{suffix}", 48, "tick"))
    if best:
        parts.append(f'<polyline class="steps" points="{path(_steps(best, across, up, less_x))}"/>')
    parts += [_dot(p, "faint ", across, up, x, y, unit_x) for p in others]
    parts += [bar for p in best for bar in _bars(p, across, up)]
    parts += [_dot(p, "", across, up, x, y, unit_x) for p in best]
    parts += labels
    for i, p in enumerate(keyed, 1):
        parts.append(tick(LEFT - 6, HEIGHT + 17 * i, "end", str(i)))
        parts.append(name(LEFT, HEIGHT + 17 * i, "start", p.name, KEY))
    return "\n".join([*parts, "</svg>"])


def _across(values: Sequence[float], least: float, log: bool, unit: str) -> tuple[Axis, list[float]]:
    """The x axis, for shares from `least` on, and its ticks."""
    if unit == "%" and not log:
        low, high, marks = shares(values, least)
        return Axis(low, high, LEFT, WIDE - RIGHT), marks
    low, high = widened(values, log)
    room = (high / low) ** 0.05 if log else (high - low) * 0.05
    low, high = (low / room, high * room) if log else (low - room, high + room)
    return Axis(low, high, LEFT, WIDE - RIGHT, log), ticks(low, high, 6, log)


def _bars(p: Point, across: Axis, up: Axis) -> list[str]:
    """The intervals of a point, if it has any."""
    left, right, foot, top = _extent(p, across, up)
    h, v = across.at(p.x), up.at(p.y)
    parts = [line("bar", left, v, right, v)] if math.isfinite(p.half_x) else []
    return [*parts, line("bar", h, foot, h, top)] if math.isfinite(p.half_y) else parts


def _extent(p: Point, across: Axis, up: Axis) -> tuple[float, ...]:
    """Coordinates of both ends of both intervals."""
    return *map(across.at, ends(p.x, p.half_x)), *map(up.at, ends(p.y, p.half_y))


def _dot(p: Point, faint: str, across: Axis, up: Axis, x: str, y: str, unit: str) -> str:
    tooltip = f"{p.name}: {y} {amount(p.y, p.half_y)}, {x} {amount(p.x, p.half_x, unit)}"
    attributes = f'cx="{coord(across.at(p.x))}" cy="{coord(up.at(p.y))}" r="{3.5 if faint else 5}"'
    return mark("circle", f'class="{faint}{p.kind} dot" {attributes}', tooltip)


def _steps(best: Sequence[Point], across: Axis, up: Axis, less: bool) -> list[tuple[float, float]]:
    """The staircase below the front: down to the right of each point, or to the left if less is better."""

    def turned(h: float) -> float:
        return LEFT + WIDE - RIGHT - h if less else h

    places = [(turned(across.at(p.x)), up.at(p.y)) for p in (reversed(best) if less else best)]
    walk: list[tuple[float, float]] = [(LEFT, places[0][1])]
    for (h, v), (_, lower) in zip(places, [*places[1:], (0.0, HEIGHT - FOOT)], strict=True):
        walk += [(h, v), (h, lower)]
    return [(turned(h), v) for h, v in walk]


def _labels(
    best: Sequence[Point], points: Sequence[Point], across: Axis, up: Axis, better: int
) -> tuple[list[str], Sequence[Point]]:
    """A label per point of the front, and the points that need a key since their labels are numbers.

    better: 1 if x is better to the right, else -1; labels are tried on that side first, which is free of points."""
    if len(best) <= NAMED and all(len(p.name) <= NAME for p in best):
        placed = _placed([p.name for p in best], best, points, across, up, better)
        if placed is not None:
            return placed, ()
    numbers = [str(i) for i in range(1, len(best) + 1)]
    placed = _placed(numbers, best, points, across, up, better)
    if placed is None:  # no room for all: each above its point, even if they overlap
        spots = [(across.at(p.x), up.at(p.y) - 8) for p in best]
        placed = [name(h, v, "middle", text, 9, "label") for (h, v), text in zip(spots, numbers, strict=True)]
    return placed, best


def _placed(
    texts: Sequence[str], best: Sequence[Point], points: Sequence[Point], across: Axis, up: Axis, better: int
) -> list[str] | None:
    """Each text beside its point, at the first position that overlaps no point, bar, label or edge: close by, else at
    the end of a thin line. None if a text has no such position."""
    dots = [(across.at(p.x), up.at(p.y)) for p in points]
    taken = [_Box(h - 5, v - 5, h + 5, v + 5) for h, v in dots]
    for p in best:
        h, v = across.at(p.x), up.at(p.y)
        left, right, foot, top = _extent(p, across, up)
        taken += [_Box(left, v - 1, right, v + 1), _Box(h - 1, top, h + 1, foot)]
    parts = []
    for text, p in zip(texts, best, strict=True):
        h, v = across.at(p.x), up.at(p.y)
        for distance, (dx, dy) in ((d, (better * right, down)) for d in (9, 22, 36) for right, down in AROUND):
            box = _beside(h + dx * distance, v + dy * distance, dx, dy, wide(text))
            inside = box.left >= LEFT and box.right <= WIDE and box.top >= TOP - 4 and box.foot <= HEIGHT - FOOT
            if inside and not any(_overlap(box, other) for other in taken):
                break
        else:
            return None
        taken.append(box)
        if distance > 9:
            end = min(max(h, box.left), box.right), min(max(v, box.top), box.foot)
            parts.append(line("leader", h, v, *end))
        parts.append(f'<text class="label" x="{coord(box.left)}" y="{coord(box.foot - 4)}">{escape(text)}</text>')
    return parts


def _beside(x: float, y: float, dx: float, dy: float, width: float) -> _Box:
    """The box of a text that starts, ends or is centred at x, if its direction is right, left or vertical."""
    left = x if dx > 0 else x - width if dx < 0 else x - width / 2
    top = y - 8 if dy == 0 else y if dy > 0 else y - 15
    return _Box(left, top, left + width, top + 15)


def _overlap(a: _Box, b: _Box) -> bool:
    return a.left < b.right and b.left < a.right and a.top < b.foot and b.top < a.foot
