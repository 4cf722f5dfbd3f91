"""Parse the search domain of a hyperparameter from a run's tag."""

import json
import math
from dataclasses import dataclass

from harness.errors import UserError
from reports.analyse.columns import is_missing


@dataclass(frozen=True)
class Domain:
    """A search domain: from low to high (log: log-uniform), or a set of choices."""

    low: float = math.nan
    high: float = math.nan
    log: bool = False
    choices: tuple = ()


def domain(text: object) -> Domain | None:
    """The domain of a `space:` field, such as `{"low": 0.01, "high": 0.1, "log": true}` or `{"choices": [1, 2]}`.

    None for a missing one. Raises `UserError` for any other text."""
    if is_missing(text) or text == "":
        return None
    try:
        parsed = json.loads(str(text))
        if "choices" in parsed:
            return Domain(choices=tuple(tuple(c) if isinstance(c, list) else c for c in parsed["choices"]))
        low, high, log = float(parsed["low"]), float(parsed["high"]), bool(parsed.get("log", False))
    except (ValueError, TypeError, KeyError):
        example = '{"low": 0, "high": 1} or {"choices": [1, 2]}'
        raise UserError(f"a domain is JSON such as {example}, not {text!r}") from None
    if not low <= high or (log and low <= 0) or math.isinf(high - low):
        raise UserError(f"a domain goes from low to high, above 0 where it is logarithmic, not {text!r}")
    return Domain(low, high, log)
