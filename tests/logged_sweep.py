"""A small sweep as an event log has it, and a store in memory that it is delivered to."""

import os
from types import SimpleNamespace

from mlflow.store.entities import PagedList

from harness.config.trial import build
from harness.evaluation.scores import Score
from harness.sweep.job_types import Job, Outcome
from harness.tracking import delivery as tracking_delivery
from harness.tracking import mlflow_writer
from harness.tracking.tracker import Tracker
from harness.trials.result import Result

EPOCHS = 4


class Memory:
    """A store that keeps what MLflow's keeps, as it keeps it; what `fails` says happens before or after each act."""

    def __init__(self, fails=lambda: ""):
        self.fails, self.runs, self.acts = fails, {}, []
        self.place = ""

    def _act(self, name, do):
        when = self.fails()
        if when == "before":
            raise ConnectionError("refused")
        done = do()
        self.acts.append(name)
        if when == "after":
            raise TimeoutError("no answer")
        return done

    def get_experiment_by_name(self, name):
        return SimpleNamespace(
            experiment_id="1", lifecycle_stage="active", tags={mlflow_writer.KIND: "as the user wants it"}
        )

    def search_runs(self, experiments, wanted, max_results, page_token):
        if self.fails() == "before":
            raise ConnectionError("refused")
        return PagedList([SimpleNamespace(info=r.info, data=r) for r in self.runs.values()], None)

    def create_run(self, experiment, start_time, run_name, tags):
        def do():
            run = f"{len(self.runs):x}"
            info = SimpleNamespace(run_id=run, start_time=start_time, artifact_uri=f"{self.place}/{run}/artifacts")
            self.runs[run] = SimpleNamespace(
                info=info,
                name=run_name,
                tags=dict(tags),
                params={},
                metrics={},
                files=set(),
                inputs=set(),
                status="RUNNING",
                end=None,
            )
            return self.runs[run]

        return self._act("create", do)

    def log_batch(self, run, metrics, params, tags):
        def do():
            for m in metrics:  # the same point twice is one point
                self.runs[run].metrics.setdefault(m.key, {})[m.timestamp, m.step, m.value] = None
            self.runs[run].params |= {p.key: p.value for p in params}
            self.runs[run].tags |= {t.key: t.value for t in tags}

        self._act("log", do)

    def log_artifact(self, run, file, folder):
        self._act("file", lambda: self.runs[run].files.add((os.path.basename(file), folder)))

    def log_inputs(self, run, datasets):
        found = {(d.dataset.name, d.dataset.digest, d.tags[0].value) for d in datasets}
        self._act("inputs", lambda: self.runs[run].inputs.update(found))  # the same input twice is one

    def update_run(self, run, status):
        self._act("open", lambda: setattr(self.runs[run], "status", status))

    def set_terminated(self, run, status, end_time):
        self._act("end", lambda: self.runs[run].__dict__.update(status=status, end=end_time))

    def held(self):
        """Everything, by the names of runs; parents by name too."""
        names = {run: r.tags["harness.event"] for run, r in self.runs.items()}
        assert len(set(names.values())) == len(names), "a run twice"
        found = {}
        for run, r in self.runs.items():
            tags = {k: names[v] if k == "mlflow.parentRunId" else v for k, v in r.tags.items()}
            metrics = {name: list(points) for name, points in r.metrics.items()}
            found[names[run]] = (r.name, r.info.start_time, tags, r.params, metrics, r.files, r.status, r.end)
        return found


def happen(tracker, workspace, jobs=3):
    """A small sweep, as a driver tells it."""
    tracker.start_sweep("title", "about")
    tracker.start_study("study", "cell", {"harness.order": "0"}, {"optim.lr": "0.01 to 0.1"})
    for number in range(jobs):
        job = Job("study", "search", number, build({"seed": number, "epochs": EPOCHS}))
        folder = workspace.trial(job.trial.key)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text("{}")
        tracker.on_start(job)
        for epoch in range(1, EPOCHS + 1):
            tracker.on_epoch(job, {"epoch": epoch, "train/ce": 1 / epoch, "curve/robust": 0.1 * epoch})
            if epoch % 2:
                tracker.flush()
        result = Result(job.trial, [Score("val/robust", 0.4, 0.02, 360)], [], {"train": 2.0}, {"val": "ab"}, {}, 0)
        tracker.on_end(job, Outcome("complete", EPOCHS, result))
    tracker.on_winners("study", ["key"], 0)
    tracker.log_winner("study", {"test/robust": 0.3})
    tracker.close()


def tell(workspace, jobs=3):
    """A log, written."""
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    happen(tracker, workspace, jobs)
    return tracker.log


def delivered(client, log, workspace, monkeypatch):
    monkeypatch.setattr(
        tracking_delivery,
        "_open_writer",
        lambda uri, log, workspace: mlflow_writer.MlflowWriter(client, uri, log, workspace),
    )
    client.place = str(workspace.out / "artifacts")
    monkeypatch.setattr(mlflow_writer, "put_right", lambda *of: None)  # there is no file
    return tracking_delivery.deliver_all("sqlite:///" + str(workspace.out / "none.db"), log, workspace)
