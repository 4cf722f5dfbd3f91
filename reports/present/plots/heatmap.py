"""Heat map (SVG): a matrix of shares as coloured cells with their numbers.

Light to dark blue on a light page, dark to light on a dark one, in even steps of lightness (OKLab), readable with every
type of colour vision. Numbers are black or white; they switch at `TURN`, where both contrasts are equal in both modes,
so that none is below 4.5 to 1."""

import math
from collections.abc import Iterable, Sequence

from reports.present.plots.axes import LETTER, WIDE, bare, coord, mark, name, open_svg, percent

ROW, HEAD = 22, 20  # units: height of a row and of the column names
LEAST = 30  # units: minimum column width, enough for `100`
NAME, COLUMN = 20, 12  # maximum letters of a row's name and of a column's
TURN = 0.6
_STRENGTHS = 100  # shades between the lowest and the highest colour
CSS = """
:root { --heat-low: #e5f4ff; --heat-high: #002574; --on-low: #000; --on-high: #fff; }
@media screen and (prefers-color-scheme: dark) {
  :root { --heat-low: #182535; --heat-high: #69b7ff; --on-low: #fff; --on-high: #000; }
}
.heat rect { fill: color-mix(in oklab, var(--heat-low), var(--heat-high) calc(100% * var(--v))); }
.heat .low { fill: var(--on-low); }
.heat .high { fill: var(--on-high); }
.heat .empty rect { fill: none; stroke: var(--line); stroke-dasharray: 2 3; }
.heat .empty text { fill: var(--soft); }
.heat [data-say]:hover rect { stroke: var(--ink); stroke-width: 1.5; }
""" + "".join(f".s{k}{{--v:{k / _STRENGTHS:g}}}\n" for k in range(_STRENGTHS + 1))  # not a style attribute each


def heat(
    rows: Sequence[str],
    columns: Sequence[str | int],
    values: Iterable[Iterable[float]],
    *,
    low: float = 0.0,
    high: float = 1.0,
    title: str,
) -> str:
    """An SVG of a matrix of shares, such as accuracy by corruption (rows) and severity (columns).

    values: (rows, columns); NaN is an empty cell. Colours range from `low` to `high`, clamped. The number is the share
    in per cent without decimals; the tooltip has one decimal. With more columns than fit a phone it is wider than the
    screen: its container has to scroll."""
    shares = [[float(value) for value in row] for row in values]
    heads = [str(column) for column in columns]
    left = LETTER * min(max(map(len, rows), default=0), NAME) + 12
    least = max(LEAST, LETTER * min(max(map(len, heads), default=0), COLUMN) + 4)
    step = max(least, (WIDE - left) / max(len(heads), 1))
    width = left + step * len(heads)
    head = open_svg("heat", width, HEAD + ROW * len(rows), f"{title}: {_summary(rows, heads, shares)}")
    parts = [head if width < WIDE + 1 else f'{head[:-1]} width="{width:.0f}">']
    for c, column in enumerate(heads):
        parts.append(name(left + (c + 0.5) * step, HEAD - 6, "middle", column, COLUMN, "tick"))
    for r, (row, shares_of_row) in enumerate(zip(rows, shares, strict=True)):
        y = HEAD + r * ROW
        parts.append(name(left - 8, y + 15, "end", row, NAME))
        for c, (column, share) in enumerate(zip(heads, shares_of_row, strict=True)):
            parts.append(_cell(left + c * step, y, step, share, (share - low) / (high - low), f"{row} {column}"))
    return "\n".join([*parts, "</svg>"])


def _cell(x: float, y: float, step: float, share: float, strength: float, what: str) -> str:
    box = f'<rect x="{coord(x + 1)}" y="{coord(y + 1)}" width="{coord(step - 2)}" height="{ROW - 2}" rx="2"/>'
    text = f'x="{coord(x + step / 2)}" y="{coord(y + 15)}" text-anchor="middle"'
    if math.isnan(share):
        return mark("g", 'class="empty"', f"{what}: no figure", f"{box}<text {text}>–</text>")
    strength = round(min(max(strength, 0.0), 1.0) * _STRENGTHS) / _STRENGTHS
    ink = "high" if strength > TURN else "low"
    shown = f'<text class="{ink}" {text}>{bare(round(share, 2))}</text>'
    return mark("g", f'class="s{strength * _STRENGTHS:.0f}"', f"{what}: {percent(share)}", box + shown)


def _summary(rows: Sequence[str], columns: Sequence[str], shares: Sequence[Sequence[float]]) -> str:
    """Mean, minimum and maximum, with the names of their cells."""
    cells = [
        (share, f"{row} {column}")
        for row, of in zip(rows, shares, strict=True)
        for column, share in zip(columns, of, strict=True)
        if not math.isnan(share)
    ]
    if not cells:
        return "no figures"
    mean = sum(share for share, _ in cells) / len(cells)
    least, most = min(cells), max(cells)
    return f"mean {percent(mean)}, lowest {percent(least[0])} ({least[1]}), highest {percent(most[0])} ({most[1]})"
