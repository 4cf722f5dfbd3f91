"""Plots (SVG) of validation curves, and of the rank correlation of early epochs with the final ranking."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reports.present.plots.axes import (
    NARROW,
    Axis,
    bare,
    below,
    coord,
    levels,
    line,
    mark,
    number,
    open_svg,
    path,
    percent,
    shares,
    ticks,
)

HEIGHT = 142
LEFT, RIGHT, TOP, FOOT = 36, 12, 8, 24  # margins
CSS = """
.learning .search { stroke: var(--far); stroke-width: 1; opacity: .7; }
.learning .pruned { stroke: var(--far); stroke-width: 1; stroke-dasharray: 3 2; opacity: .7; }
.learning .chosen { stroke: var(--ink); stroke-width: 1.25; }
.learning polyline:hover { stroke: var(--ink); stroke-width: 2; opacity: 1; }
.learning polyline.seed { stroke: var(--accent); stroke-width: 1.75; }
.learning .cross { stroke: var(--far); stroke-width: 1.5; }
.learning .best { fill: var(--accent); }
.learning .last { fill: var(--page); stroke: var(--accent); stroke-width: 1.5; }
.rungs .way { stroke: var(--accent); stroke-width: 2.25; }
.rungs .dot { fill: var(--accent); stroke: transparent; stroke-width: 8; }
.rungs .zero { stroke: var(--soft); stroke-dasharray: 3 3; }
"""


@dataclass(frozen=True)
class Course:
    """A trial's validation curve: (epoch, share) by rising epoch. kind: `search`, `pruned` or `seed`."""

    name: str
    points: tuple[tuple[float, float], ...]
    kind: str = "search"


def learning(runs: Iterable[Course], *, epochs: float, chosen: str = "") -> str:
    """An SVG of one cell's learning curves over `epochs` epochs: trials of the search grey, seeds in colour.

    Of a seed the best point is a full dot and the last a hollow one; a pruned trial ends with a cross. chosen: the
    name of the winning trial, drawn in ink. The label has the mean gap from best to last over the seeds."""
    courses = [Course(r.name, tuple(p for p in r.points if math.isfinite(p[1])), r.kind) for r in runs]
    courses = [course for course in courses if course.points]
    values = [share for course in courses for _, share in course.points]
    low, high, upright = shares(values, min([0.0, *values]))
    furthest = max([epochs, *(epoch for course in courses for epoch, _ in course.points)])
    across = Axis(0, furthest or 1, LEFT, NARROW - RIGHT)
    up = Axis(low, high, HEIGHT - FOOT, TOP)
    seeds = [course for course in courses if course.kind == "seed"]
    parts = [open_svg("learning", NARROW, HEIGHT, _summary(courses, seeds))]
    parts += levels(up, LEFT, NARROW - RIGHT, upright, bare)
    whole = [epoch for epoch in (furthest, *ticks(0, across.high, 5)) if epoch == int(epoch)]
    parts += below(across, HEIGHT - 5, [(epoch, f"{epoch:g}") for epoch in whole], NARROW)
    ranked = [c for c in courses if c.kind != "seed" and c.name != chosen]
    ranked += [c for c in courses if c.kind != "seed" and c.name == chosen]
    for course in (*ranked, *seeds):
        kind = f"{course.kind} chosen" if course.name == chosen and course.kind != "seed" else course.kind
        places = [(across.at(epoch), up.at(share)) for epoch, share in course.points]
        tooltip = f"{course.name}: {_gap(course)}{', pruned' * (course.kind == 'pruned')}"
        drawn = places if len(places) > 1 else [(places[0][0] - 2, places[0][1]), (places[0][0] + 2, places[0][1])]
        parts.append(mark("polyline", f'class="{kind}" points="{path(drawn)}"', tooltip))
        if course.kind == "pruned":
            x, y = places[-1]
            for slope in (-2.5, 2.5):
                parts.append(line("cross", x - 2.5, y - slope, x + 2.5, y + slope))
    for course in seeds:
        best, last = _best(course), course.points[-1]
        for kind, (epoch, share) in (("last", last), ("best", best)) if best != last else (("best", best),):
            shape = f'class="{kind}" cx="{coord(across.at(epoch))}" cy="{coord(up.at(share))}" r="3"'
            kinds = kind if best != last else "best and last"
            parts.append(mark("circle", shape, f"{course.name}: {kinds} {percent(share)} at epoch {epoch:g}"))
    return "\n".join([*parts, "</svg>"])


def rungs(items: Iterable[tuple[float, float, int]]) -> str:
    """An SVG of rank correlation by epoch: (epoch, tau, n) by rising epoch. tau NaN: a gap."""
    items = list(items)
    known = [item for item in items if math.isfinite(item[1])]
    furthest = max((epoch for epoch, *_ in items), default=1) or 1
    across = Axis(0, furthest, LEFT, NARROW - RIGHT)
    up = Axis(-1, 1, HEIGHT - FOOT, TOP)
    summary = "; ".join(f"epoch {epoch:g}: {_tau(tau)}, n = {n}" for epoch, tau, n in known) or "no figures"
    height = HEIGHT + 16
    parts = [open_svg("rungs", NARROW, height, f"Rank correlation with the last epoch: {summary}")]
    parts += levels(up, LEFT, NARROW - RIGHT, (-1, 0, 1), number)
    parts.append(line("zero", LEFT, up.at(0), NARROW - RIGHT, up.at(0)))
    latest = list(reversed(items))
    parts += below(across, height - 21, [(epoch, f"{epoch:g}\nn {n}") for epoch, _, n in latest], NARROW)
    for left, right in itertools.pairwise(items):
        if math.isfinite(left[1] + right[1]):
            parts.append(line("way", across.at(left[0]), up.at(left[1]), across.at(right[0]), up.at(right[1])))
    for epoch, tau, n in known:
        shape = f'class="dot" cx="{coord(across.at(epoch))}" cy="{coord(up.at(tau))}" r="3"'
        parts.append(mark("circle", shape, f"epoch {epoch:g}: {_tau(tau)}, n = {n}"))
    return "\n".join([*parts, "</svg>"])


def _tau(tau: float) -> str:
    return f"{tau:.2f}".replace("-", "\N{MINUS SIGN}")


def _best(course: Course) -> tuple[float, float]:
    """The first point with the highest value."""
    return max(course.points, key=lambda point: point[1])


def _gap(course: Course) -> str:
    epoch, share = _best(course)
    return f"best {percent(share)} at epoch {epoch:g}, last {percent(course.points[-1][1])}"


def _summary(courses: Sequence[Course], seeds: Sequence[Course]) -> str:
    text = f"Validation by epoch: {len(courses) - len(seeds)} trials of the search, {len(seeds)} seeds"
    if not seeds:
        return text
    best = sum(_best(course)[1] for course in seeds) / len(seeds)
    last = sum(course.points[-1][1] for course in seeds) / len(seeds)
    return f"{text}; seeds: mean best {percent(best)}, mean last {percent(last)}, gap {bare(best - last)} points"
