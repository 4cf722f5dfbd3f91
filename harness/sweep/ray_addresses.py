"""Ray addresses: whether the command runs locally, on a cluster node, in a Ray job, or as a Ray client."""

import os
from argparse import Namespace
from pathlib import Path

from harness.errors import UserError
from harness.sweep.ray_internals import IN_JOB

CLIENT = "ray://"


def is_outside(address: str | None) -> bool:
    """Whether the address is a Ray client's, and this process is not already the command on the cluster."""
    return (address or os.environ.get("RAY_ADDRESS", "")).startswith(CLIENT) and IN_JOB not in os.environ


def check_paths(arguments: Namespace) -> None:
    """Raise `UserError` for a relative folder in a Ray job or client command.

    It would be created in the job's working directory on one node, which Ray deletes at the end.
    """
    if not (is_outside(arguments.address) or IN_JOB in os.environ):
        return
    root = arguments.data_root or os.environ.get("HARNESS_DATA")
    for option, path in (("--out", arguments.out), ("--data-root", root)):
        if path and not os.path.isabs(path) and "://" not in str(path):
            raise UserError(
                f"{option} {str(path)!r} would lie in a Ray job's temporary copy of the code and vanish with it;"
                f" give an absolute path that all nodes see, such as /shared/{Path(path).name}"
            )
