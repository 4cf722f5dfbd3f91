"""Write a report of runs as Markdown, CSV, LaTeX and HTML files. Imports neither torch nor ray.

runs -> leaderboard -> sections (tables, figures, pictures) -> HTML, Markdown, LaTeX, CSV
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from harness.errors import UserError, short_name
from reports.analyse.leaderboard import build_leaderboard
from reports.analyse.rows import Leaderboard
from reports.present import papers
from reports.present.sections import Section, all_sections
from reports.present.tables import Table
from reports.read.artifacts import Files
from reports.write import html
from reports.write.csv import spreadsheet, to_frame
from reports.write.latex import latex
from reports.write.markdown import markdown, plain, sections

NAME = 200  # characters of a title
FILE_NAME = 120  # bytes of a file's name, of 255 that it may have


def write(
    runs: pd.DataFrame,
    folder: Path | str,
    name: str,
    files: Files | None = None,
    leaderboard: Leaderboard | None = None,
) -> list[Path]:
    """Write the report of runs as `<name>.md`, `.csv`, `.tex` and `.html` into a folder; returns the paths.

    The CSV has one row per cell, shares in full precision, columns as in `reports.write.csv.to_frame`. files: artifacts
    of the runs; without them there are no pictures and no paired tests. leaderboard: that of the runs, if already
    built. Equal input gives equal bytes. Characters of `name` that are not allowed in a file name become "-", and a
    digest of the name is appended; a long one is cut. Raises `UserError` if nothing can be written."""
    title, files = short_name(name, NAME), files or Files()
    leaderboard = build_leaderboard(runs, files) if leaderboard is None else leaderboard
    parts = all_sections(runs, leaderboard, files)
    contents = {
        "md": markdown(runs, leaderboard, parts, title),
        "csv": spreadsheet(to_frame(leaderboard)),
        "tex": latex(_tables(parts), title),
        "html": html.html(runs, leaderboard, parts, title),
    }
    return _write_files(contents, folder, name)


def write_papers(leaderboards: Mapping[str, Leaderboard], folder: Path | str, name: str = "papers") -> list[Path]:
    """Write every published table, with measured scores, as `<name>.md`, `.tex` and `.html`.

    leaderboards: experiment -> leaderboard."""
    measured, total = papers.counted(leaderboards)
    headline = f"{measured} of {total} published figures have a measured score beside them."
    by_paper: dict[str, list[Table]] = {}
    for table in papers.tables(leaderboards):
        by_paper.setdefault(table.caption.partition(",")[0], []).append(table)
    parts = [Section(f"paper-{i}", title, list(tables)) for i, (title, tables) in enumerate(by_paper.items(), 1)]
    contents = {
        "md": "\n\n".join([f"# {plain(name)}", headline, *sections(parts)]) + "\n",
        "tex": latex(_tables(parts), name),
        "html": html.papers(parts, [headline], name),
    }
    return _write_files(contents, folder, name)


def _tables(parts: list[Section]) -> list[Table]:
    return [item for part in parts for item in part.items if isinstance(item, Table)]


def _write_files(contents: Mapping[str, str], folder: Path | str, name: str) -> list[Path]:
    stem = re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "report"
    stem = stem.encode()[:FILE_NAME].decode(errors="ignore")
    stem += "" if stem == name else f"-{hashlib.sha256(name.encode()).hexdigest()[:4]}"  # two names, two files
    files = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for kind, content in contents.items():
            files.append(Path(folder) / f"{stem}.{kind}")
            files[-1].write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r}: {error.strerror}; choose another --out") from None
    return files
