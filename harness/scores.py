"""A score, and how scores are kept: what a reader needs as JSON, and one number per image beside it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from harness import arrays
from harness.errors import Mistake
from harness.place import read_json, set_aside, write, write_json


@dataclass(frozen=True)
class Score:
    """A number and what it rests on. name: `split/metric[-strength]`, strength in 255ths.

    n: images counted. counts: of an attribution, the images not attacked because they were `wrong`, `dropped` because
    no step kept the prediction, `failed` because none lowered the measure. per_example: float32, one value per image
    of the split, NaN where it is not counted.
    """

    name: str
    mean: float
    stderr: float
    n: int
    protocol: dict[str, object] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    per_example: np.ndarray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, name: str, values: Tensor, protocol: dict[str, object], counts: dict[str, int] | None = None):
        """The score of one value per image (N,); those that are NaN are not counted."""
        counted = values[~values.isnan()].double()
        stderr = float(counted.std() / len(counted) ** 0.5) if len(counted) > 1 else float("nan")
        images = values.float().cpu().numpy()
        return cls(name, float(counted.mean()), stderr, len(counted), protocol, counts or {}, images)

    def record(self) -> dict[str, object]:
        """All but the numbers per image, as JSON keeps it."""
        return {name: value for name, value in vars(self).items() if name != "per_example"}


def per_image(scores: Iterable[Score]) -> dict[str, np.ndarray]:
    """The numbers per image, small: yes or no as a bit of a compressed file, all else in half precision."""
    return {s.name: _small(s.per_example) for s in scores if s.per_example is not None}


def _small(values: np.ndarray) -> np.ndarray:
    if np.isin(values, (0, 1)).all():
        return values.astype(bool)
    return values if np.nanmax(np.abs(values), initial=0) > np.finfo(np.float16).max else values.astype(np.float16)


def save_images(path: Path, scores: Iterable[Score]) -> None:
    """One number per image of every score, by its name, as `np.load` reads it."""
    write(path, lambda temporary: np.savez_compressed(temporary, **per_image(scores)))


class Ledger:
    """The measurements of an evaluation that are done, one file each in a folder: a killed evaluation goes on from it.

    None for a folder keeps nothing.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def read(self, key: str) -> list[Score] | None:
        """The scores that were written under this key, with their numbers per image; None if there are none whole."""
        if self.folder is None or (records := read_json(self.folder / f"{key}.json")) is None:
            return None
        try:
            images = arrays.read(self.folder / f"{key}.npz")
            return [Score(**r, per_example=images[r["name"]]) for r in records["scores"]]
        except (Mistake, KeyError, TypeError):
            set_aside(self.folder / f"{key}.json")
            return None

    def write(self, key: str, scores: list[Score]) -> None:
        if self.folder is None:
            return
        images = {s.name: s.per_example for s in scores}
        write(self.folder / f"{key}.npz", lambda temporary: np.savez_compressed(temporary, **images))
        write_json(self.folder / f"{key}.json", {"scores": [s.record() for s in scores]})

    def clear(self) -> None:
        """Remove what was kept; of a folder that somebody else put files into, only our own."""
        if self.folder is None or not self.folder.is_dir():
            return
        for file in (*self.folder.glob("*.json"), *self.folder.glob("*.npz")):
            file.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
