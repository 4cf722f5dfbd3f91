"""Score, the result type of evaluation, and its storage: JSON records, per-image arrays (.npz), and a resume ledger."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from harness.errors import UserError, required
from harness.storage import npz
from harness.storage.files import quarantine
from harness.storage.sealed_json import read_json, write_json


@dataclass(frozen=True)
class Score:
    """Mean of one metric over a split, with standard error and protocol. name: `split/metric[-strength]`, in 255ths.

    n: images counted. counts: for attributions, images not attacked because misclassified (`wrong`), without a step
    that kept the prediction (`dropped`), without one that lowered the similarity (`failed`). per_example: float32, one
    value per image of the split, NaN if not counted. version: see `harness.evaluation.versions`.
    """

    name: str
    mean: float
    stderr: float
    n: int
    protocol: dict[str, object] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    per_example: np.ndarray | None = field(default=None, repr=False, compare=False)
    version: int = 1

    @classmethod
    def of(
        cls, name: str, values: Tensor, protocol: dict[str, object], counts: dict[str, int] | None = None
    ) -> "Score":
        """Score of per-image values (N,); NaN is not counted."""
        counted = values[~values.isnan()].double()
        stderr = float(counted.std() / len(counted) ** 0.5) if len(counted) > 1 else float("nan")
        images = values.float().cpu().numpy()
        return cls(name, float(counted.mean()), stderr, len(counted), protocol, counts or {}, images)

    def record(self) -> dict[str, object]:
        """The score without its per-image values, for JSON. A version of 1 is left out: records once had none."""
        left_out = ("per_example", "version") if self.version == 1 else ("per_example",)
        return {name: value for name, value in vars(self).items() if name not in left_out}


def per_image(scores: Iterable[Score]) -> dict[str, np.ndarray]:
    """Per-image values by score name, compact: bool for 0/1 values, else float16 if they fit."""
    return {s.name: _compact(s.per_example) for s in scores if s.per_example is not None}


def _compact(values: np.ndarray) -> np.ndarray:
    if np.isin(values, (0, 1)).all():
        return values.astype(bool)
    return values if np.nanmax(np.abs(values), initial=0) > np.finfo(np.float16).max else values.astype(np.float16)


def save_images(path: Path, scores: Iterable[Score]) -> None:
    """Write the per-image values of all scores to an .npz file, keyed by score name."""
    npz.write(path, per_image(scores))


def load_images(path: Path, scores: Iterable[Score]) -> list[Score]:
    """The scores with the per-image values of a file of `save_images`; those that it does not hold are left out."""
    try:
        images = npz.read(path)
    except (UserError, OSError):
        return []
    return [replace(s, per_example=images[s.name].astype(np.float32)) for s in scores if s.name in images]


class Ledger:
    """Finished measurements of an evaluation, two files each, from which an interrupted evaluation resumes.

    folder: None stores nothing. known: scores by measurement that an earlier evaluation gave.
    """

    def __init__(self, folder: Path | None = None, known: Mapping[str, list[Score]] | None = None):
        self.folder, self.known = folder, known or {}

    def read(self, key: str) -> list[Score] | None:
        """The scores of this measurement with per-image values; None if absent or corrupt."""
        if key in self.known:
            return self.known[key]
        if self.folder is None or (records := read_json(self.folder / f"{key}.json")) is None:
            return None
        try:
            images = npz.read(self.folder / f"{key}.npz")
            return [Score(**r, per_example=images[r["name"]]) for r in records["scores"]]
        except (UserError, KeyError, TypeError):
            quarantine(self.folder / f"{key}.json")
            return None

    def write(self, key: str, scores: list[Score]) -> None:
        """Store the scores of one measurement."""
        if self.folder is None:
            return
        npz.write(self.folder / f"{key}.npz", {s.name: required(s.per_example, "value per image") for s in scores})
        write_json(self.folder / f"{key}.json", {"scores": [s.record() for s in scores]})

    def clear(self) -> None:
        """Remove the ledger's files, and the folder if it is then empty."""
        if self.folder is None or not self.folder.is_dir():
            return
        for file in (*self.folder.glob("*.json"), *self.folder.glob("*.npz")):
            file.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
