"""Where the artifacts of a store are read: in its own folder on this machine, and from the tracking server itself.

A store names the place of each run's artifacts, and may be anybody's. Another place is not asked: its host would get
the credentials of the tracking server, and a local one may be a private file or never end.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from harness.errors import UserError, redacted
from harness.storage.contained_path import inside
from harness.tracking.mlflow_client import sqlite_file

FOLDER = "artifacts"  # beside a SQLite file
_PROXY = "/api/2.0/mlflow-artifacts/artifacts"
_PATH = re.compile(r"(?:/+[\w.~%@:+=, -]+)+/?")  # of what a server keeps


_CLOUD = ("s3", "gs", "wasbs", "abfss", "r2", "b2", "hdfs", "viewfs", "dbfs")  # as a server without a proxy names them


class NoSuchArtifact(Exception):
    """A run has no artifact of that name."""


def own_folder(uri: str) -> Path | None:
    """The folder of the artifacts of a SQLite store, beside its file; None for another store."""
    return sqlite_file(uri).absolute().parent / FOLDER if uri.startswith("sqlite:") else None


def local_path(place: str) -> Path | None:
    """The folder that a place names on this machine; None if it is elsewhere."""
    if place.startswith(("/", "file:///")) and "\0" not in place:
        return Path(unquote(place.removeprefix("file://")))
    return None


def served(uri: str, place: str) -> str | None:
    """A place that the tracking server at `uri` serves itself, as URI without a host; None for any other.

    The host is left out, since a URI may be read in two ways: requests go to that of `uri`, whatever the place says.
    """
    own, named = urlsplit(uri), urlsplit(place)
    if own.scheme not in ("http", "https") or "?" in place or "#" in place:
        return None
    host = own.netloc.rpartition("@")[2].lower()
    prefix = own.path.rstrip("/") + _PROXY
    if named.scheme == "mlflow-artifacts" and named.netloc.lower() in ("", host):
        path = named.path
    elif (named.scheme, named.netloc.lower()) == (own.scheme, host) and named.path.startswith(f"{prefix}/"):
        path = named.path.removeprefix(prefix)
    else:
        return None
    if not _PATH.fullmatch(path) or ".." in PurePosixPath(unquote(path)).parts:
        return None
    return f"mlflow-artifacts:/{path.strip('/')}"


def check_written(uri: str, place: str) -> None:
    """Raise `UserError` for a place to which no artifacts are sent.

    A SQLite store may come from elsewhere: only its own folder is written to. A server or a database decides, but names
    no other host that would get the credentials of the server.
    """
    folder, named = own_folder(uri), local_path(place)
    if folder is not None:
        allowed = named is not None and within(named, folder)
    else:
        allowed = named is not None or served(uri, place) is not None or urlsplit(place).scheme in _CLOUD
    if not allowed:
        raise UserError(f"artifacts are not sent to {redacted(place)!r}, which is no place of the store")


class ArtifactPlaces:
    """Reads the artifacts of the runs of a store, whose client is open.

    folders: trusted folders on this machine, besides the store's own.
    """

    def __init__(self, uri: str, folders: Iterable[Path] = ()):
        self._uri = uri
        self._listed: dict[tuple[str, str], set[str]] = {}  # run and place -> names there
        own = own_folder(uri)
        self._folders = [*([own] if own else []), *(folder.absolute() for folder in folders)]

    def names(self, run: str, place: str) -> set[str]:
        """The names of a run's artifacts. Raises `UserError` for a place that is not asked."""
        found = self._place(run, place)
        if isinstance(found, Path):
            return {file.name for file in found.iterdir()} if found.is_dir() else set()
        if (run, place) not in self._listed:
            import mlflow.artifacts

            files = mlflow.artifacts.list_artifacts(artifact_uri=found, tracking_uri=self._uri)
            self._listed[run, place] = {PurePosixPath(file.path).name for file in files}
        return self._listed[run, place]

    def file(self, run: str, place: str, name: str, to: Path) -> Path:
        """A run's artifact: where it lies on this machine, or downloaded into the folder `to`.

        Raises `NoSuchArtifact` if there is none, `UserError` for a place that is not asked, or what is no regular file.
        """
        found = self._place(run, place)
        if isinstance(found, Path):
            file = inside(found, name)
            if not file.exists():
                raise NoSuchArtifact(str(file))
            if not file.is_file():
                raise UserError(f"{str(file)!r} is no regular file")
            return file
        if name not in self.names(run, place):  # MLflow's error for a missing file does not tell
            raise NoSuchArtifact(f"{found}/{name}")
        import mlflow.artifacts

        uri = f"{found}/{name}"
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(to), tracking_uri=self._uri))

    def copy(self, run: str, place: str, name: str, to: Path) -> None:
        """Copy a run's artifact into the folder `to`. Raises as `file` does."""
        file = self.file(run, place, name, to)
        if file.parent != to:
            shutil.copyfile(file, to / name)

    def _place(self, run: str, place: str) -> Path | str:
        """The folder or the URI of a run's artifacts. Raises `UserError` for a place that is not asked.

        The folder of the run in the store's own counts also where the store names another: the store was moved.
        """
        if (uri := served(self._uri, place)) is not None:
            return uri
        named = local_path(place)
        for folder in self._folders:
            if named is not None and within(named, folder):
                return named
            moved = folder / run / FOLDER
            if run and moved.is_dir() and within(moved, folder):
                return moved
        where = " or ".join(repr(str(folder)) for folder in self._folders)
        raise UserError(
            f"artifacts at {redacted(place)!r} are not read: they lie neither in a folder of the store"
            f"{f', {where},' if where else ''} nor on its server; give a folder that you trust by --artifacts"
        )


def within(path: Path, folder: Path) -> bool:
    """Whether a path, whose links are followed, lies in a folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link to itself
        return False
