"""Hyperparameter importance by PED-ANOVA (Optuna)."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from harness.config.search_domains import Choices, Domain, Ordered
from reports.analyse import counted_runs
from reports.analyse.curves import searched_trials, to_number
from reports.analyse.missing import is_missing
from reports.analyse.search_domain_tags import domain

# Simulated searches in which one of three hyperparameters (four choices, a range, a log range) explains 80 % of the
# variance within cells, linearly or with an interior peak: 30 trials of one to ten cells rank it first in 92 to 98 %;
# worst case, a choice in cells of three trials, 80 %. With 20 trials it is 86 to 92 %.
MIN_TRIALS = 30
TOP = 0.5  # quantile of the trials; in the simulation a tenth (Optuna's default) or a quarter did worse


@dataclass(frozen=True)
class Importance:
    """shares: (path, share), largest first, sum 1. trials: their number. why_not: why shares is empty, else ""."""

    shares: list[tuple[str, float]]
    trials: int
    why_not: str = ""


def importance(runs: pd.DataFrame) -> Importance:
    """Importance of the searched hyperparameters for the first goal, over the complete trials of the search.

    PED-ANOVA (Watanabe et al., IJCAI 2023; Optuna's implementation) compares the distribution of a hyperparameter among
    the better half of the trials with that among all. fANOVA fits random forests, which are slow, vary with the seed
    and need more trials than cells have. Trials of all cells are pooled by their rank within the cell: levels and
    spreads of cells differ, so raw values would separate cells, and values minus the cell's mean would take the better
    half from the cells with the largest spread. Cells whose trials all have the same value are left out. A
    hyperparameter counts in the cells that search it, each domain separately.

    Shares are relative: they sum to 1 for pure noise too. They describe trials that ran to the end: if halving pruned
    the bad ones, what made these bad looks less important than it is."""
    goal = counted_runs.goals(runs)[0]
    finished = searched_trials(runs, goal)
    finished = finished[finished.groupby("cell")[goal].transform("nunique") > 1] if len(finished) else finished
    paths = sorted(c.removeprefix("space:") for c in runs.columns if c.startswith("space:") and runs[c].notna().any())
    if not paths:
        return Importance([], len(finished), "No hyperparameter was searched, or no domain is recorded.")
    if len(finished) < MIN_TRIALS:
        reason = f"Only {len(finished)} finished trials can be compared within their cells; {MIN_TRIALS} are needed"
        return Importance([], len(finished), f"{reason} before an order of hyperparameters can be trusted.")
    ranks = finished.groupby("cell")[goal].rank()
    sizes = finished.groupby("cell")[goal].transform("size")
    shares = _ped_anova(finished, paths, (ranks - 0.5) / sizes)
    total = sum(shares.values())
    if not total > 0:
        return Importance(
            [], len(finished), "No searched hyperparameter took different values among the finished trials."
        )
    ordered = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    return Importance([(path, share / total) for path, share in ordered], len(finished))


def _ped_anova(finished: pd.DataFrame, paths: list[str], values: pd.Series) -> dict[str, float]:
    """Path -> divergence of its distribution among the trials of high values from that among all (unnormalised)."""
    import optuna

    known = finished.reindex(columns=[f"{kind}:{path}" for path in paths for kind in ("space", "param")])
    trials = [_frozen(row, paths, value) for row, value in zip(known.to_dict("records"), values, strict=True)]
    tried = {path: {trial.params[path] for trial in trials if path in trial.params} for path in paths}
    varied = [path for path in paths if len(tried[path]) > 1]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a domain with a single trial, which is left out
            study = optuna.create_study(direction="maximize")
            study.add_trials(trials)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TOP)
            return evaluator.evaluate(study, params=varied) if varied else {}
    finally:
        optuna.logging.set_verbosity(verbosity)


def _frozen(row: Mapping[str, str | None], paths: list[str], value: float) -> FrozenTrial:
    params: dict[str, float | str] = {}
    distributions: dict[str, BaseDistribution] = {}
    for path in paths:
        searched, text = domain(row[f"space:{path}"]), row.get(f"param:{path}")
        if searched is not None and not is_missing(text) and (set_to := _within(searched, str(text))) is not None:
            params[path], distributions[path] = set_to, _distribution(searched)
    return create_trial(value=value, params=params, distributions=distributions)


def _distribution(searched: Domain) -> BaseDistribution:
    if isinstance(searched, CategoricalDistribution):
        return CategoricalDistribution(tuple(dict.fromkeys(map(str, searched.choices))))
    return searched.index if isinstance(searched, Ordered) else searched


def _within(searched: Domain, text: str) -> float | str | None:
    """A setting's text as a value of `_distribution`, None if it is outside the domain."""
    value = to_number(text)
    if not isinstance(searched, Choices):
        if math.isnan(value):
            return None
        inside = min(max(value, searched.low), searched.high)  # its text has nine digits
        return int(inside) if isinstance(searched, IntDistribution) else inside
    for index, choice in enumerate(searched.choices):
        if isinstance(choice, int | float) and not isinstance(choice, bool):
            same = math.isclose(choice, value, rel_tol=1e-6)
        else:
            same = str(choice) == text
        if same:
            return index if isinstance(searched, Ordered) else str(choice)
    return None
