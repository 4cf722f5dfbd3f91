"""Disk cache of a teacher's saliency maps, with checksums."""

import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.data.datasets import Data
from harness.storage.files import digest, locked, quarantine, write
from harness.storage.sealed_json import read_json, write_json
from harness.storage.workspace import Workspace
from harness.training.settings import Maps
from harness.training.teacher_maps import Progress, Teacher, compute_maps, no_progress

COSTS = "costs.json"  # written last: maps with it are complete


def maps_key(name: str, maps: Maps, teacher_key: str, *checksum: str) -> str:
    """Twelve hex digits of the hash of what maps depend on. checksum: of the training images, to tell other data."""
    return hashlib.sha256(repr(_identity(name, maps, teacher_key, *checksum)).encode()).hexdigest()[:12]


def map_folder(name: str, maps: Maps, teacher_key: str, data: Data, workspace: Workspace) -> Path:
    """Where these maps are cached."""
    return workspace.cache("maps", maps_key(name, maps, teacher_key, data.checksums["train"]))


def _identity(name: str, maps: Maps, teacher_key: str, *checksum: str) -> tuple[object, ...]:
    return (teacher_key, *checksum, name, maps.target, maps.binarise, maps.quantile)


def cached_maps(
    name: str, maps: Maps, teacher: Teacher, data: Data, workspace: Workspace, progress: Progress = no_progress
) -> tuple[Tensor, float, float]:
    """Load a teacher's maps from the cache, or compute and store them.

    Returns the maps (N, C or 1, H, W) int8, the seconds that they took, and the seconds that training the teacher took.
    """
    folder = map_folder(name, maps, teacher.key, data, workspace)
    file, costs_file = folder / "maps.npy", folder / COSTS
    with locked(folder / "lock"), workspace.synchronised(folder):
        costs = read_json(costs_file)
        if costs and file.exists() and costs.get("digest") != digest(file):
            quarantine(file)
        if costs is None or not file.exists():
            net, teacher_seconds = teacher.train()
            began = time.perf_counter()
            computed = compute_maps(name, maps, net, data.train, workspace.device, progress)
            of = [str(part) for part in _identity(name, maps, teacher.key, data.checksums["train"])]
            costs = {"maps": time.perf_counter() - began, "teacher": teacher_seconds, "of": of}
            write(file, lambda temporary: np.save(temporary, computed))
            costs["digest"] = digest(file)
            write_json(costs_file, costs)
    return torch.from_numpy(np.load(file, mmap_mode="c")), costs["maps"], costs["teacher"]
