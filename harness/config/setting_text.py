"""Settings and their search domains as text."""

from harness.config.range_checks import declarations
from harness.config.search_domains import Choices, Domain, Range
from harness.config.trial import Trial, declared_type
from harness.setting_types import PixelScale
from methods import Setting


def format_setting(trial: Trial, path: str, value: Setting | Domain) -> str:
    """A value, or the search domain, of the trial's setting at this path as text; strengths in 255ths."""
    return _text(value, PixelScale() in declarations(declared_type(trial, path)))


def _text(value: Setting | Domain, in_255ths: bool) -> str:
    if isinstance(value, Choices):
        return ", ".join(_text(one, in_255ths) for one in value.choices)
    if isinstance(value, Range):
        ends = f"{_text(value.low, in_255ths)} to {_text(value.high, in_255ths)}"
        return f"{ends}, log" if value.log else ends
    if isinstance(value, float):
        return f"{value * 255:.4g}/255" if in_255ths else f"{value:.4g}"
    return str(value)
