"""Pictures of a report (interim: none are drawn yet)."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Picture:
    """One picture as PNG, and what is seen on it in words."""

    name: str
    png: bytes
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side under a caption."""

    key: str
    caption: str
    remark: str
    columns: tuple[str, ...]
    pictures: list[Picture]


def galleries(files: Mapping[str, Mapping[str, np.ndarray]]) -> list[Gallery]:
    """None yet."""
    return []


def data_uri(png: bytes) -> str:
    """The PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
