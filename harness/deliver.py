"""Deliver the logged events of a sweep to an MLflow store.

    python -m harness.deliver --tracking-uri http://tracking.example:5000

A sweep does this by itself while it runs. The command delivers all logs of an output folder, for example after a server
failure, or to view a cluster's runs on a laptop. The exit status is 1 if the store did not take everything.
"""

import argparse
import os
import sys
from pathlib import Path

from harness import cli
from harness.arguments import Arguments, filled, place
from harness.errors import UserError, complain, exit_status, printable, redacted
from harness.storage.workspace import Workspace
from harness.tracking import event_log
from harness.tracking.delivery import deliver_all
from harness.tracking.mlflow_client import check_writable, default_uri


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = Arguments("harness.deliver", __doc__)
    p.add_argument(
        "--out", type=place, default="runs", help="output folder of a sweep, or its URI (default %(default)s)"
    )
    p.add_argument(
        "--tracking-uri",
        type=filled,
        help="MLflow store or server (default $MLFLOW_TRACKING_URI, else sqlite:///<out>/mlflow.db)",
    )
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    workspace = cli.local_workspace(args.out)
    if workspace.remote and not args.tracking_uri and "MLFLOW_TRACKING_URI" not in os.environ:
        raise UserError(f"give --tracking-uri for the runs at {args.out!r}, such as sqlite:///mlflow.db")
    if not workspace.remote and not (workspace.out / event_log.FOLDER).is_dir():
        raise UserError(f"no sweep was written to {args.out!r}; give its folder by --out")
    with workspace.writable().single_writer() as driver_files:
        if not driver_files:
            raise UserError(f"another command is writing to {args.out!r} and delivers its own log; wait until it ends")
        logs = [log for log in sorted((workspace.out / event_log.FOLDER).glob("*.jsonl")) if log.is_file()]
        if not logs:
            raise UserError(f"no sweep was written to {args.out!r}; give its folder by --out")
        uri = args.tracking_uri or default_uri(workspace)
        check_writable(uri)
        return max([_deliver(uri, log, workspace) for log in logs])


def _deliver(uri: str, log: Path, workspace: Workspace) -> int:
    """Deliver a log, and print how many runs it has, or what the store did not take. Returns the exit status."""
    try:
        delivery = deliver_all(uri, log, workspace)
        failure = delivery.failure()
        experiment = event_log.read_header(log)["experiment"]
        print(printable(f"{experiment}: {len(delivery.writer.runs)} runs of {log.stem} at {redacted(uri)}"))
    except UserError as error:
        failure = redacted(f"{log.stem}: {error}")
    if failure:
        complain(f"error: {failure}")
    return int(bool(failure))


if __name__ == "__main__":
    sys.exit(exit_status(main))
