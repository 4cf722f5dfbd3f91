"""Plots as plain SVG text: one module for each kind, and `axes` for what they share.

`CSS` has every rule they need beside the page's own colours (--page --ink --soft --line --faint --far --accent)."""

from reports.plots import amounts, axes, epochs, matrix, pareto, search, spread, strength
from reports.plots.amounts import bars
from reports.plots.epochs import Course, learning, rungs
from reports.plots.matrix import heat
from reports.plots.pareto import Point, front
from reports.plots.search import against
from reports.plots.spread import Dot, intervals
from reports.plots.strength import Curve, curve

__all__ = [
    "CSS",
    "Course",
    "Curve",
    "Dot",
    "Point",
    "against",
    "bars",
    "curve",
    "front",
    "heat",
    "intervals",
    "learning",
    "rungs",
]
CSS = "".join(module.CSS for module in (axes, spread, strength, matrix, pareto, search, amounts, epochs))
