"""What the search itself tells: winners at the edge of a domain, hyperparameters that matter, epochs that predict the
end, and what another way of choosing would have reported.

All functions take the table of `reports.runs.read` and look at finished runs only: pruned and failed ones never enter.
What a table does not hold gives no row, or NaN; a curve or a domain that is garbled raises `Mistake`."""

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.errors import Mistake
from reports import selection, stats
from reports.words import missing

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

NEAR = 0.05  # of a range's width: so near to an end counts as at the edge
ORDERED = 3  # numbers from which on the first and the last of a choice are edges
# Where one of three hyperparameters (a choice of four, a range, a logarithmic range) explains four fifths of the
# variance within cells, linearly or by a peak inside, 30 trials of one to ten cells name it first in 92 to 98 % of
# simulated searches; hardest is a choice in cells of three trials, with 80 %. After 20 trials it is 86 to 92 %.
ENOUGH = 30
TOP = 0.5  # of the trials; in the same simulation the best tenth or quarter, Optuna's way, finds it less often
CELLS, TRIALS = 2, 6  # that an epoch needs before its order is compared with the final one


@dataclass(frozen=True)
class Domain:
    """Where a setting was searched: between low and high (log: its logarithm uniform), or among choices."""

    low: float = math.nan
    high: float = math.nan
    log: bool = False
    choices: tuple = ()


@dataclass(frozen=True)
class Edge:
    """A winner at an end of its domain. cell: its row on the board; side: `low` or `high`."""

    cell: str
    path: str
    value: float
    domain: Domain
    side: str


@dataclass(frozen=True)
class Importance:
    """shares: (path, share), the largest first, 1 in all; from so many trials. why_not: why there are none, else ""."""

    shares: list[tuple[str, float]]
    trials: int
    why_not: str = ""


@dataclass(frozen=True)
class Rung:
    """How well the order of n trials after an epoch agrees with the final one: tau in [-1, 1]. curve: its score."""

    epoch: int
    tau: float
    n: int
    curve: str


@dataclass(frozen=True)
class Gap:
    """Best and last value of a validation curve, means over seeds, the median epoch of the best; curve: its score."""

    best: float
    last: float
    epoch: float
    curve: str


@dataclass(frozen=True)
class Rule:
    """What a row reports, and what other ways of choosing would have; NaN where that is not known.

    On test: reported, the mean over seeds; best_seed, the highest of them, chosen on test. On validation, the first
    goal: searched, of the winner in the search that chose it; fresh, mean of its fresh seeds, which no choice
    flatters; published, of the published setting; by_clean, of the trial with the best clean accuracy. best_epoch:
    what the best epoch of the validation curve is above the last (`gaps`).
    """

    row: str
    reported: float
    best_seed: float
    searched: float
    fresh: float
    published: float
    by_clean: float
    best_epoch: float


def curve(text: object) -> list[tuple[int, float]]:
    """(epoch, value) of a field such as `6:0.23 12:0.31`; none for a missing one, values that are not finite left out.

    Raises `Mistake` for any other text."""
    points = []
    for point in "" if missing(text) else str(text).split():
        epoch, _, value = point.partition(":")
        try:
            points.append((int(epoch), float(value)))
        except ValueError:
            raise Mistake(f"a curve is made of points such as 6:0.23, not {point!r}") from None
    return [point for point in points if math.isfinite(point[1])]


def domain(text: object) -> Domain | None:
    """The domain of a `space:` field, such as `{"low": 0.01, "high": 0.1, "log": true}` or `{"choices": [1, 2]}`.

    None for a missing one. Raises `Mistake` for any other text."""
    if missing(text) or text == "":
        return None
    try:
        found = json.loads(str(text))
        if "choices" in found:
            return Domain(choices=tuple(tuple(c) if isinstance(c, list) else c for c in found["choices"]))
        low, high, log = float(found["low"]), float(found["high"]), bool(found.get("log", False))
    except (ValueError, TypeError, KeyError):
        example = '{"low": 0, "high": 1} or {"choices": [1, 2]}'
        raise Mistake(f"a domain is JSON such as {example}, not {text!r}") from None
    if not low <= high or (log and low <= 0) or math.isinf(high - low):
        raise Mistake(f"a domain goes from low to high, above 0 where it is logarithmic, not {text!r}")
    return Domain(low, high, log)


