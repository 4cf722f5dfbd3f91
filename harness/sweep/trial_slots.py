"""The CPU and GPU share of a trial, and how many trials fit on this machine or cluster at once."""

import math
import os
from collections.abc import Mapping

import ray

from harness.errors import UserError


def local_slots(cpus: float) -> int:
    """Number of concurrent trials on this machine, at `cpus` cores each."""
    return max(1, math.floor((os.cpu_count() or 1) / cpus))


def gpus_per_trial(requested: float | None, device: str) -> float:
    """The GPUs that a trial gets: as requested, else one where the device is a GPU, else none."""
    return requested if requested is not None else float(device.startswith("cuda"))


def slots(cpus: float, gpus: float) -> int:
    """Number of concurrent trials on all nodes. Raises `UserError` if no node can run one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, requested in (("CPU", cpus), ("GPU", gpus)):
        largest = max((node.get(kind, 0) for node in nodes), default=0)
        if requested > largest:
            raise UserError(f"a trial asks for {requested:g} {kind}, but the largest node has {largest:g}")
    total = sum(_node_slots(node, cpus, gpus) for node in nodes)
    if not total:
        raise UserError(f"a trial asks for {cpus:g} CPU and {gpus:g} GPU, but no node has both")
    return total


def _node_slots(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Number of concurrent trials on a node; a fractional GPU never spans two devices."""
    limits = [math.floor(node.get("CPU", 0) / cpus)] if cpus else []
    if gpus:
        available = node.get("GPU", 0)
        limits.append(math.floor(available / gpus) if gpus >= 1 else math.floor(available) * math.floor(1 / gpus))
    return min(limits, default=1)
