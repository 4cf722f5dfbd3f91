"""Plots as SVG text: one module per kind, and `axes` with the shared parts.

`CSS` has all their rules, except the page's colours (--page --ink --soft --line --faint --far --accent)."""

from reports.present.plots import (
    accuracy_vs_eps,
    axes,
    bars,
    heatmap,
    hyperparameters,
    intervals,
    learning_curves,
    pareto,
)
from reports.present.plots.accuracy_vs_eps import Curve, curve
from reports.present.plots.bars import bar_chart
from reports.present.plots.heatmap import heat
from reports.present.plots.hyperparameters import against
from reports.present.plots.intervals import Dot, interval_chart
from reports.present.plots.learning_curves import Course, learning, rungs
from reports.present.plots.pareto import Point, front

__all__ = [
    "CSS",
    "Course",
    "Curve",
    "Dot",
    "Point",
    "against",
    "bar_chart",
    "curve",
    "front",
    "heat",
    "interval_chart",
    "learning",
    "rungs",
]
CSS = "".join(
    module.CSS for module in (axes, intervals, accuracy_vs_eps, heatmap, pareto, hyperparameters, bars, learning_curves)
)
