"""Ray addresses: whether the command runs locally, on a cluster node, in a Ray job, or as a Ray client."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.sweep import ray_internals
from harness.sweep.ray_internals import IN_JOB
from harness.sweep.request import Request

CLIENT = "ray://"
AUTO, LOCAL = "auto", "local"
VARIABLE = "RAY_ADDRESS"


@dataclass(frozen=True)
class Cluster:
    """A cluster to join. source: what chose it, if that was not the address itself on the command line."""

    address: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.address!r} ({self.source})" if self.source else repr(self.address)

    @property
    def is_client(self) -> bool:
        """Whether it is joined as a Ray client, from outside."""
        return self.address.startswith(CLIENT)


def chosen(address: str | None) -> Cluster | None:
    """The cluster to use for `--address`; None for one on this machine. Raises `UserError` if `auto` finds none.

    Without --address, or with `auto`, it is that of $RAY_ADDRESS, and always so in a Ray job, where Ray sets that;
    else, with `auto`, the one that `ray start` made this machine a node of.
    """
    given = os.environ.get(VARIABLE, "")
    if IN_JOB in os.environ and given:
        return Cluster(given, "that of this Ray job")
    named = _named(address)
    if named and named.address == AUTO:
        return Cluster(_started_here(), f"auto: {ray_internals.started_here()}")
    return named


def _named(address: str | None) -> Cluster | None:
    """The cluster that `--address` or $RAY_ADDRESS names, whose address may still be `auto`; None for a local one."""
    given = os.environ.get(VARIABLE, "")
    if address and address != AUTO:
        cluster = Cluster(address)
    elif given not in ("", AUTO):
        cluster = Cluster(given, VARIABLE)
    else:
        cluster = Cluster(AUTO if AUTO in (address, given) else LOCAL)
    return None if cluster.address == LOCAL else cluster


def _started_here() -> str:
    """The address that `ray start` wrote. Not just any cluster that runs here, such as another sweep's, as for Ray."""
    file = ray_internals.started_here()
    try:
        status, text = file.lstat(), file.read_text(encoding="utf-8").strip()
    except OSError:
        raise UserError(
            f"--address {AUTO}: `ray start` has started no cluster on this machine ({str(file)!r} is not there); give"
            " its address: HOST:6379, or from outside ray://HOST:10001"
        ) from None
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        raise UserError(f"--address {AUTO}: {str(file)!r} belongs to another user; give the address itself: {text}")
    return text


def is_outside(address: str | None) -> bool:
    """Whether the address is a Ray client's, and this process is not already the command on the cluster."""
    named = _named(address)
    return IN_JOB not in os.environ and named is not None and named.is_client


def check_paths(request: Request) -> None:
    """Raise `UserError` for a relative folder in a Ray job or client command.

    It would be created in the job's working directory on one node, which Ray deletes at the end.
    """
    if not (is_outside(request.address) or IN_JOB in os.environ):
        return
    root = request.data_root or os.environ.get("HARNESS_DATA")
    for option, path in (("--out", request.out), ("--data-root", root)):
        if path and not os.path.isabs(path) and "://" not in str(path):
            raise UserError(
                f"{option} {str(path)!r} would lie in a Ray job's temporary copy of the code and vanish with it;"
                f" give an absolute path that all nodes see, such as /shared/{Path(path).name}"
            )
