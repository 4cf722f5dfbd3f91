"""Idempotent writes of logged events to MLflow runs."""

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError, one_line, redacted, shell_command
from harness.storage.contained_path import inside
from harness.storage.workspace import Workspace
from harness.tracking import event_log
from harness.tracking.artifact_places import FOLDER, check_written, own_folder
from harness.tracking.local_artifacts import put_right
from harness.tracking.mlflow_client import DATABASES, deleted_runs, folder_uri, search_runs
from harness.tracking.refusals import Refused, is_final, reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

# The tag that names what an experiment is for. MLflow's pages go by it where their own switch of views is off.
KIND, TRAINING = "mlflow.experimentKind", "custom_model_development"
CONTEXT = "mlflow.data.context"  # tag of an input: what the data are used for
BATCH_SIZE = 1000  # MLflow's limit on metrics per call


class UploadFailed(Exception):
    """A file was not taken, for a reason that may pass; what came before it in its event was."""

    def __init__(self, file: str, why: str):
        super().__init__(why)
        self.file = file


class MlflowWriter:
    """Writes the events of one log to MLflow. Runs are found by their event names, so writes can be repeated."""

    def __init__(self, client: "MlflowClient", uri: str, log: Path, workspace: Workspace):
        """Find or create the log's experiment, and find its existing runs."""
        self._client, self._workspace, self._uri = client, workspace, uri
        header = event_log.read_header(log)
        self.log, self.experiment = header["log"], self._experiment(header["experiment"])
        put_right(uri, self.experiment, self.log, workspace.out)
        self.runs: dict[str, str] = {}  # name in the log -> MLflow run id
        self._places: dict[str, str] = {}  # run id -> where its artifacts go
        self.find_runs()

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":
                raise UserError(
                    f"the experiment {name!r} was deleted in MLflow and takes no runs; give another --tracking-uri, or"
                    f" restore it by: {self._restore('experiments', '--experiment-id', experiment.experiment_id)}"
                )
            if KIND not in experiment.tags:
                self._client.set_experiment_tag(experiment.experiment_id, KIND, TRAINING)
            return experiment.experiment_id
        try:
            created = self._client.create_experiment(name, artifact_location=self._artifact_folder())
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._experiment(name)  # another command was faster
        self._client.set_experiment_tag(created, KIND, TRAINING)
        note = "One run per sweep; nested in it one per cell; nested in that its trials and the seeds of its winner."
        self._client.set_experiment_tag(created, "mlflow.note.content", note)
        return created

    def _restore(self, kind: str, *which: str) -> str:
        """MLflow's command, which reads the store's URI from the environment only."""
        return f"MLFLOW_TRACKING_URI={shell_command(self._uri)} {shell_command('mlflow', kind, 'restore', *which)}"

    def _artifact_folder(self) -> str | None:
        """Where artifacts lie: beside the file of a SQLite store; in `out` for another database; a server decides."""
        folder = own_folder(self._uri)
        if folder is None and self._uri.startswith(DATABASES) and not self._workspace.remote:
            folder = self._workspace.out / FOLDER  # MLflow would take a folder of the current one
        return folder_uri(folder) if folder else None

    def find_runs(self) -> None:
        """Find the MLflow runs that were created from this log."""
        for run in search_runs(self._client, [self.experiment], f"tags.`harness.log` = '{self.log}'"):
            self.runs[run.data.tags["harness.event"]] = run.info.run_id
            self._places[run.info.run_id] = run.info.artifact_uri

    def check_not_deleted(self, names: Collection[str]) -> None:
        """Raise `UserError` if one of these runs of the log was deleted in MLflow, which then takes nothing of it.

        Also if the store does not say.
        """
        try:
            deleted = deleted_runs(self._client, [self.experiment], f"tags.`harness.log` = '{self.log}'")
        except Exception as error:  # database drivers raise their own types
            raise UserError(f"the tracking store {redacted(self._uri)!r} failed: {one_line(error)}") from None
        for run in deleted:
            if run.data.tags["harness.event"] in names:
                raise UserError(
                    f"the run {run.info.run_name!r} was deleted in MLflow and takes no results; give another"
                    f" --tracking-uri, or restore it by: {self._restore('runs', '--run-id', run.info.run_id)}"
                )

    def write(self, event: event_log.Event, without: Collection[str] = ()) -> dict[str, str]:
        """Write one event; idempotent. Returns the files that the store refuses, with the reasons.

        without: files that are left out. Raises `Refused` for a run that does not exist or an event of the wrong form,
        of which nothing is sent, `UploadFailed` for a file that may be taken later.
        """
        from mlflow.entities import Metric, Param, RunTag

        with _refusing():
            event = event_log.checked(event)
        name, at = event["run"], event["time"]
        if "begin" in event and name not in self.runs:
            self.runs[name] = self._create_run(name, at, event["begin"])
        run = self.runs.get(name)
        if run is None:
            raise Refused(f"run {name!r} does not exist; it was deleted")
        metrics = [Metric(key, value, at, step) for key, value, step in event.get("metrics", ())]
        params = [Param(key, value) for key, value in event.get("params", {}).items()]
        tags = [RunTag(key, value) for key, value in event.get("tags", {}).items()]
        for start in range(0, max(len(metrics), bool(params or tags)), BATCH_SIZE):
            self._client.log_batch(run, metrics=metrics[start : start + BATCH_SIZE], params=params, tags=tags)
            params, tags = [], []
        if inputs := event.get("inputs"):
            self._client.log_inputs(run, datasets=[_dataset(*one) for one in inputs])
        refused = self._upload(run, [of for of in event.get("files", ()) if of[0] not in without])
        if event.get("status") == "RUNNING":
            self._client.update_run(run, status="RUNNING")
        elif "status" in event:
            self._client.set_terminated(run, event["status"], end_time=at)
        return refused

    def _upload(self, run: str, files: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Log these files of `out`, each with its artifact folder. Returns the refused ones and why.

        A log may come from elsewhere, with links beside it: no file from outside `out` is sent.
        """
        refused = {}
        for file, folder in files:
            try:
                path = self._file(file)
                if path.exists():
                    with _refusing():
                        check_written(self._uri, self._places[run])
                    self._client.log_artifact(run, str(path), folder or None)
            except Exception as error:  # backends of artifacts raise their own types
                if not is_final(error):
                    raise UploadFailed(file, reason(error)) from None
                refused[file] = reason(error)
        return refused

    def _file(self, name: str) -> Path:
        """A file of `out`. Raises `Refused` for a path that leads out of it, or is no file."""
        with _refusing():
            path = inside(self._workspace.out, name)
        if not path.exists() and path.is_relative_to(self._workspace.out / "trials"):
            self._workspace.fetched(path.parent)  # another node wrote it
        if path.exists() and not path.is_file():
            raise Refused(f"{name!r} is no regular file")
        return path

    def _create_run(self, name: str, at: int, begin: event_log.Begin) -> str:
        tags = {**begin["tags"], "harness.log": self.log, "harness.event": name}
        if begin["parent"]:
            tags["mlflow.parentRunId"] = self.runs[begin["parent"]]
        info = self._client.create_run(self.experiment, start_time=at, run_name=begin["title"], tags=tags).info
        self._places[info.run_id] = info.artifact_uri
        return info.run_id


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Within, what a check finds wrong is `Refused`: no repetition would help."""
    try:
        yield
    except UserError as error:
        raise Refused(str(error)) from None


def _dataset(name: str, digest: str, context: str) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": name})
    return DatasetInput(Dataset(name, digest, source_type="local", source=source), [InputTag(CONTEXT, context)])
