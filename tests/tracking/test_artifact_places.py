"""A store that is read names no place that gets credentials, or is a private file, or never ends."""

import contextlib
import io
import os
import shutil
import socket
import sqlite3
import threading

import numpy as np
import pandas as pd
import pytest
from logged_sweep import EPOCHS
from rows import PGD
from small_mlflow import ARTIFACTS, small_mlflow

from harness.config.trial import build
from harness.errors import UserError, exit_status
from harness.evaluation.scores import Score
from harness.storage import npz
from harness.sweep.job_types import Job, Outcome
from harness.tracking import delivery
from harness.tracking.artifact_places import ArtifactPlaces, NoSuchArtifact, local_path, served
from harness.tracking.tracker import Tracker
from harness.trials.result import Result
from reports import __main__ as reports
from reports.read import artifacts, record

TOKEN = "t0psecret"
SERVER = "http://me:pw@tracking.example:5000/prefix"
PROXY = "/api/2.0/mlflow-artifacts/artifacts"
PLACE = f"http://tracking.example:5000/prefix{PROXY}"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("mlflow-artifacts:/1/ab/artifacts", "mlflow-artifacts:/1/ab/artifacts"),
        ("mlflow-artifacts://tracking.example:5000/1/ab", "mlflow-artifacts:/1/ab"),
        ("mlflow-artifacts:/a b/%20/é", "mlflow-artifacts:/a b/%20/é"),
        (f"{PLACE}/1/ab/artifacts", "mlflow-artifacts:/1/ab/artifacts"),
        *(
            (place, None)
            for place in (
                "mlflow-artifacts://stranger.example/1/ab",
                "mlflow-artifacts://tracking.example/1/ab",  # another port
                "mlflow-artifacts://tracking.example:5000@stranger.example/1/ab",
                "mlflow-artifacts:/../../private",
                "mlflow-artifacts:/%2e%2e/private",
                "mlflow-artifacts:/a\\b",
                "mlflow-artifacts:/a?b",
                "mlflow-artifacts:/a#b",
                "mlflow-artifacts:",
                f"https://tracking.example:5000/prefix{PROXY}/1",
                f"http://tracking.example:5000{PROXY}/1",
                f"http://stranger.example:5000/prefix{PROXY}/1",
                f"http://tracking.example:5000@stranger.example/prefix{PROXY}/1",
                f"http://stranger.example\\@tracking.example:5000/prefix{PROXY}/1",
                f"{PLACE}/../../private",
                PLACE,
                *("ftp://h/x", "s3://bucket/x", "runs:/ab/x", "models:/m/1", "file:///etc", "/etc", "", "file://h/etc"),
            )
        ),
    ],
)
def test_only_what_the_server_itself_serves_is_asked_of_it(place, expected):
    assert served(SERVER, place) == expected
    assert served("sqlite:////x/mlflow.db", place) is None


def test_places_on_this_machine():
    for place, path in {"/a b": "/a b", "file:///a%20b": "/a b", "/a%20b": "/a b"}.items():
        assert str(local_path(place)) == path
    for place in ("", "a/b", "file:a", "file://host/a", "runs:/a", "ftp://h/a", "/a\0b"):
        assert local_path(place) is None


