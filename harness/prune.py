"""Discard the weights of search trials that won nothing, in an output folder that exists.

    python -m harness.prune --out runs --dry-run
    python -m harness.prune --out runs

Weights of winners, seeds, teachers, and trials that were tested or evaluated stay, as do checkpoints of what is not
finished. No score, picture or log is removed. A sweep does this by itself, while it runs or, at a URI, when it ends,
unless by --keep all.
"""

import argparse
import sys

from harness import cli
from harness.arguments import Arguments, place
from harness.errors import UserError, exit_status
from harness.storage.driver_files import JOURNAL
from harness.storage.workspace import Workspace
from harness.sweep import unneeded
from harness.trials.discarded_weights import by_kind

MB = 1e6  # bytes


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = Arguments("harness.prune", __doc__)
    p.add_argument(
        "--out", type=place, default="runs", help="output folder of sweeps, or its URI (default %(default)s)"
    )
    p.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    workspace = cli.local_workspace(args.out)
    if not workspace.remote and not (workspace.out / JOURNAL).is_file():
        raise _no_sweep(args.out)
    with workspace.writable().single_writer() as driver_files:
        if not driver_files:
            raise UserError(f"another command is writing to {args.out!r}; wait until it ends")
        if not (workspace.out / JOURNAL).is_file():
            raise _no_sweep(args.out)
        _prune(workspace, args.dry_run)
    return 0


def _no_sweep(out: str) -> UserError:
    return UserError(f"no sweep was written to {out!r}; give its folder by --out")


def _prune(workspace: Workspace, dry_run: bool) -> None:
    """Remove the files, unless `dry_run`, and print what goes and what stays, by kind."""
    sizes = workspace.sizes()
    files = unneeded.discard(workspace, sizes, dry_run=dry_run)
    before, after = by_kind(sizes), by_kind({path: sizes[path] for path in sizes.keys() - files.keys()})
    print(f"{'would remove' if dry_run else 'removed'}: {len(files)} files, {sum(files.values()) / MB:.1f} MB")
    for kind, size in before.items():
        stays = f" of {size / MB:.1f}" if size > after[kind] else ""
        print(f"{kind}: {after[kind] / MB:.1f}{stays} MB {'would stay' if dry_run and stays else 'stay'}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
