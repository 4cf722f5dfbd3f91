"""Shared parts of the SVG plots: axes, ticks, labels, number formats, and marks with tooltips.

A plot is one SVG element without ids, scripts or a fixed width. Lengths are units of its viewBox; text is 12 units
high. `WIDE` plots fill a phone; two `NARROW` ones fit side by side there, in larger type. Colours come from the page's
CSS, by class, for light, dark and print. A mark has its value as text twice: as `data-say`, a tooltip by the page's
script, and as a title where no script runs."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

WIDE, NARROW = 340, 200  # units: width of a plot across a phone, and of one of two side by side
LETTER = 6.8  # units: width of a letter, a little more than the mean of sans-serif fonts
MINUS = "\N{MINUS SIGN}"
CSS = """
svg { display: block; overflow: visible; }
svg text { font-family: inherit; fill: var(--ink); }
svg .tick { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--faint); }
.plot { width: 100%; max-width: 27rem; }
.plot text { font-size: 12px; }
.plot polyline { fill: none; stroke-linejoin: round; }
.plot .axis { stroke: var(--line); }
.plot [data-say]:hover { cursor: default; }
@media screen and (max-width: 32rem) { .plot.narrow text { font-size: 15px; } }
"""


@dataclass(frozen=True)
class Axis:
    """Linear or logarithmic scale from values [low, high] to coordinates [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Coordinate of a value, in units, clamped to the ends."""
        value = min(max(value, self.low), self.high)
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            inside = (math.log(value) - low) / (high - low)
        else:
            inside = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * inside


def open_svg(kind: str, width: float, height: float, summary: str) -> str:
    """Opening tag of a plot of this class; summary: its text for screen readers."""
    kind = f"plot narrow {kind}" if width <= NARROW else f"plot {kind}"
    box = f'viewBox="0 0 {coord(width)} {coord(height)}"'
    return f'<svg class="{kind}" {box} role="img" aria-label="{escape(summary)}">'


def mark(tag: str, attributes: str, tooltip: str, inside: str = "") -> str:
    """A shape, or a group with content `inside`, with a tooltip."""
    text = escape(tooltip)
    return f'<{tag} {attributes} data-say="{text}"><title>{text}</title>{inside}</{tag}>'


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line with a CSS class."""
    return f'<line class="{kind}" x1="{coord(x1)}" y1="{coord(y1)}" x2="{coord(x2)}" y2="{coord(y2)}"/>'


def path(points: Iterable[tuple[float, float]]) -> str:
    """Points in the syntax of a polyline."""
    return " ".join(f"{coord(x)},{coord(y)}" for x, y in points)


def tick(x: float | str, y: float, anchor: str, label: str) -> str:
    """A small grey label; x may be text with a unit of its own."""
    x = x if isinstance(x, str) else coord(x)
    return f'<text class="tick" x="{x}" y="{coord(y)}" text-anchor="{anchor}">{escape(label)}</text>'


def name(x: float, y: float, anchor: str, text: str, most: int, kind: str = "", slope: int = 0) -> str:
    """A label of at most `most` letters, rotated by `slope` degrees; if truncated, the tooltip has the full text."""
    shape = f'class="{kind}" ' if kind else ""
    shape += f'x="{coord(x)}" y="{coord(y)}" text-anchor="{anchor}"'
    if slope:
        shape += f' transform="rotate(-{slope} {coord(x)} {coord(y)})"'
    short = escape(cut(text, most))
    return f"<text {shape}>{short}</text>" if len(text) <= most else mark("text", shape, text, short)


def levels(up: Axis, left: float, right: float, values: Iterable[float], label: Callable[[float], str]) -> list[str]:
    """Horizontal grid lines with labels on the left."""
    parts = []
    for value in values:
        y = up.at(value)
        parts += [line("grid", left, y, right, y), tick(left - 6, y + 4, "end", label(value))]
    return parts


def below(axis: Axis, y: float, labels: Iterable[tuple[float, str]], width: float) -> list[str]:
    """Labels below a horizontal axis, within [0, width], from y down; a text may have several lines.

    A label that would overlap an earlier one of the list is left out, so put the most important ones first."""
    taken: list[tuple[float, float]] = []
    parts = []
    for value, label in labels:
        lines = label.split("\n")
        half = max(map(wide, lines)) * 0.65  # narrow plots have larger type on a phone
        centre = min(max(axis.at(value), half), width - half)
        if all(centre + half + 4 <= low or high + 4 <= centre - half for low, high in taken):
            taken.append((centre - half, centre + half))
            parts += [tick(centre, y + 16 * i, "middle", text) for i, text in enumerate(lines)]
    return parts


def coord(units: float) -> str:
    """Format a coordinate or length with at most one decimal."""
    return f"{units:.1f}".removesuffix(".0")


def shares(values: Iterable[float], least: float = 0.0) -> tuple[float, float, list[float]]:
    """Round limits within [least, 1] that contain all values, and at most six round ticks between them."""
    values = list(values) or [0.0]
    low, high = max(least, min(values)), min(1.0, max(values))
    for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if first >= last:
            first, last = (last - 1, last) if last * step > least else (last, last + 1)
        if last - first <= 5:
            break
    return first * step, last * step, [k * step for k in range(first, last + 1)]


def widened(values: Iterable[float], log: bool = False) -> tuple[float, float]:
    """Minimum and maximum, moved apart if equal; both above 0 for a logarithmic scale."""
    values = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(values), max(values)
    if log:
        return (low, high) if high > low * (1 + 1e-9) else (low / 2, high * 2)
    margin = max(abs(low), abs(high), 1e-300) * 1e-9
    return (low, high) if high - low > margin else (low - (abs(low) / 2 or 1.0), high + (abs(high) / 2 or 1.0))


def ticks(low: float, high: float, most: int = 5, log: bool = False) -> list[float]:
    """At most `most` round values within [low, high]: evenly spaced, or for log 1, 2, 3, 5, 7 times powers of ten."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = [(1, (1, 2, 3, 5, 7)), (1, (1, 2, 5)), (1, (1, 3)), *((k, (1,)) for k in range(1, len(powers) + 1))]
        for each, heads in every:
            values = [float(f"{head}e{k}") for k in powers if k % each == 0 for head in heads]
            values = [v for v in values if low <= v * (1 + 1e-9) and v <= high * (1 + 1e-9)]
            if len(values) <= most:
                break
        if len(values) > 1:
            return values
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    for wider in (step, 2 * step, 5 * step, 10 * step):
        first, last = math.ceil(low / wider - 1e-9), math.floor(high / wider + 1e-9)
        if last - first < most:
            break
    return [k * wider for k in range(first, last + 1)]


def percent(share: float) -> str:
    """0.456 -> `45.6 %`"""
    return f"{bare(share)} %"


def bare(share: float) -> str:
    """0.456 -> `45.6`"""
    return f"{round(100 * share, 1) + 0.0:.1f}".removesuffix(".0").replace("-", MINUS)  # + 0.0 removes the sign of -0


def with_half(mean: float, half: float) -> str:
    """`45.6 ± 1.2 %`; the mean alone without an interval."""
    return percent(mean) if math.isnan(half) else f"{bare(mean)} ± {bare(half)} %"


def amount(value: float, half: float = math.nan, unit: str = "%") -> str:
    """A value and its interval: a share in per cent, or a number with its unit; a dash for NaN."""
    if not math.isfinite(value):
        return "–"
    if unit == "%":
        return with_half(value, half)
    return f"{number(value)} ± {number(half, 2)}{unit}" if math.isfinite(half) else f"{number(value)}{unit}"


def ends(mean: float, half: float) -> tuple[float, float]:
    """Both ends of an interval; the mean twice without an interval."""
    return (mean - half, mean + half) if math.isfinite(half) else (mean, mean)


def number(value: float, figures: int = 3) -> str:
    """Format with three significant figures: `0.0167`, `12.5`, `1234`, `2e−5`."""
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        text = f"{value:.{max(0, figures - 1 - math.floor(math.log10(abs(value))))}f}"
        return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)
    head, _, power = f"{value:.{figures - 1}e}".partition("e")
    return f"{head.rstrip('0').rstrip('.') if '.' in head else head}e{int(power)}".replace("-", MINUS)


def figures(values: Iterable[float]) -> int:
    """Significant figures that `number` needs to distinguish the values; at least three."""
    values = set(values)
    return next((n for n in range(3, 15) if len({number(v, n) for v in values}) == len(values)), 15)


def cut(text: str, most: int) -> str:
    """Truncate to at most `most` letters, with an ellipsis."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def wide(text: str) -> float:
    """Approximate width of a text in units."""
    return len(text) * LETTER
