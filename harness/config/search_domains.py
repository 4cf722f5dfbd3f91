"""Search domains of hyperparameters: Optuna's distributions, some of them relative to the published value.

    search={"method.alpha10": uniform(0, 1), "method.steps": integer(1, 20), "optim.lr": within(3)}

A space may also hold any distribution of `optuna.distributions`.
"""

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from harness.errors import UserError
from methods import Setting


@dataclass(frozen=True)
class Ordered:
    """Values in an order. Optuna searches their index, so that its sampler knows which are neighbours."""

    choices: tuple[Setting, ...]

    @property
    def index(self) -> IntDistribution:
        return IntDistribution(0, len(self.choices) - 1)


@dataclass(frozen=True)
class Relative:
    """A domain around the published value of the data set. resolve: from that value to the domain."""

    resolve: Callable[[float], "Domain"]


Choices = CategoricalDistribution | Ordered
Range = FloatDistribution | IntDistribution
Domain = Choices | Range


def uniform(low: float, high: float) -> FloatDistribution:
    """Uniform on [low, high]."""
    return _real(low, high, log=False)


def log(low: float, high: float) -> FloatDistribution:
    """Log-uniform on [low, high]."""
    return _real(low, high, log=True)


def integer(low: int, high: int, log: bool = False) -> IntDistribution:
    """Whole numbers from low to high, both included."""
    if low != int(low) or high != int(high):
        raise UserError(f"integer(low, high) takes whole numbers, not {low!r} and {high!r}")
    _check_ends(int(low), int(high), log)
    return IntDistribution(int(low), int(high), log=log)


def choice(*values: Setting) -> CategoricalDistribution:
    """One of these values, which have no order."""
    if not values:
        raise UserError("a choice needs at least one value")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tuples, such as several eps, which are stored as JSON lists
        return CategoricalDistribution(values)  # type: ignore[arg-type]  # tuples are choices, too


def ordered(*values: Setting) -> Ordered:
    """One of these values, which have this order."""
    if len(set(values)) < max(1, len(values)):
        raise UserError(f"ordered values are given, each once, not {values!r}")
    return Ordered(values)


def times(*factors: float) -> Relative:
    """The published value times one of these factors."""
    return Relative(lambda published: choice(*(type(published)(published * factor) for factor in factors)))


def within(factor: float) -> Relative:
    """Log-uniform within this factor of the published value; whole numbers, if that is one."""
    if not 1 <= factor < math.inf:
        raise UserError(f"within(factor) takes a number from 1, such as 3, not {factor!r}")

    def around(published: float) -> Range:
        low, high = published / factor, published * factor
        return integer(math.ceil(low), math.floor(high), log=True) if type(published) is int else log(low, high)

    return Relative(around)


def resolve(domain: Domain | Relative, published: Setting) -> Domain:
    """The domain at the published value. Raises `UserError` if it is relative and that is no number."""
    if not isinstance(domain, Relative):
        return domain
    if isinstance(published, bool) or not isinstance(published, int | float):
        raise UserError(f"a domain cannot be relative to {published!r}, which is no number")
    return domain.resolve(published)


def contains(domain: Domain, value: Setting) -> bool:
    """Whether a value is inside the domain."""
    if isinstance(domain, Choices):
        return value in domain.choices
    if not isinstance(value, int | float) or not domain.low <= value <= domain.high:
        return False
    steps = (value - domain.low) / domain.step if domain.step else 0.0
    return abs(steps - round(steps)) < 1e-8


def changed(domain: Domain | Relative, change: Callable[[Setting], Setting]) -> Domain | Relative:
    """The domain with each of its choices changed; any other as it is."""
    if isinstance(domain, Ordered):
        return ordered(*map(change, domain.choices))
    return choice(*map(change, domain.choices)) if isinstance(domain, CategoricalDistribution) else domain


def examples(domain: Domain) -> tuple[Setting, ...]:
    """Values of the domain: all choices, or the ends of a range."""
    return tuple(domain.choices) if isinstance(domain, Choices) else (domain.low, domain.high)


def numbers(domain: Domain) -> list[float]:
    """Values of the domain if all are numbers; else none."""
    values = examples(domain)
    found = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return found if len(found) == len(values) else []


def distributions(search: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """What Optuna searches: path -> distribution."""
    return {path: domain.index if isinstance(domain, Ordered) else domain for path, domain in search.items()}


def to_params(search: Mapping[str, Domain], values: Mapping[str, Setting]) -> dict[str, Setting]:
    """Values as Optuna's parameters."""
    return {p: d.choices.index(v) if isinstance(d, Ordered) else v for p, v in values.items() for d in [search[p]]}


def from_params(search: Mapping[str, Domain], params: Mapping[str, Setting]) -> dict[str, Setting]:
    """Optuna's parameters as values."""
    return {path: _value(search[path], param) for path, param in params.items()}


def _value(domain: Domain, param: Setting) -> Setting:
    return domain.choices[param] if isinstance(domain, Ordered) and isinstance(param, int) else param


def domain_as_json(domain: Domain) -> Mapping[str, object]:
    """A domain as a JSON object, as tags of runs have it.

    {"low", "high"}, with "log": real numbers. {"choices"}, with "ordered". Else Optuna's {"name", "attributes"}.
    """
    if isinstance(domain, Choices):
        return {"choices": list(domain.choices)} | ({"ordered": True} if isinstance(domain, Ordered) else {})
    if _is_plain(domain):
        return {"low": domain.low, "high": domain.high} | ({"log": True} if domain.log else {})
    return json.loads(distribution_to_json(domain))


def domain_from_json(text: str) -> Domain:
    """The domain of a tag. Raises `UserError` for any other text."""
    try:
        parsed = json.loads(text)
        if "name" in parsed and isinstance(domain := json_to_distribution(text), Domain):
            return domain
        if "choices" in parsed:
            values = [tuple(value) if isinstance(value, list) else value for value in parsed["choices"]]
            return ordered(*values) if parsed.get("ordered") else choice(*values)
        return _real(float(parsed["low"]), float(parsed["high"]), bool(parsed.get("log", False)))
    except UserError:
        raise
    except (ValueError, TypeError, KeyError):
        example = '{"low": 0, "high": 1} or {"choices": [1, 2]}'
        raise UserError(f"a domain is JSON such as {example}, not {text!r}") from None


def digest_text(domain: Domain) -> str:
    """A domain's part of a study's digest, by which a sweep finds its studies again: never change the text of a kind.

    The first two kinds have the names that they had before they were Optuna's.
    """
    if isinstance(domain, CategoricalDistribution):
        return f"Choice(values={domain.choices!r})"
    if _is_plain(domain):
        return f"{'Log' if domain.log else 'Uniform'}(low={domain.low!r}, high={domain.high!r})"
    return json.dumps(domain_as_json(domain), sort_keys=True)


def _is_plain(domain: Domain) -> TypeGuard[FloatDistribution]:
    return isinstance(domain, FloatDistribution) and domain.step is None


def _real(low: float, high: float, log: bool) -> FloatDistribution:
    _check_ends(low, high, log)
    domain = FloatDistribution(low, high, log=log)
    domain.low, domain.high = low, high  # as written, 0 rather than 0.0: the study's digest has this text
    return domain


def _check_ends(low: float, high: float, log: bool) -> None:
    if not low <= high or (log and low <= 0) or math.isinf(high - low):
        raise UserError(
            f"a domain goes from low to high, above 0 where it is logarithmic, not from {low!r} to {high!r}"
        )
