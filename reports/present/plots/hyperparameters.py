"""Scatter plot (SVG) of the goal against one hyperparameter, one dot per trial."""

import math
from collections.abc import Callable, Iterable, Sequence

from reports.present.plots.axes import (
    NARROW,
    Axis,
    bare,
    below,
    coord,
    cut,
    figures,
    levels,
    line,
    mark,
    name,
    number,
    open_svg,
    percent,
    shares,
    ticks,
    wide,
    widened,
)

HEIGHT = 154
LEFT, RIGHT, TOP, FOOT = 36, 14, 8, 44  # margins
RADIUS = 3
LANES = (0, 1, -1, 2, -2, 3, -3)  # offsets of dots with the same value
CATEGORY = 14  # maximum letters of a category's name
SLOPE = 60  # degrees of rotation of names that do not fit side by side
CSS = """
.against .end { stroke: var(--far); }
.against .chosen { stroke: var(--accent); stroke-width: 1.5; }
.against .complete { fill: var(--ink); fill-opacity: .55; }
.against .pruned { fill: none; stroke: var(--far); pointer-events: all; }
.against .winner { fill: var(--accent); stroke: var(--page); }
.against circle:hover { stroke: var(--ink); }
"""
Value = float | str
Trial = tuple[Value, float, str]


def against(
    points: Iterable[Trial],
    *,
    label: str,
    log: bool = False,
    low: float | None = None,
    high: float | None = None,
    chosen: Value | None = None,
    unit: str = "",
) -> str:
    """An SVG of the goal against one hyperparameter.

    points: (value, goal, state) of each trial, goal a share (NaN: left out), state `complete` or `pruned` (hollow).
    Values are numbers, or if any is text, sorted categories. log: a logarithmic axis. low, high: the search domain,
    whose ends are drawn. chosen: the winner's value; marked by a line, and its best trial by colour. unit: the suffix
    of a value, such as `/255`. Trials with the same value are drawn side by side."""
    points = [p for p in points if math.isfinite(p[1]) and (isinstance(p[0], str) or math.isfinite(p[0]))]
    if isinstance(chosen, str) or any(isinstance(value, str) for value, _, _ in points):
        points = [(str(value), goal, state) for value, goal, state in points]
        chosen = None if chosen is None else str(chosen)
    known = [value for value in (*(p[0] for p in points), chosen) if value is not None]
    names = sorted({value for value in known if isinstance(value, str)})
    numbers = [value for value in known if not isinstance(value, str)]
    ends = [] if names else [value for value in (low, high) if value is not None]
    limits = (-0.5, len(names) - 0.5) if names else widened([*numbers, *ends], log)
    across = Axis(*limits, LEFT, NARROW - RIGHT, log and not names)
    least = min([0.0, *(goal for _, goal, _ in points)])
    bottom, top, upright = shares([goal for _, goal, _ in points], least)
    up = Axis(bottom, top, HEIGHT - FOOT, TOP)

    def x(value: Value) -> float:
        return across.at(names.index(value) if isinstance(value, str) else value)

    drop, labels = _names(names, x) if names else (0.0, _numbers(across, numbers, ends))
    height = HEIGHT + drop
    parts = [open_svg("against", NARROW, height, _summary(points, label, chosen, unit))]
    parts += levels(up, LEFT, NARROW - RIGHT, upright, bare)
    parts += [line("end", x(end), TOP, x(end), HEIGHT - FOOT) for end in ends]
    if chosen is not None:
        parts.append(line("chosen", x(chosen), TOP, x(chosen), HEIGHT - FOOT))
    parts += labels
    suffixes = ", ".join([*filter(None, [unit.strip()]), *(["log"] if across.log else [])])
    title = f"{label} ({suffixes})" if suffixes else label
    parts.append(name((LEFT + NARROW - RIGHT) / 2, height - 5, "middle", title, 24, "tick"))
    parts += _dots(points, chosen, x, up, unit)
    return "\n".join([*parts, "</svg>"])


def _numbers(across: Axis, known: Sequence[float], ends: Sequence[float]) -> list[str]:
    """Labels: the domain's ends, then the values themselves if few and short, else round ones."""
    round_ones = ticks(across.low, across.high, 4, across.log)
    distinct = sorted(set(known))
    short = len(distinct) <= 5 and all(number(value) == number(value, 7) for value in distinct)
    labels = [*ends, *(distinct if short else round_ones)]
    most = figures(round_ones)
    return below(across, HEIGHT - FOOT + 18, [(value, number(value, most)) for value in labels], NARROW)


def _names(names: Sequence[str], x: Callable[[str], float]) -> tuple[float, list[str]]:
    """Extra height for the categories' names, and the labels: horizontal if all fit, else rotated."""
    y = HEIGHT - FOOT + 18
    room = (NARROW - LEFT - RIGHT) / len(names)
    longest = max(wide(cut(text, CATEGORY)) for text in names)
    if longest * 1.15 <= room:
        return 0.0, [name(x(text), y, "middle", text, CATEGORY, "tick") for text in names]
    drop = max(longest * math.sin(math.radians(SLOPE)) - 8, 0.0)
    return drop, [name(x(text) + 4, y - 4, "end", text, CATEGORY, "tick", SLOPE) for text in names]


def _dots(points: Sequence[Trial], chosen: Value | None, x: Callable[[Value], float], up: Axis, unit: str) -> list[str]:
    """Dots in drawing order: pruned trials first, the winner last, on top."""
    best = max((goal for value, goal, state in points if _same(value, chosen) and state != "pruned"), default=math.nan)
    last: dict[tuple[str, int], float] = {}  # (value, lane) -> y of the dot below
    parts: dict[str, list[str]] = {"pruned": [], "complete": [], "winner": []}
    for value, goal, state in sorted(points, key=lambda p: p[1]):
        across, y = x(value), up.at(goal)
        lane = next((k for k in LANES if last.get((coord(across), k), math.inf) - y >= 2 * RADIUS), 0)
        last[coord(across), lane] = y
        kind = "pruned" if state == "pruned" else "winner" if _same(value, chosen) and goal == best else "complete"
        shape = f'class="{kind}" cx="{coord(across + 2 * RADIUS * lane)}" cy="{coord(y)}" r="{RADIUS}"'
        tooltip = f"{_text(value, unit)}: {percent(goal)}{', pruned' * (kind == 'pruned')}"
        parts[kind].append(mark("circle", shape, tooltip))
    return [part for group in parts.values() for part in group]


def _same(value: Value, chosen: Value | None) -> bool:
    if isinstance(value, str) or isinstance(chosen, str | None):
        return value == chosen
    return math.isclose(value, chosen, rel_tol=1e-7)  # settings are stored as text with nine digits


def _text(value: Value, unit: str) -> str:
    return value if isinstance(value, str) else f"{number(value)}{unit}"


def _summary(points: Sequence[Trial], label: str, chosen: Value | None, unit: str) -> str:
    complete = [(goal, value) for value, goal, state in points if state != "pruned"]
    text = f"Goal against {label}: {len(complete)} complete trials, {len(points) - len(complete)} pruned"
    if complete:
        goal, value = max(complete, key=lambda pair: pair[0])
        text += f"; best {percent(goal)} at {_text(value, unit)}"
    return text if chosen is None else f"{text}; the winner has {_text(chosen, unit)}"