def edges(runs: pd.DataFrame) -> list[Edge]:
    """The winners that lie at an end of what was searched, so that a wider domain may hold a better one.

    At the edge (Godbole et al., Deep Learning Tuning Playbook, 2023) is what lies within `NEAR` of the width from an
    end of a range, of its logarithm where that is uniform, or is the first or last of at least `ORDERED` numbers;
    other choices have no order. Ends that cannot be moved are none: 0, below which nothing here goes, and 1 where the
    domain is that of a share, a linear range within [0, 1] or choices from 0 to 1. A winner is what its seed runs were
    trained with, or, before they ran, the trial named winner, else the best finished one."""
    found = []
    for row, winner in _winners(runs):
        for column in (c for c in runs.columns if c.startswith("space:")):
            path = column.removeprefix("space:")
            for text in winner[f"param:{path}"].dropna().unique() if f"param:{path}" in winner else []:
                of, value = domain(winner[column].iloc[0]), _number(text)
                if of is not None and (side := _side(of, value)):
                    found.append(Edge(row, path, value, of, side))
    return found


def importance(runs: pd.DataFrame) -> Importance:
    """Which searched hyperparameters set the better half of the finished trials apart, by the first goal.

    By PED-ANOVA (Watanabe et al., IJCAI 2023; as Optuna has it): how far the distribution of a hyperparameter among
    the better half is from that among all trials. fANOVA, the older way, fits random forests, which are slow, differ
    from seed to seed and want more trials than cells have. Trials of all cells are pooled, each by its rank within its
    cell: levels and spreads of cells differ, so that raw values would tell cells apart, and those less their cell's
    mean would take the better half from the cells that spread most. Cells whose trials all reached the same say
    nothing and stay out. A hyperparameter counts in the cells that search it, each domain by itself.

    Shares say which matters more than another, not whether any matters: they sum to 1 for pure noise too. They are of
    trials that ran to their end: where halving stopped the bad ones, what made them bad looks less important than it
    is."""
    goal = selection.goals(runs)[0]
    done = _searched(runs, goal)
    done = done[done.groupby("cell")[goal].transform("nunique") > 1] if len(done) else done
    paths = sorted(c.removeprefix("space:") for c in runs.columns if c.startswith("space:") and runs[c].notna().any())
    if not paths:
        return Importance([], len(done), "No hyperparameter was searched, or no domain is recorded.")
    if len(done) < ENOUGH:
        said = f"Only {len(done)} finished trials can be compared within their cells; {ENOUGH} are needed"
        return Importance([], len(done), f"{said} before an order of hyperparameters can be trusted.")
    ranks = done.groupby("cell")[goal].rank()
    sizes = done.groupby("cell")[goal].transform("size")
    shares = _ped_anova(done, paths, (ranks - 0.5) / sizes)
    total = sum(shares.values())
    if not total > 0:
        return Importance([], len(done), "No searched hyperparameter took different values among the finished trials.")
    ordered = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    return Importance([(path, share / total) for path, share in ordered], len(done))


def fidelity(runs: pd.DataFrame) -> list[Rung]:
    """How well each epoch of the validation curve foretells the order of the trials by the first goal.

    Kendall's tau-b between the curve at that epoch and the final goal on validation, over pairs of finished trials of
    the same cell, the pairs of all cells together: a cell counts by its pairs, and one without any order by none. An
    epoch has a value where at least `TRIALS` trials of at least `CELLS` cells do that share their cell with another.
    Where the goal has no curve, that of robust accuracy stands for it; `Rung.curve` says which.

    Only trials that ran to their end are known in full. Those that halving stopped early were the ones an early epoch
    tells apart most easily, so tau is rather too low than too high; of good trials that were stopped it knows
    nothing."""
    goal = selection.goals(runs)[0]
    done = _searched(runs, goal)
    name = _curve_of(done, goal)
    if not name:
        return []
    values: dict[int, list[tuple[str, float, float]]] = {}  # epoch -> cell, value there, final value
    for cell, text, final in zip(done["cell"], done[f"curve:{name}"], done[goal], strict=True):
        for epoch, value in curve(text):
            values.setdefault(epoch, []).append((cell, value, final))
    rungs = []
    for epoch, points in sorted(values.items()):
        sizes = Counter(cell for cell, _, _ in points)
        cells = [cell for cell, size in sizes.items() if size > 1]
        n = sum(sizes[cell] for cell in cells)
        if len(cells) < CELLS or n < TRIALS:
            continue
        tau = _tau([np.array([p[1:] for p in points if p[0] == cell]) for cell in cells])
        if math.isfinite(tau):
            rungs.append(Rung(epoch, tau, n, name))
    return rungs


