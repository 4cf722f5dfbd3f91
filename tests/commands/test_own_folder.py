"""Commands started in a folder whose modules have names of ours."""

import os
import sys

import pytest
from other_user import STRANGER
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


UNREADABLE = """
import os, pathlib, sys
module, folder, stranger = sys.argv[1], sys.argv[2], int(sys.argv[3])
code = compile(open(module).read(), module, "exec")  # the stranger may not be allowed to read it
if os.geteuid() == 0:
    os.setresuid(stranger, stranger, stranger)
sys.argv[:], sys.path[:] = ["-m"], [folder, *sys.path]
exec(code, {"__name__": "harness", "__file__": module})
print(sys.path[0])
"""


def test_a_folder_of_the_path_may_be_closed_to_the_user(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    words = [sys.executable, "-c", UNREADABLE, str(ROOT / "harness" / "__init__.py"), str(closed), str(STRANGER)]
    done = finished(words)
    assert (done.returncode, done.stdout) == (0, f"{closed}\n"), done.stderr


@pytest.mark.slow
def test_a_sweep_takes_our_methods_in_its_workers_and_writes_our_report(own):
    done = command(own, "harness.tune", "--trials", "1", "--seeds", "1", "--set", "epochs=1")
    assert done.returncode == 0, done.stderr
    assert f"report: {report(own / 'runs', 'html')}\n" in done.stdout
