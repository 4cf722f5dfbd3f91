"""Parse score names of attacks: norm, attack, steps, restarts and strength."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AttackName:
    """Parsed score name of an attack. strength in 255ths; steps 0 and restarts 1 if the name has none."""

    text: str
    norm: str
    attack: str
    steps: int
    restarts: int
    strength: float

    @property
    def family(self) -> tuple[str, str, int, int]:
        return self.norm, self.attack, self.steps, self.restarts

    def matches(self, norm: str, strength: float) -> bool:
        return self.norm == norm and abs(self.strength - strength) <= 1e-5 * strength  # names have six digits

    def is_stronger_than(self, other: "AttackName") -> bool:
        same = self.attack == other.attack and self.matches(other.norm, other.strength)
        more = self.steps >= other.steps and self.restarts >= other.restarts and self.family != other.family
        return same and more


_NAME = re.compile(
    r"(?P<norm>l2-)?(?P<attack>(aa-)?(fgsm|pgd|apgd-ce|apgd-t|fab-t|square)|aa)(?P<steps>\d+)?(x(?P<restarts>\d+))?"
    r"-(?P<strength>\d+(\.\d+)?(e-\d+)?)"
)


def attack_names(scores: Iterable[str]) -> list[AttackName]:
    """Parse all names that are attacks with a strength; other names are ignored."""
    matches = [match for match in map(_NAME.fullmatch, scores) if match]
    return [
        AttackName(
            match[0],
            "l2" if match["norm"] else "linf",
            match["attack"],
            int(match["steps"] or 0),
            int(match["restarts"] or 1),
            float(match["strength"]),
        )
        for match in matches
    ]


BLACK_BOX = ("square", "aa")  # AutoAttack ends with Square


def correct_under_gradients(
    scores: Mapping[str, np.ndarray], norm: str, strength: float
) -> tuple[np.ndarray | None, bool]:
    """Adversarial accuracy per image under all gradient attacks of a norm and strength (255ths); None without any.

    Also returns whether one of them is a targeted attack (`-t`).
    """
    names = [n for n in attack_names(scores) if n.attack not in BLACK_BOX and n.matches(norm, strength)]
    if not names:
        return None, False
    return np.min([scores[n.text] for n in names], axis=0), any(n.attack.endswith("-t") for n in names)