def gaps(runs: pd.DataFrame) -> dict[str, Gap]:
    """Row of the board -> how far the last epoch is from the best, over its seed runs.

    Where the last is well below the best, robust overfitting has set in (Rice et al., ICML 2020). The best of many
    epochs is lucky too, so that a small gap says nothing. Of the goal's curve, else of robust accuracy's."""
    tested = selection.tested(runs)
    name = _curve_of(tested, selection.goals(runs)[0])
    found = {}
    for row, seeds in tested.groupby("row", sort=True) if name else []:
        curves = [points for points in map(curve, seeds[f"curve:{name}"]) if points]
        if curves:
            best = [max(points, key=lambda point: point[1]) for points in curves]  # of equals the earliest
            epoch = float(median(epoch for epoch, _ in best))
            found[row] = Gap(fmean(v for _, v in best), fmean(points[-1][1] for points in curves), epoch, name)
    return found


def epoch_seconds(runs: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Row of the board -> device-seconds of training per epoch: mean over its seed runs, half of its 95 % interval."""
    tested = selection.tested(runs)
    epochs = pd.to_numeric(_column(tested, "param:epochs"), errors="coerce")
    each = (_column(tested, "seconds/train") / epochs).where(epochs > 0)
    return {row: stats.interval(each[seeds.index]) for row, seeds in tested.groupby("row", sort=True)}


def rules(runs: pd.DataFrame) -> list[Rule]:
    """What every row of the board would report had its run been chosen in another way; sorted by row."""
    tested, goal, ranked = selection.tested(runs), selection.goals(runs)[0], selection.ranked_by(runs)
    done, gap = _searched(runs, goal), gaps(runs)
    found = []
    for row, seeds in tested.groupby("row", sort=True):
        mine = done[done["cell"] == seeds["cell"].iloc[0]]
        winners = set(_column(seeds, "winner").dropna()) - {""}
        goals = _column(mine, goal)
        clean = _column(mine, "val/clean").dropna().sort_values(ascending=False, kind="stable")
        rule = Rule(
            row=row,
            reported=float(seeds[ranked].mean()),
            best_seed=float(seeds[ranked].max()),
            searched=float(goals[mine["key"].isin(winners)].max()),
            fresh=float(_column(seeds, goal).mean()),
            published=float(goals[(mine["number"] == 0).fillna(False)].max()),
            by_clean=float(goals[clean.index[0]]) if len(clean) else math.nan,
            best_epoch=gap[row].best - gap[row].last if row in gap else math.nan,
        )
        found.append(rule)
    return found


def _searched(runs: pd.DataFrame, goal: str) -> pd.DataFrame:
    """The finished trials of the search that have a number for the goal."""
    done = runs[(runs["role"] == "search") & (runs["state"] == "complete")]
    return done[np.isfinite(_column(done, goal))]


def _winners(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Row of the board and the runs that have its winner's settings, cells in the order of the space."""
    tested, goal = selection.tested(runs), selection.goals(runs)[0]
    done = _searched(runs, goal)
    for cell in runs.sort_values("order", kind="stable")["cell"].unique():
        seeds, mine = tested[tested["cell"] == cell], done[done["cell"] == cell]
        if len(seeds):
            yield from seeds.groupby("row", sort=True)
        elif len(mine):
            named = mine["winners"].iloc[0]
            if isinstance(named, str):
                mine = mine[mine["key"].isin([key for key in named.split(",") if key])]
            else:
                mine = mine.nlargest(1, goal)
            yield cell, mine


def _side(of: Domain, value: float) -> str:
    """At which end of the domain a value lies, `low` or `high`; "" for neither, or where the end cannot be moved."""
    if math.isnan(value):
        return ""
    if of.choices:
        if not all(isinstance(c, int | float) and not isinstance(c, bool) for c in of.choices):
            return ""
        low, high = min(of.choices), max(of.choices)
        if len(set(of.choices)) < ORDERED:
            return ""
        at_low, at_high = math.isclose(value, low, rel_tol=1e-6), math.isclose(value, high, rel_tol=1e-6)
        share = low == 0 and high == 1
    else:
        low, high = of.low, of.high
        if low == high:
            return ""
        scale = math.log if of.log else float
        value = max(value, low) if of.log else value  # its text has nine digits; a logarithm needs it above 0
        place = (scale(value) - scale(low)) / (scale(high) - scale(low))
        at_low, at_high = place <= NEAR + 1e-9, place >= 1 - NEAR - 1e-9
        share = not of.log and low >= 0 and high == 1
    if at_low:
        return "" if low == 0 else "low"
    return "high" if at_high and not share else ""


def _ped_anova(done: pd.DataFrame, paths: list[str], values: pd.Series) -> dict[str, float]:
    """Path -> how far its distribution among the trials of high values is from that among all, in no unit."""
    import optuna

    known = done.reindex(columns=[f"{kind}:{path}" for path in paths for kind in ("space", "param")])
    trials = [_frozen(row, paths, value) for row, value in zip(known.to_dict("records"), values, strict=True)]
    values_of = {path: {trial.params[path] for trial in trials if path in trial.params} for path in paths}
    varied = [path for path in paths if len(values_of[path]) > 1]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a domain of a single trial, which is left out
            study = optuna.create_study(direction="maximize")
            study.add_trials(trials)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TOP)
            return evaluator.evaluate(study, params=varied) if varied else {}
    finally:
        optuna.logging.set_verbosity(verbosity)


