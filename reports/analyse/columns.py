"""Query a leaderboard: finished rows, shown scores, goals, the control, missing values."""

import pandas as pd

from reports.read import score_names


def is_missing(value: object) -> bool:
    """Whether a value is None, NaN or pandas' NA."""
    return value is None or bool(pd.isna(value))


def finished(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """The rows of a leaderboard that have scores."""
    return leaderboard[leaderboard["seeds"] > 0]


def control_of(leaderboard: pd.DataFrame) -> str:
    """The control that the `difference` column refers to; "" if it has no scores."""
    return next((a for a in leaderboard["against"] if isinstance(a, str) and a), "") if "against" in leaderboard else ""


def shown(leaderboard: pd.DataFrame) -> list[str]:
    """The test scores that tables show, in column order: the goals, and all others except minor ones."""
    names = [c for c in leaderboard.columns if c.startswith("test/") and leaderboard[c].notna().any()]
    first = goals(leaderboard)
    return [name for name in names if not score_names.is_minor(name) or name in first]


def goals(leaderboard: pd.DataFrame) -> list[str]:
    """The test counterparts of the goals of the search, the ranked one first."""
    return leaderboard.iloc[0]["goals" if "goals" in leaderboard else "ranked_by"].split(",")
