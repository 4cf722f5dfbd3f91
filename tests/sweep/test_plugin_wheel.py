"""A wheel from outside the tree adds a method, a net, a data set, a map, a metric and a study, with no edit of ours."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sweeps import ROOT, finished, report
from test_cluster import environment, two_nodes

BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
ROWS = {"pgd", "alp", "alp, thin net", "sat, image times gradient"}
SWEEP = [sys.executable, "-m", "harness.tune", "--space", "alp_weight", "--trials", "1", "--seeds", "1"]
SWEEP += ["--set", "epochs=1", "--set", "data.limit=80", "--quiet"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with `examples/plugin` as pip installs its wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "examples" / "plugin", folder / "source")
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=folder / "source", capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    words = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def path(*folders):
    return {"PYTHONPATH": os.pathsep.join(map(str, folders))}


def assert_all_rows_and_the_metric(out):
    with open(report(out, "csv", "alp_weight-saliency_alp.data.bars"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["cell"] for row in rows} == ROWS and all(row["n"] != "0" for row in rows if "n" in row)
    page = report(out, "md", "alp_weight-saliency_alp.data.bars").read_text()
    assert "| Confidence" in page and "Confidence [number]" not in page
    records = [json.loads(file.read_text()) for file in out.glob("trials/*/result.json")]
    assert len(records) == 2 * len(ROWS)
    for record in records:
        assert any(score["name"].endswith("/confidence") for score in record["scores"])
        (digest,) = set(re.findall(r"saliency_alp[\w.]*:\w+@([0-9a-f]{12})", json.dumps(record["trial"])))
        assert (out / "plugins" / digest / "saliency_alp" / "method.py").is_file()


@pytest.mark.slow
def test_what_it_offers_is_listed_and_its_study_runs(installed, tmp_path):
    env = {**os.environ, **path(installed, ROOT)}
    done = finished([sys.executable, "-m", "harness.tune", "--list"], cwd=tmp_path, env=env)
    offered = {line.split()[0] for line in done.stdout.partition("of installed packages:")[2].splitlines() if line}
    assert offered == {"alp", "thin", "input_x_gradient", "confidence", "bars", "alp_weight"}, done.stderr
    assert "cannot be used" not in done.stdout and "Does pairing the logits help" in done.stdout
    done = finished([*SWEEP, "--out", str(tmp_path / "runs")], cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_all_rows_and_the_metric(tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.cluster
def test_nodes_that_do_not_have_it_take_the_copy(installed, tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    try:
        with two_nodes(folder, environment(**path(ROOT)), "--include-dashboard", "false") as (_, _, address):
            words = [*SWEEP, "--out", str(tmp_path / "runs"), "--address", address]
            done = finished(words, cwd=tmp_path, env=environment(**path(installed, ROOT)))
        assert done.returncode == 0, done.stdout + done.stderr
        assert_all_rows_and_the_metric(tmp_path / "runs")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