@pytest.fixture
def places(tmp_path):
    """The places of a SQLite store, and the folder of a run's artifacts there."""
    folder = tmp_path / "store" / "artifacts" / "run" / "artifacts"
    folder.mkdir(parents=True)
    return ArtifactPlaces(f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"), folder


def test_files_of_the_stores_own_folder_are_read(places, tmp_path):
    own, folder = places
    (folder / "test.npz").write_bytes(b"x")
    (folder / "linked.npz").symlink_to("test.npz")
    for place in (str(folder), folder.as_uri(), "/moved/from/elsewhere", ""):
        assert own.names("run", place) == {"test.npz", "linked.npz"}
        assert own.file("run", place, "test.npz", tmp_path) == folder / "test.npz"
        with pytest.raises(NoSuchArtifact):
            own.file("run", place, "gallery.npz", tmp_path)
    assert own.file("run", str(folder), "linked.npz", tmp_path).read_bytes() == b"x"
    own.copy("run", str(folder), "test.npz", tmp_path)
    assert (tmp_path / "test.npz").read_bytes() == b"x"


def test_what_is_elsewhere_or_no_regular_file_is_refused(places, tmp_path):
    own, folder = places
    (tmp_path / "private.npz").write_bytes(b"x")
    os.mkfifo(folder / "fifo.npz")
    (folder / "out.npz").symlink_to(tmp_path / "private.npz")
    (folder / "zero.npz").symlink_to("/dev/zero")
    (folder.parent.parent / "linked").symlink_to(tmp_path)
    for name in ("fifo.npz", "out.npz", "zero.npz", "../artifacts/out.npz"):
        with pytest.raises(UserError):
            own.file("run", str(folder), name, tmp_path)
    elsewhere = [str(tmp_path), f"{folder}/../../../..", str(folder.parent.parent / "linked"), "/dev", "file:///etc"]
    elsewhere += [
        "ftp://127.0.0.1/x",
        "runs:/ab/x",
        "models:/m/1",
        "s3://b/x",
        "http://127.0.0.1:9/x",
        "mlflow-artifacts:/1",
    ]
    for place in elsewhere:
        with pytest.raises(
            UserError, match=r"^artifacts at '.*' are not read: they lie neither in a folder .*--artifacts$"
        ):
            own.file("other", place, "private.npz", tmp_path)
    trusting = ArtifactPlaces(f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}", [tmp_path])
    assert trusting.file("other", str(tmp_path), "private.npz", tmp_path) == tmp_path / "private.npz"


@contextlib.contextmanager
def stranger():
    """A port of nobody's that was to get nothing; yields its number and what it got."""
    got = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        got.append(connection.recv(4096))

        threading.Thread(target=take, daemon=True).start()
        yield listening.getsockname()[1], got
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def tested(workspace, empty_store):
    """The URI and the run of a store with a seed run that was tested, as a sweep leaves it."""
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed", "harness.data": "digits"})
    tracker.start_sweep("title", "about")
    tracker.start_study("study", "cell", {"harness.order": "0", "harness.goal": "val/robust"}, {})
    job = Job("study", "seed", 1, build({"seed": 1, "epochs": EPOCHS}))
    folder = workspace.trial(job.trial.key)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    npz.write(folder / "test.npz", {"test/robust": np.array([True, False])})
    scores = [Score(f"{split}/robust", 0.5, 0.02, 2) for split in ("val", "test")]
    tracker.on_start(job)
    tracker.on_end(job, Outcome("complete", EPOCHS, Result(job.trial, scores, [], {"train": 2.0}, {}, {}, 0)))
    tracker.close()
    uri = f"sqlite:///{workspace.out / 'mlflow.db'}"
    return uri, delivery.deliver_all(uri, tracker.log, workspace).writer.runs[job.id]


def move(uri, run, place):
    """Let the store name that place for a run, whose own folder is gone."""
    database = uri.removeprefix("sqlite:///")
    shutil.rmtree(os.path.join(os.path.dirname(database), "artifacts"), ignore_errors=True)
    with contextlib.closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("update runs set artifact_uri = ? where run_uuid = ?", (place, run))


def test_a_report_on_anybodys_store_sends_no_token_to_strangers(tested, tmp_path, monkeypatch, capsys):
    uri, run = tested
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", TOKEN)
    words = ["--tracking-uri", uri, "--experiment", "experiment", "--out", str(tmp_path / "reports")]
    assert exit_status(lambda: reports.main(words)) == 0
    assert capsys.readouterr().err == ""
    os.mkfifo(tmp_path / "fifo")
    with stranger() as (port, got):
        hosts = [f"127.0.0.1:{port}", f"x@127.0.0.1:{port}"]
        places = [f"{scheme}://{host}/1/{run}" for scheme in ("http", "ftp", "mlflow-artifacts") for host in hosts]
        for at, place in enumerate((*places, "runs:/x", str(tmp_path), str(tmp_path / "fifo"), "/dev", "file:///dev")):
            move(uri, run, place)
            if at % 2 == 0:
                assert exit_status(lambda: reports.main(words)) == 0
                error = capsys.readouterr().err
                assert error.startswith("note: artifacts at ") and error.count("\n") == 1 and "--artifacts" in error
            with pytest.raises(UserError, match=r"^artifacts at '.*' are not read: "):
                record.read(uri, run, tmp_path)
        assert got == []


def test_artifacts_come_from_the_server_that_is_asked_and_it_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    arrays = io.BytesIO()
    np.savez(arrays, **{"test/robust": np.array([True, False])})
    with small_mlflow() as server, stranger() as (port, got):
        server.artifacts["/1/own/artifacts/test.npz"] = arrays.getvalue()
        own = ["mlflow-artifacts:/1/own/artifacts", f"{server.uri}{ARTIFACTS}/1/own/artifacts"]
        strange = [f"http://127.0.0.1:{port}{ARTIFACTS}/1/own/artifacts", f"mlflow-artifacts://127.0.0.1:{port}/1"]
        for place in own:
            places = ArtifactPlaces(server.uri)
            assert places.names("own", place) == {"test.npz"}
            places.copy("own", place, "test.npz", tmp_path)
            assert (tmp_path / "test.npz").read_bytes() == arrays.getvalue()
        table = pd.DataFrame(
            [row | {"artifacts": place, "row": "pgd"} for row in PGD[:1] for place in (*own, *strange)]
        )
        table["run_id"] = list("abcd")
        files = artifacts.read(server.uri, table, "test/robust")
        assert sorted(files.images) == ["a", "b"] and len(files.problems) == 1
        assert files.problems[0].endswith("(and those of 1 more runs)") and files.pictures == {}
        assert got == []
        assert {headers.get("Authorization") for _, path, headers in server.asked if path.startswith(ARTIFACTS)} == {
            f"Bearer {TOKEN}"
        }


def test_a_server_that_stops_to_answer_is_asked_once(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with small_mlflow() as server:
        server.refuses = lambda method, path: 502 if path.startswith(ARTIFACTS) else 0
        rows = [row | {"artifacts": "mlflow-artifacts:/1/own/artifacts", "row": "pgd"} for row in PGD]
        files = artifacts.read(server.uri, pd.DataFrame(rows), "test/robust")
        (problem,) = files.problems
        assert problem.startswith("the artifacts cannot be read: ") and files.images == {}
        assert len([path for _, path, _ in server.asked if path.startswith(ARTIFACTS)]) == 1
