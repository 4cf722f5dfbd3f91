"""Commands started in a folder whose modules have names of ours."""

import os
import sys

import pytest
from sweeps import ROOT, finished, report


@pytest.fixture
def own(tmp_path):
    for name in ("methods.py", "search_spaces/__init__.py", "reports/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('the own one is taken')")
    (tmp_path / "nets.py").write_text("def small(classes): raise ZeroDivisionError('a net of this folder')")
    return tmp_path


def command(own, program, *words):
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    return finished([sys.executable, "-m", program, "--space", "smoke", "--quiet", *words], cwd=own, env=path)


def test_a_trial_takes_our_methods(own):
    done = command(own, "harness.trial", "--set", "epochs=1")
    assert done.returncode == 0, done.stderr
    assert "the own one" not in done.stdout + done.stderr


def test_a_net_of_the_folder_is_found(own):
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "harness.evaluate", "--model", "nets:small", "--data", "digits"]
    done = finished(words, cwd=own, env=path)
    assert "a net of this folder" in done.stderr


@pytest.mark.slow
def test_a_sweep_takes_our_methods_in_its_workers_and_writes_our_report(own):
    done = command(own, "harness.tune", "--trials", "1", "--seeds", "1", "--set", "epochs=1")
    assert done.returncode == 0, done.stderr
    assert f"report: {report(own / 'runs', 'html')}\n" in done.stdout
