"""Connect to a Ray cluster, or start a local one."""

import contextlib
import logging
import os
import signal
import socket
import time
import warnings
from pathlib import Path

import ray

from harness.errors import UserError, one_line, redacted
from harness.sweep import ray_addresses, ray_folder, ray_internals, stop_signals, trial_slots

ATTEMPTS = 3  # to connect as a Ray client
RETRY_SECONDS = 2.0
_local = contextlib.ExitStack()  # what ends with the local cluster


def existing(address: str | None) -> str | None:
    """The address of the cluster to use: as given, else, or in a Ray job, the environment's; None for a local one."""
    if address is None or ray_internals.IN_JOB in os.environ:
        return os.environ.get("RAY_ADDRESS", address)
    return address


def connect(address: str | None, package: Path | None = None) -> None:
    """ray.init: connect to the cluster at `address` (or of the surrounding Ray job), or start one on this machine.

    With ray://host:port it is a Ray client, which uploads the folder `package`, if any, as the working directory.
    Raises `UserError` if there is no cluster.
    """
    with stop_signals.restored(signal.SIGTERM):  # Ray replaces its handler
        _connect(address, package)


def _connect(address: str | None, package: Path | None) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    address = existing(address)
    if address and address.startswith(("http://", "https://")):
        raise UserError(
            f"{address!r} is a dashboard; give it the command: ray job submit --address {address} --working-dir ."
            " -- python -m harness.tune --address auto ..."
        )
    try:
        if address:
            _check_port(address)
            ray_internals.read_authentication()
            os.environ[ray_internals.REMOTE_CLUSTER] = "1"
            with warnings.catch_warnings(action="ignore"):
                _join(address, {"working_dir": str(package)} if package else None)
        else:
            _start()
    except SystemExit:  # of Ray's own handler of SIGTERM
        raise KeyboardInterrupt from None
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(_no_cluster(address, error)) from None


def _start() -> None:
    """ray.init of a cluster on this machine, in a private folder and with a token of its own."""
    folder = _local.enter_context(ray_folder.private_folder())
    _local.enter_context(ray_folder.environment(folder))
    ray_internals.read_authentication()
    # Ray counts the machine's cores, not those that this process may use.
    cores = trial_slots.local_cpus() if trial_slots.local_cpus() < (os.cpu_count() or 1) else None
    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _temp_dir=str(folder / ray_folder.ROOT),
    )


def _join(address: str, runtime_env: dict[str, str] | None) -> None:
    """ray.init, repeated while the head node fails to start the process that serves this Ray client."""
    for remaining in reversed(range(ATTEMPTS)):
        try:
            ray.init(address=address, runtime_env=runtime_env, logging_level=logging.ERROR, log_to_driver=False)
            return
        except ConnectionAbortedError:
            ray.shutdown()
            if not remaining:
                raise
            time.sleep(RETRY_SECONDS)


def _no_cluster(address: str | None, error: Exception) -> str:
    """One-line message for an exception of `ray.init`."""
    text = f"{error} {error.__cause__}"
    if ray_internals.NO_CLIENT in text:
        return f"{address!r} needs Ray's client; install it here: pip install -c constraints.txt -e .[cluster]"
    if ray_internals.NO_NODE in text:
        return f"this machine is not a node of the cluster at {address!r}; from outside give ray://HOST:10001"
    if isinstance(error, ConnectionAbortedError):  # the message is the head node's traceback
        return f"the cluster at {address!r} does not take this client: {redacted(str(error).strip().splitlines()[-1])}"
    if type(error) is ConnectionError:  # the port is open, or `_check_port` had raised a more exact one
        return f"{address!r} refuses the connection; is it a Ray cluster, and RAY_AUTH_TOKEN its token?"
    return f"no Ray cluster at {address!r}: {one_line(error)}"


def _check_port(address: str) -> None:
    """Raise `OSError` if nothing listens at host:port; Ray itself waits for minutes and prints a long trace."""
    host, _, port = address.removeprefix(ray_addresses.CLIENT).rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def connected() -> bool:
    """Whether this process is connected to a cluster, or has started one."""
    return bool(ray.is_initialized())


def disconnect() -> None:
    """Leave the cluster; a local one ends, and its folder is removed."""
    try:
        ray.shutdown()
    finally:
        _local.close()
