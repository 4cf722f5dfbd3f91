"""Scores under attack: which there are, which is stronger, and what survives all attacks by gradient."""

from collections.abc import Iterable, Mapping

import numpy as np

from harness.errors import required
from harness.evaluation.score_name import ScoreName

BLACK_BOX = ("square", "aa")  # AutoAttack ends with Square


def attack_names(scores: Iterable[str]) -> list[ScoreName]:
    """The names of attacks with a strength; others, and the worst case over several attacks, are left out."""
    return [n for n in map(ScoreName.parse, scores) if n.about.form == "attack" and n.metric != "worst"]


def family(name: ScoreName) -> tuple[str, str, int, int]:
    """All of an attack but its strength."""
    return name.norm, name.metric, name.steps, name.restarts


def strength_of(name: ScoreName) -> float:
    """Strength of one of these attacks, in 255ths."""
    return required(name.strength, "strength")


def matches(name: ScoreName, norm: str, strength: float) -> bool:
    """Whether the attack has this norm and strength (255ths)."""
    return name.norm == norm and abs(strength_of(name) - strength) <= 1e-5 * strength  # names have six digits


def is_stronger_than(name: ScoreName, other: ScoreName) -> bool:
    """Whether it is the other attack with more steps or restarts, and no fewer of either."""
    same = name.metric == other.metric and matches(name, other.norm, strength_of(other))
    more = name.steps >= other.steps and name.restarts >= other.restarts and family(name) != family(other)
    return same and more


def correct_under_gradients(
    scores: Mapping[str, np.ndarray], norm: str, strength: float
) -> tuple[np.ndarray | None, bool]:
    """Adversarial accuracy per image under all gradient attacks of a norm and strength (255ths); None without any.

    Also returns whether one of them is a targeted attack (`-t`).
    """
    names = [n for n in attack_names(scores) if n.metric not in BLACK_BOX and matches(n, norm, strength)]
    if not names:
        return None, False
    return np.min([scores[str(n)] for n in names], axis=0), any(n.metric.endswith("-t") for n in names)
