"""Score names: the one place that makes and reads `split/metric[-strength]`. Without torch, for reports.

str(ScoreName("pgd", "test", steps=10, strength=8))      "test/pgd10-8"
ScoreName.parse("test/strong-gradient-k").metric         "k"
"""

import re
from dataclasses import dataclass, replace

from harness.evaluation.metrics import METRICS, PROTOCOLS, UNKNOWN, Form, Metric

OWN_MAP = "integrated_gradients"  # the map of every protocol that names no other: scores' names leave it out


@dataclass(frozen=True)
class ScoreName:
    """Parsed score name. strength: in 255ths, six digits; None without. steps, severity: 0 without.

    severity 0: of a corruption, the mean over all. protocol, map: of an attribution or localisation; map "": the
    protocol's own. variant: rule for the threshold, "" for the published one. A name of no metric of `METRICS` is a
    metric itself.
    """

    metric: str
    split: str = ""
    steps: int = 0
    restarts: int = 1
    norm: str = "linf"
    strength: float | None = None
    severity: int = 0
    protocol: str = ""
    map: str = ""
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> "ScoreName":
        """The name of a score, with or without its split; `str` gives the same text."""
        split, _, name = text.rpartition("/")
        for form, pattern in _PATTERNS.items():
            if match := pattern.fullmatch(name):
                parts = {part: _CONVERT.get(part, str)(value) for part, value in match.groupdict().items() if value}
                metric = parts.pop("metric") + parts.pop("quantity", "")
                found = cls(metric, split, **parts)
                if found.about is not UNKNOWN and found.about.form == form and str(found) == text:
                    return found
        return cls(name, split)

    def __str__(self) -> str:
        metric, _, quantity = self.metric.partition("_") if self.steps else (self.metric, "", "")
        metric += f"{self.steps or ''}{f'x{self.restarts}' if self.restarts > 1 else ''}{quantity and f'_{quantity}'}"
        before = (self.norm if self.norm != "linf" else "", self.protocol, self.map if self.protocol else "")
        after = ("" if self.protocol else self.map, self.variant, "" if self.strength is None else _text(self.strength))
        text = "-".join(filter(None, (*before, metric, *after, str(self.severity or ""))))
        return f"{self.split}/{text}" if self.split else text

    def on(self, split: str) -> "ScoreName":
        """The same score of another split; "" for the name without one."""
        return replace(self, split=split)

    @property
    def explained(self) -> str:
        """The map of an attribution score, `integrated_gradients` if the name has none; "" for any other score."""
        return (self.map or OWN_MAP) if self.protocol else ""

    @property
    def about(self) -> Metric:
        """The metric's entry in `METRICS`; `UNKNOWN` too for a name that lacks what the metric's names have."""
        about = METRICS.get(self.metric, UNKNOWN)
        missing = {"attack": self.strength is None, "minimum": not self.steps}
        missing |= {"similarity": not self.protocol, "boxes": not self.map}
        return UNKNOWN if missing.get(about.form) else about


def in_255ths(eps: float) -> float:
    """eps as the strength of a score name, with six digits."""
    return float(_text(eps * 255))


def _text(strength: float) -> str:
    return f"{strength:.6g}"


_CONVERT = {"steps": int, "restarts": int, "severity": int, "strength": float}
_VARIANT = r"(?:-(?P<variant>oracle|transferred|otsu))?"
_PATTERNS: dict[Form, re.Pattern[str]] = {
    "plain": re.compile(r"(?P<metric>.+)"),
    "attack": re.compile(
        r"(?:(?P<norm>l2)-)?(?P<metric>[a-z][a-z-]*?)(?P<steps>\d+)?(?:x(?P<restarts>\d+))?"
        r"-(?P<strength>\d+(?:\.\d+)?(?:e[+-]\d+)?)"
    ),
    "minimum": re.compile(r"(?P<metric>[a-z]+)(?P<steps>\d+)(?P<quantity>_\w+)?"),
    "corruption": re.compile(r"(?P<metric>\w+)(?:-(?P<severity>[1-5]))?"),
    "similarity": re.compile(rf"(?P<protocol>{'|'.join(PROTOCOLS)})-(?:(?P<map>[\w.+]+)-)?(?P<metric>\w+)"),
    "boxes": re.compile(rf"(?P<metric>\w+)-(?P<map>\w+){_VARIANT}"),
    "masks": re.compile(rf"(?P<metric>[a-z]+){_VARIANT}"),
}
