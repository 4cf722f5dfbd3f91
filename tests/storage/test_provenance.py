"""Which code made a result: the digest of what trials run, and the commit, also where there is no repository."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.storage import provenance
from harness.tracking.run_content import environment_tags

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path):
    for package in ("harness", "methods", "reports"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def digest(root):
    provenance.digest.cache_clear()
    return provenance.digest(root)


def test_a_copy_has_the_same_digest_and_whatever_a_trial_runs_changes_it(copy):
    same = digest(ROOT)
    assert digest(copy) == same and len(same) == 12
    (copy / "harness" / "__pycache__").mkdir()
    (copy / "harness" / "__pycache__" / "cli.cpython-312.pyc").write_bytes(b"compiled")
    (copy / "reports" / "export.py").write_text("changes no trial")
    assert digest(copy) == same
    seen = {same}
    module = copy / "harness" / "attacks" / "pgd.py"
    module.write_text(module.read_text() + "\n")
    seen.add(digest(copy))
    module.rename(module.with_name("pgd2.py"))
    seen.add(digest(copy))
    (copy / "methods" / "mine.py").write_text("")
    seen.add(digest(copy))
    assert len(seen) == 4


def test_the_digest_is_that_of_paths_and_bytes(tmp_path):
    for name, text in (("methods/b.py", "B"), ("harness/a/c.py", "C"), ("harness/a.py", "A")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    lines = [
        f"{name} {hashlib.sha256(text.encode()).hexdigest()}\n"
        for name, text in (("harness/a.py", "A"), ("harness/a/c.py", "C"), ("methods/b.py", "B"))
    ]
    assert digest(tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()[:12]


@pytest.fixture
def no_checkout(monkeypatch):
    monkeypatch.delenv(provenance.COMMIT, raising=False)
    monkeypatch.setattr(provenance, "_git", lambda *words: "")
    provenance._commit_of_checkout.cache_clear()
    yield
    provenance._commit_of_checkout.cache_clear()


def test_without_a_repository_the_commit_is_the_one_that_was_told(no_checkout, monkeypatch):
    assert provenance.commit() == "" and provenance.code()["git"] == "not a git checkout"
    assert "mlflow.source.git.commit" not in environment_tags()
    monkeypatch.setenv(provenance.COMMIT, "a1b2c3d4e5f6 with uncommitted changes")
    assert provenance.code()["git"] == "a1b2c3d4e5f6 with uncommitted changes"
    tags = environment_tags()
    assert tags["mlflow.source.git.commit"] == "a1b2c3d4e5f6"
    assert tags["harness.sources"] == provenance.code()["sources"] == digest(ROOT)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no repository here")
def test_in_a_repository_it_is_its_own(monkeypatch):
    monkeypatch.delenv(provenance.COMMIT, raising=False)
    provenance._commit_of_checkout.cache_clear()
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.startswith(provenance.commit().split()[0])
