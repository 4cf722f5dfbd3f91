"""Turn what MLflow holds into leaderboards.

python -m reports
python -m reports --tracking-uri http://tracking.example:5000 --experiment sat-digits
"""

import argparse
import sys
from pathlib import Path

from harness.errors import Mistake, exit_status
from reports import write
from reports.leaderboard import table, text
from reports.runs import experiments, read
from reports.selection import tested


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog="python -m reports", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    store = "sqlite:///runs/mlflow.db"
    p.add_argument("--tracking-uri", default=store, help="MLflow store or server (default %(default)s)")
    p.add_argument("--experiment", help="such as sat-digits (default: every one that has finished runs)")
    p.add_argument("--sweep", help="one sweep of the experiment (default: the newest)")
    p.add_argument("--out", type=Path, default=Path("runs/reports"), help="folder (default %(default)s)")
    return p.parse_args(words)


def main(words: list[str] | None = None) -> int:
    args = arguments(words)
    if args.sweep and not args.experiment:
        raise Mistake("--sweep is one of an experiment's; name that by --experiment")
    names = [args.experiment] if args.experiment else experiments(args.tracking_uri)
    if not names:
        raise Mistake(f"there is no experiment at {args.tracking_uri!r} yet")
    written = 0
    for name in names:
        try:
            runs = read(args.tracking_uri, name, args.sweep)
            if tested(runs).empty:
                raise Mistake(f"experiment {name!r} has no finished seed run yet; {_progress(runs)}")
        except Mistake as mistake:
            if args.experiment or len(names) == 1:
                raise
            print(f"{name}: nothing to report: {mistake}\n")
            continue
        print(f"{name}\n\n{text(table(runs))}\n")
        for file in write(runs, args.out, name):
            print(f"report: {file}")
        print()
        written += 1
    if not written:
        raise Mistake(f"no experiment at {args.tracking_uri!r} has a finished seed run yet")
    return 0


def _progress(runs) -> str:
    states = runs.loc[runs["role"] == "search", "state"].value_counts()
    return "its trials: " + (", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none")


if __name__ == "__main__":
    sys.exit(exit_status(main))
