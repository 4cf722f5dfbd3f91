"""The checkout holds sources alone: what commands and tests write is in nobody's way and in no commit."""

import subprocess
import sys

import pytest
from sweeps import ROOT, checkout, stored_runs

WRITTEN = (  # by commands, and never by hand
    ".ckpt",
    ".db",
    ".db-journal",
    ".db-shm",
    ".db-wal",
    ".gz",
    ".journal",
    ".log",
    ".npy",
    ".npz",
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
