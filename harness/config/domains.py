"""Search domains of hyperparameters: uniform, log-uniform, categorical, and relative to the published value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high]."""

    low: float
    high: float

    def resolve(self, published: object) -> "Uniform":
        return self

    def contains(self, value: object) -> bool:
        return self.low <= value <= self.high

    def examples(self) -> tuple:
        return (self.low, self.high)


@dataclass(frozen=True)
class Log(Uniform):
    """Log-uniform on [low, high]."""


@dataclass(frozen=True)
class Choice:
    """Categorical: one of these values."""

    values: tuple

    def resolve(self, published: object) -> "Choice":
        return self

    def contains(self, value: object) -> bool:
        return value in self.values

    def examples(self) -> tuple:
        return self.values


@dataclass(frozen=True)
class Times:
    """Categorical: the published value of the data set times one of these factors."""

    factors: tuple[float, ...]

    def resolve(self, published: float) -> Choice:
        return Choice(tuple(type(published)(published * f) for f in self.factors))


@dataclass(frozen=True)
class Within:
    """Log-uniform within this factor of the published value of the data set."""

    factor: float

    def resolve(self, published: float) -> Log:
        return Log(published / self.factor, published * self.factor)


Domain = Uniform | Log | Choice | Times | Within


def format_setting(path: str, value: object) -> str:
    """A value or a domain as text; strengths in 255ths."""
    if isinstance(value, Choice):
        return ", ".join(format_setting(path, v) for v in value.values)
    if isinstance(value, Uniform):
        return f"{format_setting(path, value.low)} to {format_setting(path, value.high)}" + (
            ", log" if isinstance(value, Log) else ""
        )
    if isinstance(value, float):
        return f"{value * 255:.4g}/255" if path.split(".")[-1] in ("eps", "step") else f"{value:.4g}"
    return str(value)


def domain_as_json(domain: Uniform | Log | Choice) -> dict[str, object]:
    """A domain as a JSON object: {"low", "high"}, with "log", or {"choices"}."""
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
