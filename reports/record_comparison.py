"""Compare a trial's record with the result of training and measuring it again: scores, images and weights."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness.evaluation.external.checkpoints import load_untrusted_weights
from harness.evaluation.score_name import ScoreName
from harness.evaluation.scores import Score
from harness.trials.result import Result
from reports.read.record import Record, contradictions

# Facts that must be equal for bitwise equal sums.
NUMERIC = ("device", "cpu", "threads", "python", "torch", "numpy")
ERRORS = 3.0  # tolerance in standard errors for a net trained on another machine


@dataclass(frozen=True)
class Compared:
    """A recorded score and its reproduction, None if missing. tolerance: the allowed difference.

    images: how many differ, of how many; None if not stored. same: bitwise equal in everything that is stored.
    note: another reason why it does not agree."""

    name: str
    then: float | None
    now: float | None
    tolerance: float
    images: tuple[int, int] | None
    same: bool
    agrees: bool
    note: str = ""


def exact(then: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether bitwise equal results are expected: on a CPU, with every fact of `NUMERIC` unchanged."""

    def numeric(of: Mapping[str, str]) -> list[str | None]:
        minor = ".".join(of.get("python", "").split(".")[:2])
        return [{**of, "python": minor}.get(name) for name in NUMERIC]

    return now.get("device", "").startswith("cpu") and numeric(then) == numeric(now) and None not in numeric(then)


def compare(record: Record, now: Result, *, bitwise: bool) -> list[Compared]:
    """Compare every score of the record that can be reproduced with that of `now`, in the record's order.

    bitwise: only bitwise equal scores agree, per-image values included. Otherwise a score agrees within `tolerance`, if
    its protocol and version are the same: nets trained on other hardware diverge like those of other seeds, so neither
    bits nor images can be compared. Scores that contradict themselves in the record never agree."""
    then_scores, now_scores = (
        {s.name: s for s in r.scores if ScoreName.parse(s.name).split in parts_of(record)} for r in (record.result, now)
    )
    disagreements, rows = contradictions(record), []
    for name in {**then_scores, **now_scores}:
        then, again = then_scores.get(name), now_scores.get(name)
        if then is None or again is None:
            note = "not in the record" if then is None else "not measured again"
            before, now_mean = (None if score is None else score.mean for score in (then, again))
            rows.append(Compared(name, before, now_mean, 0.0, None, False, False, note))
            continue
        images = _images(then.per_example, again.per_example)
        same = _text(then.record()) == _text(again.record()) and not (images and images[0])
        limit = 0.0 if bitwise else tolerance(then, again, record.spread.get(name, 0.0))
        close = abs(then.mean - again.mean) <= limit or (math.isnan(then.mean) and math.isnan(again.mean))
        same_protocol = _text([then.protocol, then.version]) == _text([again.protocol, again.version])
        note = disagreements.get(
            name, "" if same_protocol else "it was measured differently, by protocol, version or files"
        )
        agrees = (same if bitwise else close and same_protocol) and name not in disagreements
        rows.append(Compared(name, then.mean, again.mean, limit, images, same, agrees, note))
    return rows


def tolerance(then: Score, now: Score, spread: float = 0.0) -> float:
    """Allowed difference of a score between two nets of the same settings, trained on different machines.

    The larger of three standard errors of the difference of two measurements, and three standard deviations of the
    difference of two seeds, if the winner has several other seed runs. spread: their standard deviation. For a share
    at least three images, since a share of 0 or 1 has no standard error."""
    errors = math.hypot(*(0.0 if math.isnan(s.stderr) else s.stderr for s in (then, now)))
    limit = ERRORS * max(errors, math.sqrt(2) * spread)
    share = then.per_example is not None and then.per_example.dtype == bool
    return max(limit, ERRORS / then.n) if share and then.n else limit


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _images(then: np.ndarray | None, now: np.ndarray | None) -> tuple[int, int] | None:
    if then is None or now is None:
        return None
    if len(then) != len(now):
        return max(len(then), len(now)), max(len(then), len(now))
    then, now = then.astype(np.float64), now.astype(np.float64)
    return int((~((then == now) | (np.isnan(then) & np.isnan(now)))).sum()), len(then)


def same_weights(then: Path, now: Path) -> tuple[int, int]:
    """How many tensors of two weight files are equal, of how many. Raises `UserError` for damaged files."""
    one, other = (load_untrusted_weights(file) for file in (then, now))
    if not isinstance(one, Mapping):
        return 0, len(other)
    names = {*one, *other}
    return sum(_equal(one.get(name), other.get(name)) for name in names), len(names)


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return False
    return one.dtype == other.dtype and torch.equal(one, other)


def parts_of(record: Record) -> tuple[str, ...]:
    """The splits of a record that can be measured again: only validation for a trial of the search."""
    tested = record.role == "seed" and any(s.name.startswith("test/") for s in record.result.scores)
    return ("val", "test") if tested else ("val",)
