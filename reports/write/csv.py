"""Leaderboard as CSV, safe against formula injection in spreadsheets."""

import pandas as pd
from pandas.api.types import is_numeric_dtype

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # spreadsheets evaluate text that starts so


def spreadsheet(leaderboard: pd.DataFrame) -> str:
    """One row per cell, scores in full precision. An apostrophe precedes text that a spreadsheet would evaluate."""
    texts = {name: leaderboard[name].map(_text) for name in leaderboard if not is_numeric_dtype(leaderboard[name])}
    return leaderboard.assign(**texts).rename(columns=_text).to_csv(index=False, lineterminator="\n")


def _text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) and not _number(value) else value


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
