"""The only way to MLflow: its environment, clients that write or read, pages of results, whether a store is there."""

import contextlib
import http.client
import logging
import os
import re
import sqlite3
import ssl
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.errors import UserError, one_line, redacted, without_user

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run
    from mlflow.store.entities import PagedList

    from harness.storage.workspace import Workspace

PAGE = 1000  # results per request
WRITER_SECONDS, READER_SECONDS = 5, 10  # before a server counts as unreachable
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
WRITER_ENVIRONMENT = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # hides the log of database migrations
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the delivery retries by itself, and reports errors
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
READER_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # pauses of 2, 4 and 8 s; MLflow's own 7 retries take minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
DATABASES = ("postgresql", "mysql", "mssql")  # servers of SQL that a URI may name itself; a driver may follow
STORES = "mlflow.tracking_store"  # where MLflow's plug-ins offer stores, by the scheme of their URI
_T = TypeVar("_T")


def default_uri(workspace: "Workspace") -> str:
    """$MLFLOW_TRACKING_URI, as for MLflow's own commands; else a SQLite file in the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(workspace.out / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """The URI of a database file; characters of its path that a URI gives another meaning are escaped."""
    from sqlalchemy import URL

    if not re.search(
        "[%?]", str(file)
    ):  # other characters are read as they are: MLflow makes the folder of what it sees
        return f"sqlite:///{file}"
    return URL.create("sqlite", database=str(file)).render_as_string(hide_password=False)


def folder_uri(folder: Path) -> str:
    """A folder as MLflow takes it for artifacts: its path, or its URI where MLflow would read the path as another."""
    return folder.absolute().as_uri() if re.search("[%?#]", str(folder)) else str(folder)


def sqlite_file(uri: str) -> Path:
    """The database file that a `sqlite:` URI names. Raises `UserError` for one that SQLAlchemy does not read."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        database = make_url(uri).database
    except (ArgumentError, ValueError):
        database = None
    if not database or database == ":memory:":
        raise UserError(f"{redacted(uri)!r} names no file; a tracking database is sqlite:///FILE")
    return Path(database)


# Clients


def open_writer(uri: str) -> "MlflowClient":
    """A client that writes to the store at `uri`. It gives up soon, since the delivery tries again."""
    with _quiet({**ENVIRONMENT, **WRITER_ENVIRONMENT}):
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri, registry_uri=uri)  # else models would go to MLflow's default store


@contextlib.contextmanager
def opened_reader(uri: str) -> Iterator["MlflowClient"]:
    """A client that reads, without log output. Failures raise `UserError`; a missing store is not created."""
    _check_readable(uri)
    with _quiet({**ENVIRONMENT, **READER_ENVIRONMENT}):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            yield MlflowClient(tracking_uri=uri)
        except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
            raise UserError(f"MLflow at {redacted(uri)!r} cannot be read: {one_line(error)}") from None


@contextlib.contextmanager
def _quiet(environment: Mapping[str, str]) -> Iterator[None]:
    """Set these variables, some of which MLflow reads on import, and ignore its and SQLAlchemy's deprecations."""
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    try:
        Path.home()
    except RuntimeError:  # a user id without a name, as in a container: MLflow could not be imported
        os.environ["HOME"] = "/"
    with warnings.catch_warnings(action="ignore"):
        yield


# Pages


def search_runs(client: "MlflowClient", experiments: list[str], where: str, page: int = PAGE) -> list["Run"]:
    """All runs of the experiments with these ids that match a filter. page: runs per request."""
    return _all_pages(lambda token: client.search_runs(experiments, where, max_results=page, page_token=token))


def deleted_runs(client: "MlflowClient", experiments: list[str], where: str) -> list["Run"]:
    """As `search_runs`, of the runs that were deleted and not yet removed for good."""
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY
    return _all_pages(lambda token: client.search_runs(experiments, where, view, max_results=PAGE, page_token=token))


def search_experiments(client: "MlflowClient") -> list["Experiment"]:
    """All active experiments."""
    return _all_pages(lambda token: client.search_experiments(max_results=PAGE, page_token=token))


def _all_pages(request: Callable[[str | None], "PagedList[_T]"]) -> list[_T]:
    results: list[_T] = []
    token = None
    while True:
        page = request(token)
        results.extend(page)
        token = page.token
        if not token:
            return results


# Whether a store is there


def check_writable(uri: str, create: bool = True) -> None:
    """Create the folder and the file of a SQLite store. Raises `UserError` for a store that cannot be reached.

    The store of an installed MLflow plug-in is left to it. create: False looks only whether that could be done.
    """
    scheme = uri.partition("://")[0]
    if scheme in ("http", "https"):
        _check_server(uri, WRITER_SECONDS)
    elif scheme == "sqlite":
        file = sqlite_file(uri)
        if file.exists() and not file.is_file():  # opening a FIFO would wait for ever
            raise UserError(f"cannot write the tracking database {str(file)!r}: it is no regular file")
        try:
            if not create and not file.exists():
                _check_folder(file.absolute().parent)
                return
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "ab"):
                pass
        except OSError as error:
            raise UserError(f"cannot write the tracking database {str(file)!r}: {error.strerror}") from None
    elif scheme.partition("+")[0] not in (*DATABASES, "databricks", *entry_points(group=STORES).names):
        raise UserError(f"--tracking-uri takes sqlite:///path, http(s)://server or a database, not {redacted(uri)!r}")


def _check_folder(folder: Path) -> None:
    """Raise `OSError` if nothing can be written to a folder, or it could not be made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass


def _check_readable(uri: str) -> None:
    if uri.startswith("sqlite:"):
        _check_database(sqlite_file(uri))
    elif uri.startswith(("http://", "https://")):
        _check_server(uri, READER_SECONDS, ignored=(ssl.SSLError,))  # MLflow reports those itself
    elif "://" not in uri and ":" not in uri:
        raise UserError(f"a tracking URI names its scheme: did you mean 'sqlite:///{redacted(uri)}'?")


def _check_database(path: Path) -> None:
    """Check that the file is an MLflow database: MLflow would create a missing one and add its tables to any other."""
    if not path.is_file():
        raise UserError(f"there is no MLflow database at {str(path)!r}; name another by --tracking-uri")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            tables = database.execute("select name from sqlite_master where name = 'experiments'").fetchall()
    except sqlite3.Error as error:
        raise UserError(f"{str(path)!r} is not an MLflow database: {error}") from None
    if not tables:
        raise UserError(f"{str(path)!r} is not an MLflow database: it has no experiments")


def _check_server(uri: str, seconds: float, ignored: tuple[type[Exception], ...] = ()) -> None:
    """Check that a server answers. MLflow itself would retry an unreachable one for minutes."""
    try:
        urllib.request.urlopen(f"{without_user(uri).rstrip('/')}/health", timeout=seconds).close()
    except urllib.error.HTTPError as error:
        error.close()  # it answered; MLflow reports missing access
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ignored):
            raise UserError(f"no MLflow server answers at {redacted(uri)!r}: {reason}") from None
