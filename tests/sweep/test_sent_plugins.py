"""Plug-ins of a command that runs on a cluster elsewhere: what is sent, and that it is found there."""

import json
import subprocess
import sys

import plugin_files
import pytest
from sweeps import ROOT

from harness import plugins, tune
from harness.sweep import sent_plugins
from harness.sweep.plan import plan

THERE = """
import json, sys
from harness import tune
from harness.sweep.plan import plan
planned = plan(tune.request(tune.arguments(sys.argv[1:])))
print(json.dumps([planned.sweep, {study: cell.trial.key for study, cell in planned.studies.items()}]))
"""


@pytest.mark.parametrize("joined", [False, True])
def test_what_is_sent_needs_no_file_there(tmp_path, monkeypatch, joined):
    plugin_files.write(tmp_path / "ideas")
    monkeypatch.chdir(tmp_path)
    options = {"--space": "ideas/study.py", "--data": "ideas/things.py:squares", "--set": "model=ideas/things.py:thin"}
    words = [f"{k}={v}" for k, v in options.items()] if joined else [word for pair in options.items() for word in pair]
    words += ["--set", "epochs=1", "--trials", "1"]
    args = tune.arguments(words)
    planned = plan(tune.request(args))
    sent, sources = sent_plugins.sent(words, args, planned.plugins)
    assert len(sources) == 3 and len(sent) == len(words)
    assert sent[-4:] == words[-4:] and not any("ideas" in word for word in sent)
    (tmp_path / "there").mkdir()
    env = {"PYTHONPATH": str(ROOT), plugins.COPIES: sent_plugins.unpacked(sources)}
    words = [sys.executable, "-c", THERE, *sent]
    done = subprocess.run(words, cwd=tmp_path / "there", env=env, capture_output=True, text=True)
    assert not done.stderr
    keys = {study: cell.trial.key for study, cell in planned.studies.items()}
    assert json.loads(done.stdout) == [planned.sweep, keys]
