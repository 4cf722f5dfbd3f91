"""The only way to MLflow: every page is read, writers and readers differ where they should, missing stores are told."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from mlflow.store.entities import PagedList
from other_user import NAMELESS, as_nameless, can_be_nameless
from sweeps import ROOT, finished, free_port

from harness.errors import UserError
from harness.tracking import mlflow_client


class Paged:
    """A client that holds so many experiments and runs, and gives away as many of them at a time as it is asked for."""

    def __init__(self, held):
        self.held, self.asked = list(range(held)), []

    def _page(self, size, token):
        self.asked.append(size)
        start = int(token or 0)
        end = start + size
        return PagedList(self.held[start:end], str(end) if end < len(self.held) else None)

    def search_runs(self, experiments, where, max_results, page_token):
        assert (experiments, where) == (["1", "2"], "tags.a = 'b'")
        return self._page(max_results, page_token)

    def search_experiments(self, max_results, page_token):
        return self._page(max_results, page_token)


@pytest.mark.parametrize("held, page, requests", [(0, 5, 1), (4, 5, 1), (5, 5, 1), (6, 5, 2), (23, 5, 5), (23, 100, 1)])
def test_all_pages_are_read_and_none_twice(monkeypatch, held, page, requests):
    client = Paged(held)
    assert mlflow_client.search_runs(client, ["1", "2"], "tags.a = 'b'", page) == list(range(held))
    assert client.asked == [page] * requests
    monkeypatch.setattr(mlflow_client, "PAGE", page)
    assert mlflow_client.search_experiments(client) == list(range(held))


def test_pages_clients_and_probes_are_in_one_module():
    own = re.compile(r"page_token|MlflowClient\(|/health|sqlite_master")
    files = [file for room in ("harness", "reports", "methods") for file in (ROOT / room).rglob("*.py")]
    assert [file.name for file in files if own.search(file.read_text())] == ["mlflow_client.py"]


ENVIRONMENT = """
import json, os, sys
from harness.tracking import mlflow_client
assert not [name for name in os.environ if name.startswith("MLFLOW_")]
if sys.argv[1] == "write":
    mlflow_client.open_writer(sys.argv[2])
else:
    with mlflow_client.opened_reader(sys.argv[2]):
        pass