def _frozen(row: dict, paths: list[str], value: float) -> "FrozenTrial":
    from optuna.trial import create_trial

    params: dict[str, float | str] = {}
    distributions: dict[str, BaseDistribution] = {}
    for path in paths:
        of, text = domain(row[f"space:{path}"]), row.get(f"param:{path}")
        if of is not None and not missing(text) and (set_to := _within(of, str(text))) is not None:
            params[path], distributions[path] = set_to, _distribution(of)
    return create_trial(value=value, params=params, distributions=distributions)


def _distribution(of: Domain) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if of.choices:
        return CategoricalDistribution(tuple(dict.fromkeys(map(str, of.choices))))
    return FloatDistribution(of.low, of.high, log=of.log)


def _within(of: Domain, text: str) -> float | str | None:
    """A setting's text as a value of `_distribution`, None where the domain does not hold it."""
    value = _number(text)
    if not of.choices:
        return None if math.isnan(value) else min(max(value, of.low), of.high)  # its text has nine digits
    for choice in of.choices:
        number = isinstance(choice, int | float) and not isinstance(choice, bool)
        if math.isclose(choice, value, rel_tol=1e-6) if number else str(choice) == text:
            return str(choice)
    return None


def _tau(cells: list[np.ndarray]) -> float:
    """Kendall's tau-b of two columns over the pairs within each array (n, 2); NaN where one of them has no order."""
    agree = first = second = 0.0
    for points in cells:
        signs = np.sign(points[:, None] - points[None, :])  # every pair twice, which cancels
        agree += float((signs[..., 0] * signs[..., 1]).sum())
        first += float(np.abs(signs[..., 0]).sum())
        second += float(np.abs(signs[..., 1]).sum())
    return agree / math.sqrt(first * second) if first and second else math.nan


def _curve_of(rows: pd.DataFrame, goal: str) -> str:
    """The name of the goal's curve, or that of robust accuracy where the goal has none; "" where neither is there."""
    names = (goal.partition("/")[2], "robust")
    return next((name for name in names if f"curve:{name}" in rows and rows[f"curve:{name}"].notna().any()), "")


def _column(rows: pd.DataFrame, name: str) -> pd.Series:
    return rows[name] if name in rows else pd.Series(math.nan, index=rows.index, dtype=float)


def _number(text: str) -> float:
    """The number that a setting is, NaN for any other."""
    try:
        return float(text)
    except ValueError:
        return math.nan
