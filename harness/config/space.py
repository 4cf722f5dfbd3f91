"""Search spaces: the settings of a study that are fixed, compared and tuned.

    SPACE = Space(base={...}, compare={"cell": {...}, ...}, search={"method.eps": times(0.5, 1, 2)}, goal="val/robust")

A space is a module of `search_spaces` whose docstring states its question, its cost and its result. Each cell of
`compare` gets its own Optuna study with the same budget and domains. The published setting is each study's first trial.
"""

import hashlib
import itertools
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from optuna.distributions import CategoricalDistribution, FloatDistribution

from harness.config import search_domains
from harness.config.named_settings import all_pinned, pinned, plugins_of
from harness.config.search_domains import Domain, Relative
from harness.config.setting_text import format_setting
from harness.config.trial import Trial, build, check_settings_used, has_setting
from harness.errors import UserError
from harness.evaluation.metrics import UNKNOWN
from harness.evaluation.score_name import ScoreName
from methods import Setting

MOST = 1_000_000  # trials or seeds that a space can ask for, as the options of a command


def grid(name: str, **axes: tuple[str, tuple[Setting, ...]]) -> dict[str, dict[str, Setting]]:
    """Cells of a Cartesian product: grid("{s} {t}", s=("maps.saliency", (...)), t=("maps.teacher", (...)))."""
    paths = {axis: path for axis, (path, _) in axes.items()}
    cells = {}
    for values in itertools.product(*(values for _, values in axes.values())):
        named = dict(zip(axes, values, strict=True))
        cells[name.format(**named)] = {paths[axis]: value for axis, value in named.items()}
    return cells


@dataclass(frozen=True)
class Cell:
    """One compared alternative, a row of the leaderboard: its published trial and search domains."""

    name: str
    trial: Trial
    search: dict[str, Domain]
    settings: dict[str, Setting]
    control: bool = False
    data: str = "digits"

    def proposed(self, values: Mapping[str, Setting]) -> Trial:
        """The cell's trial with proposed values for the searched paths."""
        return build({**self.settings, **values})

    def plugins(self) -> list[str]:
        """Pinned references of the plug-ins that its trials may have."""
        searched = [{path: value} for path, d in self.search.items() for value in search_domains.examples(d)]
        return [name for settings in (self.trial.flat(), *searched) for name in plugins_of(settings)]

    def published(self) -> dict[str, Setting]:
        """The values of the searched paths in the published trial."""
        flat = self.trial.flat()
        return {path: flat[path] for path in self.search}


