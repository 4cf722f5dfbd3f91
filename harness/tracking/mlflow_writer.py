"""Idempotent writes of logged events to MLflow runs."""

from pathlib import Path
from typing import TYPE_CHECKING

from harness.storage.workspace import Workspace
from harness.tracking import event_log
from harness.tracking.mlflow_client import search_runs, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH_SIZE = 1000  # MLflow's limit on metrics per call
# Errors that a retry cannot fix.
PERMANENT_ERRORS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")


class MlflowWriter:
    """Writes the events of one log to MLflow. Runs are found by their event names, so writes can be repeated."""

    def __init__(self, client: "MlflowClient", uri: str, log: Path, workspace: Workspace):
        """Find or create the log's experiment, and find its existing runs."""
        self._client, self._workspace, self._uri = client, workspace, uri
        header = event_log.read_header(log)
        self.log, self.experiment = header["log"], self._experiment(header["experiment"])
        self.runs: dict[str, str] = {}  # name in the log -> MLflow run id
        self.find_runs()

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return experiment.experiment_id
        created = self._client.create_experiment(name, artifact_location=self._artifact_folder())
        note = "One run per sweep; nested in it one per cell; nested in that its trials and the seeds of its winner."
        self._client.set_experiment_tag(created, "mlflow.note.content", note)
        return created

    def _artifact_folder(self) -> str | None:
        """Where artifacts lie: in `out`, or beside the database where `out` is a copy; a server decides itself."""
        if not self._uri.startswith("sqlite"):
            return None
        beside = sqlite_file(self._uri).absolute().parent
        return str((beside if self._workspace.remote else self._workspace.out) / "artifacts")

    def find_runs(self) -> None:
        """Find the MLflow runs that were created from this log."""
        for run in search_runs(self._client, [self.experiment], f"tags.`harness.log` = '{self.log}'"):
            self.runs[run.data.tags["harness.event"]] = run.info.run_id

    def write(self, event: event_log.Event) -> None:
        """Write one event; idempotent. Raises `LookupError` for a run that does not exist or a file outside `out`."""
        from mlflow.entities import Metric, Param, RunTag

        name, at = event["run"], event["time"]
        if "begin" in event and name not in self.runs:
            self.runs[name] = self._create_run(name, at, event["begin"])
        run = self.runs.get(name)
        if run is None:
            raise LookupError(f"run {name!r} does not exist; it was deleted")
        metrics = [Metric(key, value, at, step) for key, value, step in event.get("metrics", ())]
        params = [Param(key, value) for key, value in event.get("params", {}).items()]
        tags = [RunTag(key, value) for key, value in event.get("tags", {}).items()]
        for start in range(0, max(len(metrics), bool(params or tags)), BATCH_SIZE):
            self._client.log_batch(run, metrics=metrics[start : start + BATCH_SIZE], params=params, tags=tags)
            params, tags = [], []
        for file, folder in event.get("files", ()):
            if ".." in Path(file).parts or Path(file).is_absolute():  # a log may be untrusted
                raise LookupError(f"{file!r} is not in the output folder")
            path = self._workspace.out / file
            if not path.exists() and path.is_relative_to(self._workspace.out / "trials"):
                self._workspace.fetched(path.parent)  # another node wrote it
            if path.exists():
                self._client.log_artifact(run, str(path), folder or None)
        if event.get("status") == "RUNNING":
            self._client.update_run(run, status="RUNNING")
        elif "status" in event:
            self._client.set_terminated(run, event["status"], end_time=at)

    def _create_run(self, name: str, at: int, begin: event_log.Begin) -> str:
        tags = {**begin["tags"], "harness.log": self.log, "harness.event": name}
        if begin["parent"]:
            tags["mlflow.parentRunId"] = self.runs[begin["parent"]]
        return self._client.create_run(self.experiment, start_time=at, run_name=begin["title"], tags=tags).info.run_id
