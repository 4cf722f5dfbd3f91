"""Connect to a Ray cluster, or start a local one."""

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import ray

from harness.errors import UserError, first_line, one_line, redacted
from harness.sweep import ray_addresses, ray_folder, ray_internals, stop_signals, trial_slots
from harness.sweep.ray_addresses import Cluster

ATTEMPTS = 3  # to connect as a Ray client
RETRY_SECONDS = 2.0
GIVE_TOKEN = "give the cluster's by RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
_ours = contextlib.ExitStack()  # what ends with the connection of this module; a notebook may have one of its own


def connect(address: str | None, package: Path | None = None) -> None:
    """ray.init: connect to the cluster that `ray_addresses.chosen` finds, or start one on this machine.

    A connection that is there is used, as that of a notebook, and `disconnect` leaves it as it is.
    With ray://host:port it is a Ray client, which uploads the folder `package`, if any, as the working directory.
    Raises `UserError` if there is no cluster.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    if connected():
        return
    cluster = ray_addresses.chosen(address)
    try:
        if cluster:
            with stop_signals.restored(signal.SIGTERM):  # Ray replaces its handler
                _join(cluster, {"working_dir": str(package)} if package else None)
        else:
            with stop_signals.held_back(), stop_signals.restored(signal.SIGTERM):
                _start()
    except SystemExit:  # of Ray's own handler of SIGTERM
        raise KeyboardInterrupt from None


def _start() -> None:
    """Start a cluster on this machine, in a private folder and with a token of its own."""
    folder = _ours.enter_context(ray_folder.private_folder())
    _ours.enter_context(ray_folder.environment(folder))
    ray_internals.read_authentication()
    # Ray counts the machine's cores, not those that this process may use.
    cores = trial_slots.local_cpus() if trial_slots.local_cpus() < (os.cpu_count() or 1) else None
    sessions = folder / ray_folder.ROOT
    _ours.callback(shut_down)
    try:
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=str(sessions),
        )
        ray_internals.end_without_grace()
        ray_internals.shorten_reports()
    except Exception as error:  # Ray raises that very class where a process of it does not start
        logged = ray_internals.logged_error(sessions)
        raise UserError(
            f"Ray cannot start here: {one_line(error)}{f' ({redacted(logged)})' if logged else ''}"
        ) from None


def _join(cluster: Cluster, runtime_env: dict[str, str] | None) -> None:
    """Join a cluster, whose token is checked before: Ray itself waits for long and does not say what is missing."""
    if cluster.address.startswith(("http://", "https://")):
        raise UserError(
            f"{cluster} is a dashboard; give it the command: ray job submit --address {cluster.address} --working-dir ."
            " -- python -m harness.tune --address auto ..."
        )
    os.environ[ray_internals.REMOTE_CLUSTER] = "1"
    try:
        _check_port(cluster.address)
        ray_internals.read_authentication()
        _check_token(cluster)
        with warnings.catch_warnings(action="ignore"):
            _init(cluster.address, runtime_env)
        ray_internals.shorten_reports()
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(_no_cluster(cluster, error)) from None


def _check_token(cluster: Cluster) -> None:
    """Raise `UserError` if the cluster refuses the token of this process, or its lack of one."""
    by_token = os.environ.get(ray_internals.AUTH_MODE, "").lower() == "token"
    if by_token and not ray_internals.has_token():  # Ray would abort the process
        raise UserError(f"RAY_AUTH_MODE is 'token', but there is no token: {GIVE_TOKEN}")
    host_port = cluster.address.removeprefix(ray_addresses.CLIENT)
    with _silent():
        refused = ray_internals.is_client_refused if cluster.is_client else ray_internals.is_refused
        if not refused(host_port):
            return
    if by_token:
        raise UserError(f"the cluster at {cluster} has another token: {GIVE_TOKEN}")
    missing = "" if ray_internals.has_token() else f", and {GIVE_TOKEN}"
    raise UserError(f"the cluster at {cluster} asks for a token: set RAY_AUTH_MODE=token{missing}")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Within, this process writes nothing to standard error: Ray's compiled parts log there, as they please."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _init(address: str, runtime_env: dict[str, str] | None) -> None:
    """ray.init, repeated while the head node fails to start the process that serves this Ray client."""
    _ours.callback(shut_down)
    for remaining in reversed(range(ATTEMPTS)):
        try:
            ray.init(address=address, runtime_env=runtime_env, logging_level=logging.ERROR, log_to_driver=False)
            return
        except ConnectionAbortedError:
            shut_down()
            if not remaining:
                raise
            time.sleep(RETRY_SECONDS)


def _no_cluster(cluster: Cluster, error: Exception) -> str:
    """One-line message for an exception of `ray.init`."""
    text = f"{error} {error.__cause__}"
    if ray_internals.NO_CLIENT in text:
        return f"{cluster} needs Ray's client; install it here: pip install -c constraints.txt -e .[cluster]"
    if ray_internals.NO_NODE in text:
        return f"this machine is not a node of the cluster at {cluster}; from outside give ray://HOST:10001"
    if type(error) in (TimeoutError, ConnectionError):
        return f"{cluster} does not answer as a Ray cluster does; is its head node alive, and this its port?"
    cause = first_line(Exception(str(error).removeprefix(ray_internals.RUNTIME_ENV)))[:500]
    if isinstance(error, ConnectionAbortedError | ray.exceptions.RuntimeEnvSetupError):
        return f"the cluster at {cluster} does not take this client: {cause}"
    instead = f"; --address {ray_addresses.LOCAL} starts one here" if cluster.source == ray_addresses.VARIABLE else ""
    reason = f"{type(error).__name__}: {cause}"
    return f"no Ray cluster at {cluster}: {reason}{instead}"


def _check_port(address: str) -> None:
    """Raise `OSError` if nothing listens at host:port; Ray itself waits for minutes and prints a long trace."""
    host, _, port = address.removeprefix(ray_addresses.CLIENT).rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def connected() -> bool:
    """Whether this process is connected to a cluster, or has started one."""
    return bool(ray.is_initialized())


def check() -> None:
    """Raise `UserError` if a process of the local cluster has ended: no trial would start, and no other node comes."""
    if dead := ray_internals.dead_processes():
        raise UserError(f"Ray's {' and '.join(dead)} on this machine ended unexpectedly; run the same command again")


def shut_down() -> None:
    """ray.shutdown, while the garbage collector rests.

    A finished run leaves cycles with references to Ray's objects. If another thread collected one of them while Ray
    shuts down, Ray would end the process.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if enabled:
            gc.enable()


def disconnect() -> None:
    """Leave the cluster that `connect` joined or started; a local one ends, and its folder is removed."""
    _ours.close()
