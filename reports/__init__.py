"""Leaderboards from what MLflow holds. Neither torch nor ray is imported here or below.

runs -> board -> parts (tables, figures, pictures) -> page, Markdown, LaTeX, CSV
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from harness.errors import Mistake
from reports import leaderboard, page, papers
from reports.artifacts import Files
from reports.latex import latex
from reports.markdown import markdown, plain, sections
from reports.parts import Part, every
from reports.spreadsheet import spreadsheet
from reports.tables import Table


def write(
    runs: pd.DataFrame,
    folder: Path | str,
    name: str,
    files: Files | None = None,
    board: pd.DataFrame | None = None,
) -> list[Path]:
    """Write the report of runs as `<name>.md`, `.csv`, `.tex` and `.html` to a folder; returns the paths.

    The CSV has a row per cell, shares in full precision, columns as `reports.leaderboard.table` names them. files: what
    the runs keep beside their numbers; without, there are no pictures and no tests over images. board: theirs, where it
    is at hand. Equal input gives equal bytes. Characters of `name` that a file name does not bear become "-", and a
    digest of the name follows then. Raises `Mistake` where nothing can be written."""
    files = files or Files()
    board = leaderboard.table(runs, files) if board is None else board
    parts = every(runs, board, files)
    contents = {
        "md": markdown(runs, board, parts, name),
        "csv": spreadsheet(board),
        "tex": latex(_tables(parts), name),
        "html": page.html(runs, board, parts, name),
    }
    return _written(contents, folder, name)


def write_papers(boards: Mapping[str, pd.DataFrame], folder: Path | str, name: str = "papers") -> list[Path]:
    """Write every published table, ours beside it, as `<name>.md`, `.tex` and `.html`. boards: experiment -> board."""
    measured, all_of_them = papers.counted(boards)
    said = f"{measured} of {all_of_them} published figures have one of ours beside them."
    by_paper: dict[str, list[Table]] = {}
    for table in papers.tables(boards):
        by_paper.setdefault(table.caption.partition(",")[0], []).append(table)
    parts = [Part(f"paper-{i}", title, list(tables)) for i, (title, tables) in enumerate(by_paper.items(), 1)]
    contents = {
        "md": "\n\n".join([f"# {plain(name)}", said, *sections(parts)]) + "\n",
        "tex": latex(_tables(parts), name),
        "html": page.papers(parts, [said], name),
    }
    return _written(contents, folder, name)


def _tables(parts: list[Part]) -> list[Table]:
    return [item for part in parts for item in part.items if isinstance(item, Table)]


def _written(contents: Mapping[str, str], folder: Path | str, name: str) -> list[Path]:
    stem = re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "report"
    stem += "" if stem == name else f"-{hashlib.sha256(name.encode()).hexdigest()[:4]}"  # two names, two files
    files = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for kind, content in contents.items():
            files.append(Path(folder) / f"{stem}.{kind}")
            files[-1].write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise Mistake(f"cannot write to {str(folder)!r}: {error.strerror}; choose another --out") from None
    return files
