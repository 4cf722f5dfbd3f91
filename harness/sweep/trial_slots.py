"""The CPU and GPU share of a trial, and how many trials fit on this machine or cluster at once."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from harness.errors import UserError
from harness.sweep import ray_internals

Resources = Mapping[str, float]  # of a node: CPU, GPU


@dataclass(frozen=True)
class Slots:
    """What each job gets of a node, and how many jobs run at once."""

    cpus: float
    gpus: float
    at_once: int

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def local_cpus(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """The cores that this process may use: by its affinity, and by the quota of its cgroup, rounded down to a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.floor(quota) for quota in _quotas(cgroups, own))]))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """The quotas in cores of a process' cgroup and of those that hold it, of version 2 or 1.

    own: the file that names them, `0::/slice/unit` or `4:cpu,cpuacct:/docker/...` a line.
    """
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        folder = root / path.lstrip("/")
        for group in {root, folder, *(p for p in folder.parents if root in p.parents)}:
            if controllers:
                allowed, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
            else:
                allowed, _, period = _read(group / "cpu.max").partition(" ")
            if allowed.strip().isdigit() and period.strip().isdigit():  # not `max` or -1: no limit
                yield int(allowed) / int(period)


def _read(file: Path) -> str:
    """The text of a file; "" if there is none that can be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def local_slots(cpus: float) -> int:
    """Number of concurrent trials on this machine, at `cpus` cores each."""
    return max(1, math.floor(local_cpus() / cpus))


def local_resources() -> Resources:
    """What a Ray node on this machine has: what the environment declares, else its cores and GPUs."""
    import torch

    found = {"CPU": float(local_cpus()), "GPU": float(torch.cuda.device_count())}
    return {**found, **json.loads(os.environ.get(ray_internals.DECLARED) or "{}")}


def cluster_resources() -> list[Resources]:
    """What each live node of the cluster has in all."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def gpus_per_trial(requested: float | None, device: str, nodes: Sequence[Resources] = ()) -> float:
    """The GPUs that a trial gets: as requested, else one where the device is a GPU or a node has one, else none."""
    if requested is not None:
        return requested
    return float(device.startswith("cuda") or any(node.get("GPU", 0) >= 1 for node in nodes))


def slots(cpus: float, gpus: float, nodes: Sequence[Resources]) -> int:
    """Number of concurrent trials on all nodes. Raises `UserError` if no node can run one."""
    for kind, requested in (("CPU", cpus), ("GPU", gpus)):
        largest = max((node.get(kind, 0) for node in nodes), default=0)
        if requested > largest:
            raise UserError(f"a trial asks for {requested:g} {kind}, but the largest node has {largest:g}")
    total = sum(_node_slots(node, cpus, gpus) for node in nodes)
    if not total:
        raise UserError(f"a trial asks for {cpus:g} CPU and {gpus:g} GPU, but no node has both")
    return total


def _node_slots(node: Resources, cpus: float, gpus: float) -> int:
    """Number of concurrent trials on a node; a fractional GPU never spans two devices."""
    limits = [math.floor(node.get("CPU", 0) / cpus)] if cpus else []
    if gpus:
        available = node.get("GPU", 0)
        limits.append(math.floor(available / gpus) if gpus >= 1 else math.floor(available) * math.floor(1 / gpus))
    return min(limits, default=1)
