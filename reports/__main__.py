"""Turn what MLflow holds into leaderboards.

python -m reports
python -m reports --tracking-uri http://tracking.example:5000 --experiment sat-digits
python -m reports --experiment sat-cifar10 --experiment sat_family-cifar10    # one table of both
python -m reports verify RUN    # run it again from its record: do the scores agree?
python -m reports export RUN    # weights, RobustBench-style JSON and a model card
"""

import argparse
import contextlib
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from harness.errors import Mistake, exit_status, printable, redacted, unknown
from reports import artifacts, write, write_papers
from reports.leaderboard import table, text
from reports.runs import STORE, experiments, read, together
from reports.selection import tested


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog="python -m reports", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--tracking-uri", default=STORE, help="MLflow store or server (default %(default)s)")
    p.add_argument(
        "--experiment",
        action="append",
        metavar="NAME",
        help="such as sat-digits; several make one table (default: each one that has finished runs, and the papers')",
    )
    p.add_argument("--sweep", help="one sweep of the experiment (default: the newest)")
    p.add_argument("--out", type=Path, default=Path("runs/reports"), help="folder (default %(default)s)")
    return p.parse_args(words)


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["verify"]:
        from reports import verify

        return verify.main(words[1:])
    if words[:1] == ["export"]:
        from reports import export

        return export.main(words[1:])
    if words and not words[0].startswith("-"):
        raise unknown("command", words[0], ("verify", "export"))
    with _uncollected():
        return _reports(arguments(words))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Within, Python looks for no cycles among the objects that MLflow makes of its rows: a quarter of all the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _reports(args: argparse.Namespace) -> int:
    if args.sweep and len(args.experiment or []) != 1:
        raise Mistake("--sweep is one of an experiment's; name that by --experiment")
    if args.experiment:
        frames = {name: _read(args.tracking_uri, name, args.sweep) for name in dict.fromkeys(args.experiment)}
        runs = together(frames) if len(frames) > 1 else next(iter(frames.values()))
        _report(args, runs, "+".join(frames))
        return 0
    return _every(args)


def _every(args: argparse.Namespace) -> int:
    """A report of each experiment that has finished runs, and the papers' tables with all of them."""
    names = experiments(args.tracking_uri)
    if not names:
        raise Mistake(f"there is no experiment at {redacted(args.tracking_uri)!r} yet")
    boards = {}
    for name in names:
        try:
            runs = _read(args.tracking_uri, name)
        except Mistake as mistake:
            if len(names) == 1:
                raise
            print(f"{printable(f'{name}: nothing to report: {mistake}')}\n")
            continue
        boards[name] = _report(args, runs, name)
    if not boards:
        raise Mistake(f"no experiment at {redacted(args.tracking_uri)!r} has a finished seed run yet")
    for file in write_papers(boards, args.out, "papers" if "papers" not in boards else "published papers"):
        print(f"papers: {file}")
    return 0


def _read(uri: str, name: str, sweep: str | None = None) -> pd.DataFrame:
    """The runs of an experiment. Raises `Mistake` where none of them was tested."""
    runs = read(uri, name, sweep)
    if tested(runs).empty:
        raise Mistake(f"experiment {name!r} has no finished seed run yet; {_progress(runs)}")
    return runs


def _report(args: argparse.Namespace, runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Print and write the report; returns its board."""
    files = artifacts.read(args.tracking_uri, runs)
    board = table(runs, files)
    print(f"{printable(name)}\n\n{text(board)}\n")
    for file in write(runs, args.out, name, files, board):
        print(f"report: {file}")
    print()
    return board


def _progress(runs: pd.DataFrame) -> str:
    states = runs.loc[runs["role"] == "search", "state"].value_counts()
    return "its trials: " + (", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none")


if __name__ == "__main__":
    status = exit_status(main)
    gc.freeze()  # looking through all that was read once more, at exit, would take a second
    sys.exit(status)
