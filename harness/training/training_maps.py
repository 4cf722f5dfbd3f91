"""Maps s of the training images, for saliency-based methods: computed once, cached as int8, shared by all trials.

A map comes from a teacher net and a saliency method, from the data's own boxes or masks, or is random. Maps are a
column of the data, so training methods do not depend on teachers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import methods
from harness.data.batches import MAP_UNIT
from harness.data.datasets import Data, Split
from harness.errors import UserError, required, unknown_name
from harness.explain.maps import for_training
from harness.randomness import seeded
from harness.storage.workspace import Workspace
from harness.training.map_cache import cached_maps
from harness.training.settings import Maps
from harness.training.teacher_maps import Teacher, explain

FROM_DATA = ("box", "mask", "random")
MapColumn = Tensor | Callable[[Tensor, Tensor], Tensor]  # of all images, or computed from x, y of a batch


@dataclass(frozen=True)
class TrainingMaps:
    """Maps for `Batches`. seconds: cost by phase (`maps`, `teacher`), also where another trial paid it."""

    maps: tuple[MapColumn, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def map_sources(maps: Maps) -> list[tuple[str, str]]:
    """Parse a setting to one or two (saliency, teacher) pairs. Raises `UserError` for unknown names."""
    names, teachers = maps.saliency.split("+"), maps.teacher.split("+")
    if max(len(names), len(teachers)) > 2:
        raise UserError(
            f"maps take at most two saliencies and two teachers, not {maps.saliency!r} and {maps.teacher!r}"
        )
    count = max(len(names), len(teachers))
    for name in names:
        if name not in FROM_DATA:
            for_training(name)
    for teacher in teachers:
        if teacher not in methods.METHODS or methods.reads_maps(methods.make(teacher)):
            raise unknown_name(
                "teacher", teacher, [m for m in methods.names() if not methods.reads_maps(methods.make(m))]
            )
    return list(zip((names * count)[:count], (teachers * count)[:count], strict=True))


def check(maps: Maps, data: Data, data_name: str) -> None:
    """Raise `UserError` if the data set lacks the boxes or masks that the maps need."""
    for name, _ in map_sources(maps):
        lacks = {"box": data.train.boxes is None, "mask": data.train.masks is None}
        if lacks.get(name):
            plural = {"box": "boxes", "mask": "masks"}[name]
            raise UserError(f"maps.saliency {name!r} needs {plural}, which data {data_name!r} does not have")
        if name in FROM_DATA and maps.live:
            raise UserError(f"maps.live explains a teacher; {name!r} comes from the data")


def prepare_maps(
    maps: Maps, data: Data, workspace: Workspace, teacher: Callable[[str], Teacher], *, seed: int
) -> TrainingMaps:
    """Compute or load the maps of the training images. teacher(method): the net to explain; seed: of random maps."""
    columns: list[MapColumn] = []
    seconds = {"maps": 0.0, "teacher": 0.0}
    for name, method in map_sources(maps):
        if name in FROM_DATA:
            columns.append(_maps_from_data(name, data.train, seed).to(workspace.device))
            continue
        explained = teacher(method)
        if maps.live:
            net, teacher_seconds = explained.train()
            columns.append(_online_maps(name, maps, net))
        else:
            column, maps_seconds, teacher_seconds = cached_maps(name, maps, explained, data, workspace)
            columns.append(column.to(workspace.device))
            seconds["maps"] += maps_seconds
        seconds["teacher"] += teacher_seconds
    return TrainingMaps(tuple(columns), seconds)


def _maps_from_data(name: str, train: Split, seed: int = 0) -> Tensor:
    n, c, height, width = train.x.shape
    if name == "random":
        with seeded("random maps", seed):
            return (torch.randint(2, (n, c, height, width), dtype=torch.int8) * 2 - 1) * MAP_UNIT
    if name == "mask":  # pixels of unknown label get 0
        masks = required(train.masks, "masks")
        inside, outside = masks == 1, masks == 0
    else:
        boxes = required(train.boxes, "boxes")
        x1, y1, x2, y2 = (boxes[:, i, None, None] for i in range(4))
        rows, cols = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
        inside = (rows >= y1) & (rows <= y2) & (cols >= x1) & (cols <= x2)
        outside = ~inside
    return (inside.to(torch.int8) - outside.to(torch.int8))[:, None] * MAP_UNIT


def _online_maps(name: str, maps: Maps, net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: explain(name, maps, net, x, y)
