"""What a study asks: settings that are fixed, compared and tuned.

    SPACE = Space(base={...}, compare={"cell": {...}, ...}, search={"method.eps": times(0.5, 1, 2)}, goal="val/robust")

A space is a module of `search_spaces` whose docstring says what it asks, what it costs and what it found. Each cell of
`compare` gets its own study with the same budget and domains. The published setting is each study's first trial.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.config import UNITLESS, Trial, build, check_read, has
from harness.errors import Mistake, one_line


@dataclass(frozen=True)
class Uniform:
    """Any number between low and high."""

    low: float
    high: float

    def at(self, published: object) -> "Uniform":
        return self

    def holds(self, value: object) -> bool:
        return self.low <= value <= self.high

    def examples(self) -> tuple:
        return (self.low, self.high)


@dataclass(frozen=True)
class Log(Uniform):
    """Any number between low and high, its logarithm uniform."""


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple

    def at(self, published: object) -> "Choice":
        return self

    def holds(self, value: object) -> bool:
        return value in self.values

    def examples(self) -> tuple:
        return self.values


@dataclass(frozen=True)
class Times:
    """The published value of the data set at hand, times one of these factors."""

    factors: tuple[float, ...]

    def at(self, published: float) -> Choice:
        return Choice(tuple(type(published)(published * f) for f in self.factors))


@dataclass(frozen=True)
class Within:
    """Within this factor of the published value of the data set at hand, the logarithm uniform."""

    factor: float

    def at(self, published: float) -> Log:
        return Log(published / self.factor, published * self.factor)


Domain = Uniform | Log | Choice | Times | Within


def spoken(path: str, value: object) -> str:
    """A value or a domain in words; strengths in 255ths."""
    if isinstance(value, Choice):
        return ", ".join(spoken(path, v) for v in value.values)
    if isinstance(value, Uniform):
        return f"{spoken(path, value.low)} to {spoken(path, value.high)}" + (", log" if isinstance(value, Log) else "")
    if isinstance(value, float):
        return f"{value * 255:.4g}/255" if path.split(".")[-1] in ("eps", "step") else f"{value:.4g}"
    return str(value)


def plain(domain: Uniform | Log | Choice) -> dict[str, object]:
    """A domain as JSON keeps it: {"low", "high"}, with "log", or {"choices"}."""
    if isinstance(domain, Choice):
        return {"choices": list(domain.values)}
    return {"low": domain.low, "high": domain.high} | ({"log": True} if isinstance(domain, Log) else {})


def uniform(low: float, high: float) -> Uniform:
    return Uniform(low, high)


def log(low: float, high: float) -> Log:
    return Log(low, high)


def choice(*values: object) -> Choice:
    return Choice(values)


def times(*factors: float) -> Times:
    return Times(factors)


def within(factor: float) -> Within:
    return Within(factor)


def grid(name: str, **axes: tuple) -> dict[str, dict[str, object]]:
    """Cells for every combination: grid("{s} {t}", s=("maps.saliency", (...)), t=("maps.teacher", (...)))."""
    paths = {axis: path for axis, (path, _) in axes.items()}
    cells = {}
    for values in itertools.product(*(values for _, values in axes.values())):
        named = dict(zip(axes, values, strict=True))
        cells[name.format(**named)] = {paths[axis]: value for axis, value in named.items()}
    return cells


@dataclass(frozen=True)
class Cell:
    """One row of the table to come: its published trial and the domains around it."""

    name: str
    trial: Trial
    search: dict[str, Uniform | Log | Choice]
    settings: dict[str, object]
    control: bool = False
    data: str = "digits"

    def proposed(self, values: Mapping[str, object]) -> Trial:
        """The cell's trial with these values of the searched paths."""
        return build({**self.settings, **values})

    def published(self) -> dict[str, object]:
        """The values of the searched paths in the published trial."""
        flat = self.trial.flat()
        return {path: flat[path] for path in self.search}


@dataclass(frozen=True)
class Space:
    """base: settings of all cells; compare: cell name -> its own settings; search: dotted path -> domain, used by every
    cell that has the path. goal: one or several `val/` scores to maximise. floor: least value of a score for a trial to
    count. controls: cells that the others are held against. trials: per cell. seeds: repetitions of each winner.
    halving: a trial goes on past a rung only among the best 1/halving of those that reached it (0: all run to the end).
    """

    base: dict[str, object]
    compare: dict[str, dict[str, object]]
    search: dict[str, Domain]
    goal: str | tuple[str, ...] = "val/robust"
    floor: dict[str, float] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    trials: int = 6
    seeds: int = 3
    halving: int = 3

    def __post_init__(self) -> None:
        for goal in (*self.goals, *self.floor):
            if not goal.startswith("val/"):
                raise Mistake(f"a goal is a validation score, val/..., not {goal!r}")
            if goal.endswith(UNITLESS):
                raise Mistake(f"a goal is a share or a likeness, such as val/robust or val/strong-in, not {goal!r}")
        for control in self.controls:
            if control not in self.compare:
                raise Mistake(f"control {control!r} is no cell of the space")
        used = set().union(*(cell.search for cell in self.cells({})))
        if missing := set(self.search) - used:
            raise Mistake(f"no cell of the space has {sorted(missing)[0]!r}")

    @property
    def goals(self) -> tuple[str, ...]:
        return (self.goal,) if isinstance(self.goal, str) else self.goal

    def cells(self, overrides: Mapping[str, object]) -> list[Cell]:
        """The cells with `overrides` laid over every one of them. Raises `Mistake` for a setting that no cell has."""
        for path in overrides:
            if any(path in own for own in self.compare.values()) and len(self.compare) > 1:
                raise Mistake(
                    f"{path} is what this space compares, so it cannot be set; choose a cell or another space"
                )
        unused = {path for path in overrides if path.startswith("method.")}
        cells = []
        for name, own in self.compare.items():
            settings = {**self.base, **own}
            plain = build({**settings, **{p: v for p, v in overrides.items() if p in ("method", "data")}})
            fitting = {p: v for p, v in overrides.items() if not p.startswith("method.") or has(plain, p)}
            unused -= set(fitting)
            settings |= fitting
            trial = build(settings)
            check_read(trial, overrides)
            search = {p: d for p, d in self.search.items() if has(trial, p) and p not in overrides}
            search = {p: d.at(trial.flat()[p]) for p, d in search.items()}
            _check(name, trial, settings, search)
            cells.append(Cell(name, trial, search, settings, name in self.controls, trial.data.name))
        for path in unused:  # a path that no cell has: let the first cell say what is near
            build({**self.base, **next(iter(reversed(self.compare.values()))), path: overrides[path]})
        return cells

    def digest(self, cell: Cell) -> str:
        """Eight hex digits of what makes two studies one: fixed settings, domains and goals; not budgets."""
        searched = {path: repr(domain) for path, domain in cell.search.items()}
        text = json.dumps([cell.trial.key, searched, self.goals, self.floor, self.halving], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _check(name: str, trial: Trial, settings: Mapping[str, object], search: Mapping[str, Domain]) -> None:
    """Every value of a domain must make a trial, and the published one must lie in its domain."""
    for path, domain in search.items():
        for value in domain.examples():
            try:
                build({**settings, path: value})
            except Mistake as error:
                raise Mistake(f"cell {name!r} cannot search {path}: {one_line(error)}") from None
        if not domain.holds(trial.flat()[path]):
            inside = spoken(path, domain)
            raise Mistake(f"cell {name!r} searches {path} in {inside}; the published {trial.flat()[path]!r} is outside")
