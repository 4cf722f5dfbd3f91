"""Write leaderboard reports from the runs in MLflow.

python -m reports
python -m reports --list    # the sweeps: when, with what settings, how many trials
python -m reports --tracking-uri http://tracking.example:5000 --experiment sat-digits
python -m reports --experiment sat-cifar10 --experiment sat_family-cifar10    # one table of both
python -m reports verify RUN    # train and measure RUN again: do the scores agree with its record?
python -m reports export RUN    # weights, model card, scores for other leaderboards
"""

import argparse
import contextlib
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from harness.arguments import Arguments, filled, path
from harness.errors import UserError, complain, exit_status, printable, redacted, short_name, unknown_name
from reports.analyse import counted_runs
from reports.analyse.counted_runs import tested
from reports.analyse.leaderboard import build_leaderboard
from reports.analyse.rows import Leaderboard
from reports.read.runs import ARTIFACTS_HELP, NAME, STORE, experiments, read, report_name, sweeps_of, together
from reports.write.report import write, write_papers
from reports.write.terminal import text


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = Arguments("reports", __doc__)
    p.add_argument("--tracking-uri", type=filled, default=STORE, help="MLflow store or server (default %(default)s)")
    p.add_argument(
        "--experiment",
        action="append",
        metavar="NAME",
        help="such as sat-digits; several make one table (default: all with finished runs, and the papers)",
    )
    p.add_argument("--artifacts", type=path, action="append", default=[], metavar="FOLDER", help=ARTIFACTS_HELP)
    p.add_argument("--sweep", metavar="ID", help="one sweep of the experiment (default: the one written last)")
    p.add_argument("--list", action="store_true", help="list the sweeps, of each experiment the one written last first")
    p.add_argument("--out", type=path, default=Path("runs/reports"), help="folder (default %(default)s)")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["verify"]:
        from reports import verify

        return verify.main(argv[1:])
    if argv[:1] == ["export"]:
        from reports import export

        return export.main(argv[1:])
    if argv and not argv[0].startswith("-"):
        raise unknown_name("command", argv[0], ("verify", "export"))
    with _without_gc():
        return _reports(arguments(argv))


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    """Disable garbage collection, which takes a quarter of the time on the many objects of MLflow's rows."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _reports(args: argparse.Namespace) -> int:
    if args.sweep and len(args.experiment or []) != 1:
        raise UserError("--sweep needs exactly one --experiment")
    if args.list:
        return _list(args)
    if args.experiment:
        frames = {name: _read(args.tracking_uri, name, args.sweep) for name in dict.fromkeys(args.experiment)}
        runs = together(frames) if len(frames) > 1 else next(iter(frames.values()))
        _report(args, runs, "+".join(report_name(frame, name) for name, frame in frames.items()))
        return 0
    return _report_all(args)


def _list(args: argparse.Namespace) -> int:
    """Print the sweeps of the experiments, or of the named ones."""
    known = experiments(args.tracking_uri)
    for name in args.experiment or known:
        if name not in known:
            raise unknown_name("experiment", name, known)
        for found in sweeps_of(args.tracking_uri, name):
            print(f"{printable(name)}  {found}")
    return 0


def _report_all(args: argparse.Namespace) -> int:
    """Report every experiment that has finished runs, and the papers' tables beside all of them."""
    names = experiments(args.tracking_uri)
    if not names:
        raise UserError(f"there is no experiment at {redacted(args.tracking_uri)!r} yet")
    leaderboards = {}
    for name in names:
        try:
            runs = _read(args.tracking_uri, name)
        except UserError as error:
            if len(names) == 1:
                raise
            print(f"{printable(f'{short_name(name, NAME)}: nothing to report: {error}')}\n")
            continue
        leaderboards[name] = _report(args, runs, report_name(runs, name))
    if not leaderboards:
        raise UserError(f"no experiment at {redacted(args.tracking_uri)!r} has a finished seed run yet")
    for file in write_papers(leaderboards, args.out, "papers" if "papers" not in leaderboards else "published papers"):
        print(f"papers: {file}")
    return 0


def _read(uri: str, name: str, sweep: str | None = None) -> pd.DataFrame:
    """The runs of an experiment. Raises `UserError` if none was tested."""
    runs = read(uri, name, sweep)
    if tested(runs).empty:
        raise UserError(f"experiment {name!r} has no finished seed run yet; {_progress(runs)}")
    return runs


def _report(args: argparse.Namespace, runs: pd.DataFrame, name: str) -> Leaderboard:
    """Print and write the report; returns its leaderboard."""
    files = counted_runs.read_files(args.tracking_uri, runs, args.artifacts)
    leaderboard = build_leaderboard(runs, files)
    several = runs.attrs.get("of", 1) > 1
    chosen = f": sweep {runs.attrs['sweep']}, of {runs.attrs['of']} (--list)" if several else ""
    print(f"{printable(short_name(name, NAME))}{chosen}\n\n{text(leaderboard)}\n")
    for problem in files.problems:
        complain(f"note: {problem}")
    for file in write(runs, args.out, name, files, leaderboard):
        print(f"report: {file}")
    print()
    return leaderboard


def _progress(runs: pd.DataFrame) -> str:
    states = runs.loc[runs["role"] == "search", "state"].value_counts()
    return "its trials: " + (", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none")


def command() -> int:
    """The script `harness-reports`, for folders with a `reports` of their own, which `python -m reports` would run."""
    status = exit_status(main)
    gc.freeze()  # a collection of everything at exit would take a second
    return status


if __name__ == "__main__":
    sys.exit(command())
