"""MLflow client: environment variables, default tracking URI, and a quick check that a store is reachable."""

import http.client
import os
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError, redacted, without_user
from harness.storage.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Read by MLflow when it is imported.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # hides the log of database migrations
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the delivery retries by itself, and reports errors
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}.items():
    os.environ.setdefault(_name, _value)


def default_uri(workspace: Workspace) -> str:
    """$MLFLOW_TRACKING_URI, as for MLflow's own commands; else a SQLite file in the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.out / 'mlflow.db'}"


def open_client(uri: str) -> "MlflowClient":
    """An `MlflowClient` of the store at `uri`, without SQLAlchemy's warnings about MLflow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)


def check_reachable(uri: str) -> None:
    """Raise `UserError` for an unreachable store within seconds; MLflow itself retries for minutes."""
    scheme, _, rest = uri.partition("://")
    if scheme in ("http", "https"):
        try:
            urllib.request.urlopen(without_user(uri).rstrip("/") + "/health", timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()  # a server responds; MLflow checks the credentials
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise UserError(f"no MLflow server answers at {redacted(uri)!r}: {reason}") from None
    elif scheme == "sqlite":
        file = Path(rest.removeprefix("/"))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "ab"):
                pass
        except OSError as error:
            raise UserError(f"cannot write the tracking database {str(file)!r}: {error.strerror}") from None
    elif scheme not in ("postgresql", "mysql", "mssql", "databricks"):
        raise UserError(f"--tracking-uri takes sqlite:///path, http(s)://server or a database, not {redacted(uri)!r}")
