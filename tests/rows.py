"""Runs as `reports.read.runs.read` gives them, made by hand."""

import pandas as pd

from reports.analyse.leaderboard import build_leaderboard

SWEEP = "5eed0001"


def child(cell, role, number, state="complete", **more):
    """A row as `reports.read.runs.read` gives it."""
    order = {"standard": 0, "noise": 1}.get(cell, 2)
    return {
        "run_id": f"{cell}-{role}-{number}",
        "sweep": SWEEP,
        "study": f"study/{cell}",
        "cell": cell,
        "order": order,
        "control": order < 2,
        "goal": "val/robust",
        "floor": "",
        "winners": None,
        "duplicates": 0,
        "search_end": None,
        "role": role,
        "state": state,
        "number": number,
        "key": f"{cell}{role}{number}",
        "winner": None,
        "reason": "",
        "protocol": "2",
        "artifacts": None,
        "started": pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(minutes=number),
        "param:method": cell,
        "param:data": "digits",
        **more,
    }


def seeds(cell, robust, **more):
    """Complete seed runs with these robust accuracies, and what comes with them."""
    costs = {"test_touches": 1.0, "test_n/robust": 360.0, "val_n/robust": 288.0, "seconds/train": 2.0}
    costs |= {"seconds/val": 0.5, "seconds/test": 0.5}
    return [
        child(cell, "seed", i, **{"test/robust": r, "test/clean": 0.9, "test/pgd10-8": r}, **costs, **more)
        for i, r in enumerate(robust, 1)
    ]


def attributed(cell, found, **more):
    """Complete seed runs with these attributional scores, the same but for a hundredth from seed to seed."""
    rows = seeds(cell, [0.5, 0.52, 0.54])
    return [row | {f"test/{k}": v + i / 100 for k, v in found.items()} | more for i, row in enumerate(rows, -1)]


def leaderboard(*rows):
    return build_leaderboard(pd.DataFrame([row for group in rows for row in group]))


def row_names(leaderboard):
    """Of its rows, the best first."""
    return [row.name for row in leaderboard.rows]


STANDARD = seeds("standard", [0.10, 0.12, 0.14])
PGD = seeds("pgd", [0.60, 0.62, 0.64])


def family():
    tuned = {
        "param:search.method.eps": "4/255, 8/255",
        "param:method.eps": "0.0313725490",
        "param:measure.step": "0.0",
        "test_stderr/robust": 0.02,
    }
    rows = [*STANDARD, *(row | tuned for row in PGD), *seeds("sat, box", [0.3, 0.32, 0.34])]
    rows += [child("pgd", "search", 4, "failed", reason="Diverged: <b>nan</b>")]
    return pd.DataFrame([*rows, child("trades", "search", 0)])