print(json.dumps(sorted(name for name in os.environ if name.startswith("MLFLOW_"))))
"""


def test_a_reader_retries_for_some_seconds_and_a_writer_does_not(empty_store):
    """Who reads has nobody who tries again; who writes has the delivery."""
    writer, reader = (
        int(environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
        for environment in (mlflow_client.WRITER_ENVIRONMENT, mlflow_client.READER_ENVIRONMENT)
    )
    assert writer == 1 < reader < 5 and mlflow_client.READER_ENVIRONMENT["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    for way, expected in (
        ("read", {**mlflow_client.ENVIRONMENT, **mlflow_client.READER_ENVIRONMENT}),
        ("write", {**mlflow_client.ENVIRONMENT, **mlflow_client.WRITER_ENVIRONMENT}),
    ):
        words = [sys.executable, "-c", ENVIRONMENT, way, f"sqlite:///{empty_store}"]
        done = subprocess.run(words, cwd=ROOT, env=clean, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert sorted(expected) == sorted(re.findall(r"MLFLOW_\w+", done.stdout))


def test_a_variable_that_the_user_sets_stays(monkeypatch, empty_store):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    mlflow_client.open_writer(f"sqlite:///{empty_store}")
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"


def read_only(uri):
    with mlflow_client.opened_reader(uri):
        pass


@pytest.mark.parametrize(
    "uri, file",
    [
        ("sqlite:///runs/a.db", "runs/a.db"),
        ("sqlite:////srv/a.db", "/srv/a.db"),
        ("sqlite:////srv/a.db?timeout=3", "/srv/a.db"),
        ("sqlite:////srv/a%3Fb%20c.db", "/srv/a?b c.db"),
        ("sqlite:////srv/a#b é.db", "/srv/a#b é.db"),
    ],
)
def test_a_database_is_the_file_that_its_uri_names(uri, file):
    assert mlflow_client.sqlite_file(uri) == Path(file)


def test_a_writer_makes_a_missing_database_and_a_reader_does_not(tmp_path):
    uri = f"sqlite:///{tmp_path / 'new' / 'a.db'}?timeout=3"
    with pytest.raises(UserError, match=r"there is no MLflow database at '.*a\.db'; name another by --tracking-uri"):
        read_only(uri)
    assert not (tmp_path / "new").exists()
    os.mkfifo(tmp_path / "fifo")
    for file in ("/dev/zero", tmp_path / "fifo"):
        with pytest.raises(UserError, match="it is no regular file"):
            mlflow_client.check_writable(f"sqlite:///{file}")
        with pytest.raises(UserError, match="there is no MLflow database at"):
            read_only(f"sqlite:///{file}")
    mlflow_client.check_writable(uri)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.db"]
    with pytest.raises(UserError, match=r"a\.db' is not an MLflow database: it has no experiments"):
        read_only(uri)


@pytest.mark.parametrize(
    "scheme", ["postgresql", "postgresql+psycopg2", "mysql+pymysql", "mssql+pyodbc", "postgresq+x"]
)
def test_a_database_may_name_its_driver(scheme):
    uri = f"{scheme}://me:secret@db/mlflow"
    if scheme != "postgresq+x":
        mlflow_client.check_writable(uri)
        return
    with pytest.raises(UserError, match=r"a database, not 'postgresq\+x://me:\*\*\*@db/mlflow'"):
        mlflow_client.check_writable(uri)


def test_a_plug_in_of_mlflow_is_left_to_its_own_store(tmp_path, monkeypatch):
    (tmp_path / "theirs-1.0.dist-info").mkdir()
    (tmp_path / "theirs-1.0.dist-info" / "entry_points.txt").write_text("[mlflow.tracking_store]\ntheirs = m:Store\n")
    with pytest.raises(UserError, match=r"^--tracking-uri takes sqlite:///path, "):
        mlflow_client.check_writable("theirs://somewhere")
    monkeypatch.syspath_prepend(tmp_path)
    mlflow_client.check_writable("theirs://somewhere")
    with pytest.raises(UserError, match=r"^--tracking-uri takes sqlite:///path, "):
        mlflow_client.check_writable("theirz://somewhere")


@pytest.mark.parametrize("way", [mlflow_client.check_writable, read_only])
def test_a_server_that_does_not_answer_is_told_in_a_line(way):
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=r"^no MLflow server answers at 'http://me:\*\*\*@127.*refused"):
        way(uri)


@pytest.mark.parametrize("way", [mlflow_client.check_writable, read_only])
def test_a_server_that_refuses_is_there(way):
    """MLflow names missing access itself, on the first request."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        way(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_only_a_reader_leaves_a_certificate_to_mlflow(monkeypatch):
    def urlopen(address, timeout):
        raise urllib.error.URLError(ssl.SSLCertVerificationError("self-signed certificate"))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    read_only("https://127.0.0.1:1")
    with pytest.raises(UserError, match=r"no MLflow server answers at .*self-signed"):
        mlflow_client.check_writable("https://127.0.0.1:1")


@pytest.mark.skipif(not can_be_nameless(), reason="only root can act as a user without a name")
def test_a_user_without_a_name_and_a_home_opens_a_store(empty_store, tmp_path):
    code = f"from harness.tracking.mlflow_client import open_writer; open_writer('sqlite:///{tmp_path}/mlflow.db')"
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME")}
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    for path in (tmp_path, tmp_path / "mlflow.db"):
        os.chown(path, NAMELESS, NAMELESS)
    done = finished(as_nameless(sys.executable, "-c", code), env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://["])
def test_a_uri_that_names_no_file_is_refused_in_one_line(uri):
    with pytest.raises(UserError, match=r"names no file; a tracking database is sqlite:///FILE$"):
        mlflow_client.check_writable(uri)
