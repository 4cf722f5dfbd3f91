"""Missing values and columns."""

import math

import pandas as pd

Value = str | float | bool | None  # of a field in the table of runs; pandas' NA counts as None


def is_missing(value: Value) -> bool:
    """Whether a value is None, NaN or pandas' NA."""
    return value is None or bool(pd.isna(value))


def column_of(rows: pd.DataFrame, name: str) -> pd.Series:
    """A column of numbers; NaN in every row if there is none of this name."""
    return rows[name] if name in rows else pd.Series(math.nan, index=rows.index, dtype=float)
