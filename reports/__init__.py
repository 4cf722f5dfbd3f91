"""Leaderboards from what MLflow holds. Neither torch nor ray is imported here or below."""

import re
from pathlib import Path

import pandas as pd

from harness.errors import Mistake
from reports.leaderboard import table
from reports.markdown import markdown
from reports.page import html


def write(runs: pd.DataFrame, folder: Path | str, name: str) -> list[Path]:
    """Write the report of one sweep's runs as `<name>.md`, `.csv` and `.html` to a folder; returns the paths.

    The CSV has a row per cell, shares in full precision, columns as `reports.leaderboard.table` names them.
    Equal runs give equal bytes. Characters of `name` that a file name does not bear become "-". Raises
    `Mistake` where nothing can be written."""
    board = table(runs)
    contents = {
        "md": markdown(runs, board, name),
        "csv": board.to_csv(index=False, lineterminator="\n"),
        "html": html(runs, board, name),
    }
    stem = re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "report"
    files = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for kind, content in contents.items():
            files.append(Path(folder) / f"{stem}.{kind}")
            files[-1].write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise Mistake(f"cannot write to {str(folder)!r}: {error.strerror}; choose another --out") from None
    return files
