"""Artifacts of a SQLite store on this machine: they lie beside its file, wherever that was moved to.

MLflow stores their places as absolute paths. A store that was moved, copied, or begun with another output folder is put
right when it is opened for writing: no place that its file names is read or written, only the one beside it.
"""

import contextlib
import re
import shutil
import sqlite3
from pathlib import Path

from harness.errors import UserError
from harness.tracking.artifact_places import FOLDER, own_folder
from harness.tracking.mlflow_client import folder_uri, sqlite_file

SECONDS = 30.0  # for another command that writes to the file
_RUN = re.compile(r"[0-9a-f]{32}")


def put_right(uri: str, experiment: str, log: str, out: Path) -> None:
    """Let a SQLite store find the artifacts of an experiment beside its file; another store is left as it is.

    Those of the runs of this log are copied from `artifacts/` of its output folder, if they are still there. Raises
    `UserError` if that fails.
    """
    folder = own_folder(uri)
    if folder is None:
        return
    of_log = "(select value from tags where key = 'harness.log' and run_uuid = runs.run_uuid)"
    try:
        with contextlib.closing(sqlite3.connect(sqlite_file(uri), timeout=SECONDS)) as database, database:
            rows = database.execute(
                f"select run_uuid, artifact_uri, {of_log} from runs where experiment_id = ?", (experiment,)
            ).fetchall()
            for run, place, of in rows:
                right = folder_uri(folder / run / FOLDER)
                if place != right and _RUN.fullmatch(run) and _is_here(folder / run, out / FOLDER / run, of == log):
                    database.execute("update runs set artifact_uri = ? where run_uuid = ?", (right, run))
                    for column in ("source", "storage_location"):  # of what was registered of the run
                        registered = f"update model_versions set {column} = ? where run_id = ? and {column} = ?"
                        database.execute(registered, (right, run, place))
            here = "update experiments set artifact_location = ? where experiment_id = ? and artifact_location != ?"
            database.execute(here, (folder_uri(folder), experiment, folder_uri(folder)))
    except (sqlite3.Error, OSError) as error:
        raise UserError(f"cannot put right the places of artifacts in {str(sqlite_file(uri))!r}: {error}") from None


def _is_here(folder: Path, earlier: Path, own: bool) -> bool:
    """Whether a run's artifacts belong into `folder`: they are there, or the run is one of the delivered log."""
    if own and not folder.exists() and earlier.is_dir():
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # of a command that was killed
        shutil.copytree(earlier, part, symlinks=True)
        part.rename(folder)
    return own or folder.is_dir()
