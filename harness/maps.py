"""The map s of every training image: made once, kept as bytes, shared by all trials.

A map comes from a teacher net and a saliency method, from the data's own boxes or masks, or is random. Maps become a
column of the data, so a training method never hears of teachers.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

import methods
from harness import saliency
from harness.batch import MAP_UNIT
from harness.config import Maps, Trial, build
from harness.datasets import Data, Split
from harness.errors import Mistake, unknown
from harness.place import Place, digest, read_json, set_aside, write, write_json
from harness.randomness import exact, seeded

CHUNK = 256
FROM_DATA = ("box", "mask", "random")


@dataclass(frozen=True)
class Prepared:
    """maps: what `Batches` takes. seconds: what making them cost, by phase, whoever made them."""

    maps: tuple[Tensor | Callable[[Tensor, Tensor], Tensor], ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def sources(maps: Maps) -> list[tuple[str, str]]:
    """The one or two (saliency, teacher) pairs that a setting names. Raises `Mistake` for unknown names."""
    names, teachers = maps.saliency.split("+"), maps.teacher.split("+")
    if max(len(names), len(teachers)) > 2:
        raise Mistake(f"maps take at most two saliencies and two teachers, not {maps.saliency!r} and {maps.teacher!r}")
    count = max(len(names), len(teachers))
    for name in names:
        if name not in FROM_DATA:
            saliency.find(name)
    for teacher in teachers:
        if teacher not in methods.names() or methods.reads_maps(methods.make(teacher)):
            raise unknown("teacher", teacher, [m for m in methods.names() if not methods.reads_maps(methods.make(m))])
    return list(zip((names * count)[:count], (teachers * count)[:count], strict=True))


def check(trial: Trial, data: Data) -> None:
    """Raise `Mistake` where the data lacks what the trial's maps are made of."""
    if not methods.reads_maps(trial.method):
        return
    for name, _ in sources(trial.maps):
        lacks = {"box": data.train.boxes is None, "mask": data.train.masks is None}
        if lacks.get(name):
            plural = {"box": "boxes", "mask": "masks"}[name]
            raise Mistake(f"maps.saliency {name!r} needs {plural}, which data {trial.data.name!r} does not have")
        if name in FROM_DATA and trial.maps.live:
            raise Mistake(f"maps.live explains a teacher; {name!r} comes from the data")


def teacher_trial(trial: Trial, method: str) -> Trial:
    """The trial that trains a teacher: same data, net, length and, unless it is fixed, seed.

    Its optimiser is the recipe's, so that all tuned trials share it.
    """
    keep = {p: v for p, v in trial.flat().items() if p.split(".")[0] in ("data", "augment", "measure")}
    same = {p: trial.flat()[p] for p in ("model", "normalise", "epochs", "batch")}
    seed = trial.seed if trial.maps.teacher_seed < 0 else trial.maps.teacher_seed
    return build({**keep, **same, "method": method, "seed": seed})


def prepare(trial: Trial, data: Data, place: Place, teach: Callable[[Trial], tuple[nn.Module, float]]) -> Prepared:
    """The maps of the training images.

    teach(teacher trial) -> the trained net and the seconds that its training took.
    """
    if not methods.reads_maps(trial.method):
        return Prepared()
    check(trial, data)
    made, seconds = [], {"maps": 0.0, "teacher": 0.0}
    for name, teacher in sources(trial.maps):
        if name in FROM_DATA:
            made.append(_from_data(name, data.train, trial.seed).to(place.device))
            continue
        lesson = teacher_trial(trial, teacher)
        if trial.maps.live:
            net, cost = teach(lesson)
            made.append(_live(name, trial.maps, net))
        else:
            column, took, cost = _cached(name, trial.maps, lesson, data, place, teach)
            made.append(column.to(place.device))
            seconds["maps"] += took
        seconds["teacher"] += cost
    return Prepared(tuple(made), seconds)


def _from_data(name: str, train: Split, seed: int = 0) -> Tensor:
    n, c, height, width = train.x.shape
    if name == "random":
        with seeded("random maps", seed):
            return (torch.randint(2, (n, c, height, width), dtype=torch.int8) * 2 - 1) * MAP_UNIT
    if name == "mask":  # where neither is known, the map is 0: it says nothing
        inside, outside = train.masks == 1, train.masks == 0
    else:
        x1, y1, x2, y2 = (train.boxes[:, i, None, None] for i in range(4))
        rows, cols = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
        inside = (rows >= y1) & (rows <= y2) & (cols >= x1) & (cols <= x2)
        outside = ~inside
    return (inside.to(torch.int8) - outside.to(torch.int8))[:, None] * MAP_UNIT


def explain(name: str, maps: Maps, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The binarised map of a batch, x in [0, 1]: (B, C or 1, H, W) in [-1, 1].

    Where a map that is to be all signs says nothing, a random sign stands.
    """
    with exact():
        s = saliency.find(name)(net, x, saliency.explained(net, x, y, maps.target))
    s = saliency.binarise(s, maps.binarise, signed=saliency.signed(name), quantile=maps.quantile)
    if maps.binarise in ("minmax", "none"):
        return s
    return torch.where(s == 0, torch.where(torch.rand_like(s) < 0.5, -1.0, 1.0), s)


def _live(name: str, maps: Maps, net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: explain(name, maps, net, x, y)


def _cached(name: str, maps: Maps, lesson: Trial, data: Data, place: Place, teach) -> tuple[Tensor, float, float]:
    """The maps from their file, made first where it is missing. Returns them, seconds for them and for the teacher."""
    recipe = (lesson.key, data.checksums["train"], name, maps.target, maps.binarise, maps.quantile)
    folder = place.cache("maps", hashlib.sha256(repr(recipe).encode()).hexdigest()[:12])
    file, about = folder / "maps.npy", folder / "costs.json"
    with place.holding(folder):
        costs = read_json(about)
        if costs and file.exists() and costs.get("digest") != digest(file):
            set_aside(file)
        if costs is None or not file.exists():
            net, teacher_seconds = teach(lesson)
            began = time.perf_counter()
            made = _all(name, maps, net, data.train, place.device)
            costs = {"maps": time.perf_counter() - began, "teacher": teacher_seconds, "of": [str(r) for r in recipe]}
            write(file, lambda temporary: np.save(temporary, made))
            costs["digest"] = digest(file)
            write_json(about, costs)
    return torch.from_numpy(np.load(file, mmap_mode="c")), costs["maps"], costs["teacher"]


def _all(name: str, maps: Maps, net: nn.Module, train: Split, device: str) -> np.ndarray:
    """The maps of a whole split as int8, MAP_UNIT standing for 1."""
    parts = []
    with seeded("maps", name):
        for x, y in zip(train.x.split(CHUNK), train.y.split(CHUNK), strict=True):
            x = x.to(device, memory_format=torch.channels_last).float().div_(255)
            s = explain(name, maps, net, x, y.to(device))
            parts.append((s * MAP_UNIT).round().to(torch.int8).cpu().numpy())
    return np.concatenate(parts)
