"""A board as CSV, which a spreadsheet may open: its text stays text there."""

import pandas as pd
from pandas.api.types import is_numeric_dtype

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what spreadsheets run, so that it could send off the other cells


def spreadsheet(board: pd.DataFrame) -> str:
    """A row per cell, every figure in full precision. Text that a spreadsheet would run begins with an apostrophe."""
    texts = {name: board[name].map(_text) for name in board if not is_numeric_dtype(board[name])}
    return board.assign(**texts).rename(columns=_text).to_csv(index=False, lineterminator="\n")


def _text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) and not _number(value) else value


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
