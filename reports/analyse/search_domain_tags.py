"""Parse the search domain of a hyperparameter from a run's tag."""

from harness.config.search_domains import Domain, domain_from_json
from reports.analyse.missing import Value, is_missing


def domain(text: Value) -> Domain | None:
    """The domain of a `space:` field, such as `{"low": 0.01, "high": 0.1, "log": true}` or `{"choices": [1, 2]}`.

    None for a missing one. Raises `UserError` for any other text."""
    return None if is_missing(text) or text == "" else domain_from_json(str(text))