@dataclass(frozen=True)
class Space:
    """The fixed, compared and tuned settings of a sweep, with its goals and budget.

    base: settings of all cells; compare: cell name -> its own settings; search: dotted path -> domain, used by every
    cell that has the path. goal: one or several `val/` scores to maximise. floor: least value of a score for a trial to
    count. controls: names of the control cells. trials: per cell. seeds: seed runs of each winner. halving: reduction
    factor of successive halving; the best 1/halving of the trials at a rung continue (0: no pruning).
    """

    base: dict[str, Setting]
    compare: dict[str, dict[str, Setting]]
    search: dict[str, Domain | Relative]
    goal: str | tuple[str, ...] = "val/robust"
    floor: dict[str, float] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    trials: int = 6
    seeds: int = 3
    halving: int = 3

    def __post_init__(self) -> None:
        self._pin()
        for goal in (*self.goals, *self.floor):
            if not goal.startswith("val/"):
                raise UserError(f"a goal is a validation score, val/..., not {goal!r}")
            about = ScoreName.parse(goal).about
            if about is not UNKNOWN and not (about.is_share and about.better == "higher"):
                raise UserError(f"a goal is a share or a similarity, such as val/robust or val/strong-in, not {goal!r}")
        for name, least in self.floor.items():
            if not math.isfinite(least):
                raise UserError(f"the floor of {name} is a finite number, not {least}")
        for what, least in (("trials", 1), ("seeds", 0), ("halving", 0)):
            number = getattr(self, what)
            if type(number) is not int or not least <= number <= MOST:
                raise UserError(f"{what} is a whole number from {least} to {MOST}, not {number!r}")
        if any(not cell.strip() for cell in self.compare):
            raise UserError("a cell has a name; one is empty")
        for control in self.controls:
            if control not in self.compare:
                raise UserError(f"control {control!r} is no cell of the space")
        used = set().union(*(cell.search for cell in self.cells({})))
        if missing := set(self.search) - used:
            raise UserError(f"no cell of the space has {sorted(missing)[0]!r}")

    def _pin(self) -> None:
        """Pin the plug-ins that it names: while a sweep runs, all of its trials have the same ones."""
        search = {path: search_domains.changed(domain, partial(pinned, path)) for path, domain in self.search.items()}
        compare = {name: all_pinned(own) for name, own in self.compare.items()}
        for name, value in (("base", all_pinned(self.base)), ("compare", compare), ("search", search)):
            object.__setattr__(self, name, value)

    @property
    def goals(self) -> tuple[str, ...]:
        return (self.goal,) if isinstance(self.goal, str) else self.goal

    def cells(self, overrides: Mapping[str, Setting]) -> list[Cell]:
        """The cells, with `overrides` applied to each. Raises `UserError` for a setting that no cell has."""
        overrides = all_pinned(overrides)
        for path in overrides:
            if any(path in own for own in self.compare.values()) and len(self.compare) > 1:
                base = shlex.quote(next((n for n in self.compare if n not in self.controls), next(iter(self.compare))))
                raise UserError(
                    f"{path} is what this space compares, so it cannot be set in all cells;"
                    f" choose one cell as its base: --cell {base}"
                )
        unused = {path for path in overrides if path.startswith("method.")}
        cells = []
        for name, own in self.compare.items():
            settings = {**self.base, **own}
            plain = build({**settings, **{p: v for p, v in overrides.items() if p in ("method", "data")}})
            fitting = {p: v for p, v in overrides.items() if not p.startswith("method.") or has_setting(plain, p)}
            unused -= set(fitting)
            settings |= fitting
            trial = build(settings)
            check_settings_used(trial, overrides)
            searched = {p: d for p, d in self.search.items() if has_setting(trial, p) and p not in overrides}
            search = {p: _resolved(name, trial, settings, p, d) for p, d in searched.items()}
            cells.append(Cell(name, trial, search, settings, name in self.controls, trial.data.name))
        for path in unused:  # a path that no cell has: `build` raises with the nearest name
            build({**self.base, **next(iter(reversed(self.compare.values()))), path: overrides[path]})
        return cells

    def digest(self, cell: Cell) -> str:
        """Hash of a study, eight hex digits: fixed settings, domains, goals and halving, without budgets."""
        searched = {path: search_domains.digest_text(domain) for path, domain in cell.search.items()}
        text = json.dumps([cell.trial.key, searched, self.goals, self.floor, self.halving], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class NamedSpace:
    """A space with the name that its experiment, studies and reports have, and the question that it asks.

    table: what it was read from, if that is TOML.
    reference: of a plug-in, pinned.
    """

    name: str
    space: Space
    question: str = ""
    table: Mapping[str, object] | None = None
    reference: str = ""


def _resolved(
    cell: str, trial: Trial, settings: Mapping[str, Setting], path: str, declared: Domain | Relative
) -> Domain:
    """The search domain of a cell. Raises `UserError` unless it gives valid trials and contains the published value."""
    published = trial.flat()[path]
    try:
        domain = search_domains.resolve(declared, published)
        for value in search_domains.examples(domain):
            build({**settings, path: value})
        if isinstance(domain, FloatDistribution) and type(published) is int:
            raise UserError("it is a whole number, so search it by integer(low, high)")
        if isinstance(domain, CategoricalDistribution) and any(isinstance(v, tuple) for v in domain.choices):
            raise UserError("its values are several numbers each, so search it by ordered(...)")  # Optuna cannot
    except UserError as error:
        raise UserError(f"cell {cell!r} cannot search {path}: {error}") from None
    if not search_domains.contains(domain, published):
        inside = format_setting(trial, path, domain)
        raise UserError(f"cell {cell!r} searches {path} in {inside}; the published {published!r} is outside")
    return domain
