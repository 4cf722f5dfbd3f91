"""Connect to a Ray cluster or start a local one, and count its trial slots."""

import logging
import math
import os
import signal
import socket
import warnings
from collections.abc import Mapping
from pathlib import Path

import ray

from harness.errors import UserError, one_line
from harness.sweep import addresses


def connect(address: str | None, package: Path | None = None) -> None:
    """ray.init: connect to the cluster at `address` (or of the surrounding Ray job), or start one on this machine.

    With ray://host:port it is a Ray client, which uploads the folder `package`, if any, as the working directory.
    Raises `UserError` if there is no cluster.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None or addresses.IN_JOB in os.environ:
        address = os.environ.get("RAY_ADDRESS", address)
    if address and address.startswith(("http://", "https://")):
        raise UserError(
            f"{address!r} is a dashboard; give it the command: ray job submit --address {address} --working-dir ."
            " -- python -m harness.tune --address auto ..."
        )
    try:
        if address:
            _check_port(address)
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
            with warnings.catch_warnings(action="ignore"):
                ray.init(address=address, runtime_env={"working_dir": str(package)} if package else None, **quiet)
        else:
            ray.init(address="local", include_dashboard=False, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(_no_cluster(address, error)) from None
    if not address or not address.startswith(addresses.CLIENT):
        # Ray Tune shuts down cleanly on SIGUSR1 and SIGINT only; stopped jobs and preemption send SIGTERM.
        signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))


def _no_cluster(address: str | None, error: Exception) -> str:
    """One-line message for an exception of `ray.init`."""
    text = f"{error} {error.__cause__}"
    if "ray[client]" in text:
        return f"{address!r} needs Ray's client; install it here: pip install -c constraints.txt -e .[cluster]"
    if "No node info found" in text:
        return f"this machine is not a node of the cluster at {address!r}; from outside give ray://HOST:10001"
    if type(error) is ConnectionError:  # the port is open, or `_check_port` had raised a more exact one
        return f"{address!r} refuses the connection; is it a Ray cluster, and RAY_AUTH_TOKEN its token?"
    return f"no Ray cluster at {address!r}: {one_line(error)}"


def _check_port(address: str) -> None:
    """Raise `OSError` if nothing listens at host:port; Ray itself waits for minutes and prints a long trace."""
    host, _, port = address.removeprefix(addresses.CLIENT).rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def local_slots(cpus: float) -> int:
    """Number of concurrent trials on this machine, at `cpus` cores each."""
    return max(1, math.floor((os.cpu_count() or 1) / cpus))


def disconnect() -> None:
    ray.shutdown()


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
