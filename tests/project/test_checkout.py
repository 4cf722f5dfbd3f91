"""The checkout holds sources alone: what commands and tests write is in nobody's way and in no commit."""

import contextlib
import gzip
import pickle
import re
import sqlite3
import subprocess
import sys
import tomllib

import numpy as np
import optuna
import pytest
import torch
from sweeps import ROOT, checkout, stored_runs

WRITTEN = (  # by commands, and never by hand
    ".ckpt",
    ".db",
    ".db-journal",
    ".db-shm",
    ".db-wal",
    ".err",
    ".gz",
    ".h5",
    ".journal",
    ".log",
    ".npy",
    ".npz",
    ".out",
    ".parquet",
    ".pickle",
    ".pkl",
    ".pt",
    ".pth",
    ".pyc",
    ".safetensors",
    ".sqlite",
    ".sqlite3",
    ".tar",
    ".tgz",
    ".whl",
    ".zip",
)
LARGEST = 500_000  # bytes that a source has


@pytest.fixture
def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no checkout of git's")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_nothing_that_a_command_writes_is_tracked(tracked):
    assert len(tracked) > 100
    assert not [file for file in tracked if file.name.lower().endswith(WRITTEN)]
    assert not [file for file in tracked if {"runs", "mlruns", "mlartifacts", "__pycache__"} & set(file.parts)]


def is_source(content):
    """Whether the bytes are text of no log, or a picture: databases, checkpoints and archives are neither."""
    if content.startswith(b"\x89PNG\r\n"):
        return True
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    return "\0" not in text and not re.match(r'\{"(op_code|event|time|log)"|(\[?\d{4}[-/]\d\d[-/]\d\d[ T,])', text)


def test_nothing_that_is_tracked_is_a_database_a_checkpoint_or_a_log(tracked):
    """Whatever their names."""
    assert not [file for file in tracked if file.is_file() and not is_source(file.read_bytes())]


def test_databases_checkpoints_and_logs_are_known_by_their_content(tmp_path):
    from optuna.storages.journal import JournalFileBackend

    with contextlib.closing(sqlite3.connect(tmp_path / "a")) as database:
        database.execute("create table a (b)")
        database.commit()
    torch.save({"w": torch.zeros(2)}, tmp_path / "b")
    (tmp_path / "c").write_bytes(pickle.dumps([1, "a"]))
    np.savez(tmp_path / "d.npz", a=np.zeros(2))
    (tmp_path / "e").write_bytes(gzip.compress(b"text"))
    optuna.create_study(storage=optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "f"))))
    (tmp_path / "g").write_text("2026-01-01 12:00:00,000 INFO started\n")
    assert not [file.name for file in tmp_path.iterdir() if file.suffix != ".lock" and is_source(file.read_bytes())]
    assert is_source(b"# text\n") and is_source((ROOT / "docs/example.png").read_bytes())


def test_the_build_is_pinned_with_the_rest():
    """pip asks no constraints when it builds, so the build's own requirements are exact, and those of the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = {line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")}
    assert project["build-system"]["requires"] and set(project["build-system"]["requires"]) <= pins
    assert len(pins) > 130 and all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    names = {re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower() for pin in pins}
    extras = project["project"]["optional-dependencies"].values()
    asked = [*project["project"]["dependencies"], *(need for extra in extras for need in extra)]
    asked = {re.match(r"[\w.-]+", need)[0].replace("_", "-").lower() for need in asked} - {"saliency-harness"}
    assert asked <= names


def test_what_is_tracked_is_small(tracked):
    assert not [(file, file.stat().st_size) for file in tracked if file.exists() and file.stat().st_size > LARGEST]


def test_what_tests_leave_in_a_checkout_is_seen(tmp_path):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *words], cwd=tmp_path, check=True)

    git("init", "--quiet")
    (tmp_path / ".gitignore").write_text("runs/\n__pycache__/\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "x")
    assert checkout(tmp_path) == set()
    for name in ("mlflow.db", "whole/mlflow.db", "runs/a", "harness/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text("runs/\n__pycache__/\n\n")
    seen = {" M .gitignore", "?? mlflow.db", "?? whole/mlflow.db", "!! runs/"}
    assert checkout(tmp_path) == seen


def test_looking_for_runs_makes_no_database(tmp_path, monkeypatch):
    """MLflow makes one wherever it is told to look, such as a folder named by a relative path."""
    monkeypatch.chdir(tmp_path)
    for out in (".", "whole"):
        with pytest.raises(AssertionError, match="MLflow would make an empty database"):
            stored_runs(out)
    assert not list(tmp_path.iterdir())


def test_a_bare_pytest_finds_the_packages_before_the_folders_of_their_tests():
    """`tests/methods` is no package, but would be one of the name `methods` to an interpreter that starts there."""
    code = "import sys, pytest; sys.path = [p for p in sys.path if p not in ('', %r)]; sys.exit(pytest.main(%r))"
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", "tests/methods/test_methods.py"]
    done = subprocess.run([sys.executable, "-c", code % (str(ROOT), words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
