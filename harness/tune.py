"""Run a sweep: hyperparameter search, seed repetitions of the winners, one test each, report.

    python -m harness.tune --space sat
    python -m harness.tune --space sat --data cifar10 --trials 20 --gpus 0.25
    python -m harness.tune --space sat --set epochs=30 --set method.schedule=linear
    python -m harness.tune --space pgd --cell pgd --set method=mine
    python -m harness.tune --space sat --dry-run
    python -m harness.tune run.toml --trials 20

Repeating the command continues an interrupted sweep; with more --trials or --seeds it extends a finished one. Cells
chosen by --cell, and a method tried in the place of a cell's own, join the sweep of their space and its report.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from harness import cli, sweep_driver
from harness.arguments import Arguments, duration, filled, number, path, whole
from harness.config import listing
from harness.errors import UserError, complain, exit_status, shell_command
from harness.sweep import ray_addresses, remote_command, run_file, sent_plugins
from harness.sweep.estimate import dry_run
from harness.sweep.plan import Plan, plan
from harness.sweep.request import Request
from harness.sweep.run_file import RunFile

if TYPE_CHECKING:
    from harness.storage.workspace import Workspace

FIELDS = {field.name for field in fields(Request)}


def arguments(argv: list[str] | None = None) -> Namespace:
    """The parsed words; after those of a run file, if the words name one, which they override."""
    words = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(words)
    if args.run is None:
        return args
    file = RunFile.read(args.run, _parser().parse_args)
    return _with_file(file, words, choose=not args.cell)


def _with_file(file: RunFile, words: Sequence[str], *, choose: bool = True) -> Namespace:
    """choose: whether to run the cells that the file names."""
    return _parser().parse_args([*file.words(cells=choose), *words], Namespace(file=file))


def _parser() -> Arguments:
    p = cli.parser("harness.tune", __doc__, single=False)
    p.add_argument(
        "run",
        nargs="?",
        type=path,
        metavar="RUN.TOML",
        help="a run file: options by name, and `[set]`; see docs/run-files.md",
    )
    p.add_argument("--write-run", type=path, metavar="FILE", help="write this command as a run file, and run nothing")
    p.add_argument("--list", action="store_true", help="list the spaces, the question of each, and what packages offer")
    p.add_argument("--dry-run", action="store_true", help="show cells, domains, trials and estimated cost; run nothing")
    p.add_argument(
        "--cell",
        action="append",
        default=[],
        help="run only this cell; may be repeated. With one, --set may replace its method and what the space compares",
    )
    p.add_argument("--trials", type=whole(1), help="trials per cell (default: the space's)")
    p.add_argument("--seeds", type=whole(0), help="seeds per winner (default: the space's)")
    p.add_argument(
        "--budget",
        type=duration,
        metavar="TIME",
        help="end the search so that the sweep ends in time: 90m, 2h30m",
    )
    p.add_argument(
        "--stop-after", type=whole(1), metavar="N", help="end the search when no cell has got better in N of its trials"
    )
    p.add_argument(
        "--warm-start", type=filled, metavar="EXPERIMENT", help="let the search know trials of this earlier experiment"
    )
    p.add_argument("--cpus", type=number, default=1, help="CPU cores per trial (default 1)")
    p.add_argument("--gpus", type=number, help="GPUs per trial, fractions allowed (default 1 on a GPU device)")
    p.add_argument("--workers", type=whole(1), metavar="N", help="run at most N trials at once (default: all that fit)")
    p.add_argument(
        "--time-limit", type=number, metavar="SECONDS", help="a trial that takes longer fails (default: none)"
    )
    p.add_argument("--retry-failed", action="store_true", help="run the failed trials of an earlier command again")
    p.add_argument(
        "--keep",
        default="winners",
        metavar="winners|all",
        help="whose weights stay: winners (and seeds, teachers, what is unfinished; default), or all",
    )
    p.add_argument(
        "--tracking-uri",
        type=filled,
        help="MLflow store or server (default $MLFLOW_TRACKING_URI, else sqlite:///<out>/mlflow.db)",
    )
    p.add_argument(
        "--register", metavar="NAME", help="register each winner's weights as a version of this MLflow model"
    )
    p.add_argument(
        "--address",
        type=filled,
        help="Ray cluster: HOST:6379, ray://HOST:10001, auto or local (default: $RAY_ADDRESS, else local)",
    )
    p.set_defaults(file=None)
    return p


def request(args: Namespace) -> Request:
    """What the parsed arguments ask for. Raises `UserError` for a study in a run file that is wrong."""
    given = {name: value for name, value in vars(args).items() if name in FIELDS}
    if args.space is None and args.file:
        given["space"] = args.file.study()
    return Request(**given, cells=tuple(args.cell), settings=cli.overrides(args))


def _planned(args: Namespace) -> Plan:
    """The plan of the arguments. Raises `UserError`, with the line where a run file is wrong."""
    try:
        return plan(request(args))
    except UserError as error:
        if args.file:
            raise args.file.placed(error, lambda file: plan(request(_with_file(file, ())))) from None
        raise


def main() -> int:
    args = arguments()
    cli.use_kept_plugins(args)
    if args.list:
        print("\n".join(listing.lines()))
        return 0
    planned = _planned(args)
    asked = planned.request
    if args.write_run:
        run_file.write(asked, args.write_run)
        print(f"run it: {shell_command('python', '-m', 'harness.tune', str(args.write_run))}")
        return 0
    ray_addresses.check_paths(asked)
    if ray_addresses.is_outside(asked.address):
        return remote_command.run(asked.address, *sent_plugins.sent(_words(args), args, planned.plugins))
    workspace = sweep_driver.opened(planned)
    if planned.note and not asked.quiet:
        print(planned.note, flush=True)
    if args.dry_run:
        sweep_driver.check_start(asked, workspace)
        print(dry_run(planned, workspace))
        return 0
    return _run(planned, workspace)


def _run(planned: Plan, workspace: "Workspace") -> int:
    """Run a plan, print its report, and say what went wrong. Returns the exit status."""
    from harness.storage.driver_lock import DriverLost
    from harness.sweep_report import print_report

    try:
        swept = sweep_driver.run(planned, workspace, on_report=print_report)
    except DriverLost as error:
        complain(f"error: {error}")
        return 1
    if swept.report is None:
        complain(f"interrupted; finished trials are stored. Continue with: {_resume_command()}")
        return 130
    if swept.undelivered:
        complain(f"error: {swept.undelivered}")
    return 1 if swept.undelivered or swept.report.unfinished else 0


def _words(args: Namespace) -> list[str]:
    """The words of the command for a machine that has no run file. Raises `UserError` for a study in one."""
    if args.file is None:
        return sys.argv[1:]
    if args.space is None:
        raise UserError("a study in a run file cannot be sent to a cluster; run the command on one of its nodes")
    words = [word for word in sys.argv[1:] if path(word) != args.run]
    return [*args.file.words(cells=not any(word.startswith("--cell") for word in words)), *words]


def _resume_command() -> str:
    return shell_command("python", "-m", "harness.tune", *sys.argv[1:])


if __name__ == "__main__":
    sys.exit(exit_status(main))
