"""Runs found in MLflow, read back, and trained and measured anew: what agrees, what does not, what is refused."""

import dataclasses
import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import plugin_files
import pytest
import torch
from mlflow import MlflowClient

from harness import plugins
from harness.config.trial import build
from harness.config.trial_key import TRAINING_VERSION
from harness.errors import UserError, exit_status
from harness.evaluation.scores import Score
from harness.storage.workspace import Workspace
from harness.sweep.job_types import Job, Outcome
from harness.tracking import delivery
from harness.tracking.run_content import environment_tags
from harness.tracking.tracker import Tracker
from harness.trials import run as trial_run
from reports import export, verify
from reports.read import record
from reports.record_comparison import NUMERIC, compare, exact, tolerance

SETTINGS = {"method": "sat", "maps.saliency": "gradient", "epochs": 3, "batch": 16, "data.limit": 300}
SETTINGS |= {"measure.eps": (16 / 255,), "measure.steps": 2, "measure.watch": 1, "seed": 1}
EVIL = "sat \x1b[31m<b>| `x`"


class Store:
    """A tracking store and one real trial, which may be written to it any number of times."""

    def __init__(self, out: Path, settings=()):
        self.workspace = Workspace(out, out / "data").writable()
        self.uri = f"sqlite:///{out / 'mlflow.db'}"
        self.trial = build({**SETTINGS, **dict(settings)})
        self.result = trial_run.run(self.trial, self.workspace, test=True)
        tags = {"harness.sweep": "5eed0001", "harness.space": "sat", **environment_tags()}
        self.tracker = Tracker(self.workspace, "sat-digits", tags)
        self.tracker.start_sweep("sat-digits", "about")
        self.tracker.start_study("study", EVIL, {}, {})
        self.client, self.number = MlflowClient(tracking_uri=self.uri), 0

    def write(self, role="seed", state="complete", reason="", winner=""):
        """The id of a new run of the trial, and the folder of its files."""
        self.number += 1
        job = Job("study", role, self.number, self.trial, winner=winner or f"winner{self.number}")
        self.tracker.on_start(job)
        if state != "running":
            result = self.result if state == "complete" else None
            self.tracker.on_end(job, Outcome(state, self.trial.epochs, result, reason))
        run = delivery.deliver_all(self.uri, self.tracker.log, self.workspace).writer.runs[job.id]
        return run, self.workspace.out / "artifacts" / run / "artifacts"


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store):
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store, out / "mlflow.db")
    return Store(out)


@pytest.fixture(scope="module")
def kept(store):
    """A run that nobody alters."""
    return store.write()[0]


@pytest.fixture(scope="module")
def spare_run(store):
    run, folder = store.write()
    return run, folder, {file: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def spare(spare_run):
    """A run whose files may be altered, and its folder; they are put back."""
    run, folder, files = spare_run
    yield run, folder
    for file, content in files.items():
        file.write_bytes(content)


def edit(folder, change, name="result.json"):
    file = folder / name
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def alter(folder, score, by):
    """Another mean of a score, in result.json alone."""

    def change(content):
        next(s for s in content["scores"] if s["name"] == score)["mean"] += by

    edit(folder, change)


def verified(store, run, *words):
    return exit_status(lambda: verify.main([run, "--tracking-uri", store.uri, *words]))


def refused(capsys, store, run, said, *words):
    assert verified(store, run, *words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    assert re.search(said, captured.err), captured.err
    assert "Trained" not in captured.out or "data" in captured.err  # refused before anything is trained


# ---- a run is found


def test_a_run_is_named_by_its_id_the_first_digits_of_it_or_its_key(store, kept, tmp_path):
    for i, name in enumerate((kept, kept[:12], kept[:20])):
        found = record.read(store.uri, name, _folder(tmp_path, i))
        assert found.run == kept and found.role == "seed" and found.experiment == "sat-digits" and found.cell == EVIL
        assert found.result.trial == store.trial and found.weights.exists()


def _folder(tmp_path, i):
    folder = tmp_path / str(i)
    folder.mkdir()
    return folder


def test_of_a_key_the_finished_repetition_is_taken_before_newer_runs(store, tmp_path):
    repeated, _ = store.write()
    for role, state in (("search", "complete"), ("seed", "failed"), ("seed", "running")):
        store.write(role, state)
    assert record.read(store.uri, store.trial.key, _folder(tmp_path, 0)).run == repeated
    newest, _ = store.write()
    assert record.read(store.uri, store.trial.key, _folder(tmp_path, 1)).run == newest


def test_what_is_read_back_is_what_was_measured(store, kept, tmp_path):
    found = record.read(store.uri, kept, _folder(tmp_path, 0)).result
    assert found == dataclasses.replace(store.result, scores=found.scores)
    assert [s.mean for s in found.scores] == [s.mean for s in store.result.scores]
    for score in found.scores:
        assert score.per_example.astype(float).mean() == pytest.approx(score.mean, abs=1e-3)


def test_what_is_no_finished_trial_is_refused_in_one_line(capsys, store, kept):
    parent = store.client.get_run(kept).data.tags["mlflow.parentRunId"]
    diverged = "Diverged: the loss became nan"
    refused(capsys, store, store.write(state="failed", reason=diverged)[0], f"is failed \\({diverged}\\); only a fin")
    refused(capsys, store, store.write(state="pruned")[0], "is pruned; only a finished trial")
    refused(capsys, store, store.write(state="running")[0], "is running; only a finished trial")
    refused(capsys, store, parent, "is the run of a study, not of a trial")
    refused(capsys, store, kept[:5], "at least 6 digits")
    refused(capsys, store, store.trial.key[:11] + "x", f"did you mean '{store.trial.key}'")
    refused(capsys, store, kept[:31] + "x", f"did you mean '{kept}'")
    refused(capsys, store, "' or 1=1 --", "is not known")
    assert exit_status(lambda: verify.main([kept, "--tracking-uri", "sqlite:////nowhere/x.db"])) == 2


def test_a_beginning_that_several_runs_share_is_refused(store):
    class Page(list):
        token = None

    class Client:
        def search_experiments(self, **_):
            return Page()

        def search_runs(self, experiments, where, **_):
            return Page(["one", "other"] if "LIKE 'abcdef%'" in where else [])

    with pytest.raises(UserError, match="'abcdef' begins the ids of 2 runs"):
        record._find_run(Client(), "abcdef")


def test_another_version_is_refused(capsys, store):
    run, folder = store.write()
    store.client.set_tag(run, "harness.protocol", str(TRAINING_VERSION - 1))
    refused(
        capsys,
        store,
        run,
        f"was trained by version {TRAINING_VERSION - 1}, this harness trains by {TRAINING_VERSION}",
    )
    run, folder = store.write()
    edit(folder, lambda r: r["trial"].update({"optim.lr": 0.123}))
    refused(capsys, store, run, f"make trial [0-9a-f]{{12}}, not {store.trial.key}")
    edit(folder, lambda r: r["trial"].update({"optim.rate": 0.123}))
    refused(capsys, store, run, "another version of this harness: Optim has no 'rate'")


@pytest.mark.parametrize("path", ["model", "method", "data", "measure.suites", "optim.schedule"])
@pytest.mark.parametrize("name", ["stranger:net", "stranger.py:net"])
def test_a_record_names_nothing_that_is_imported(capsys, store, monkeypatch, tmp_path, path, name):
    (tmp_path / "stranger.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pinned = plugins.pinned(name)
    copy = tmp_path / "copies" / plugins.source(pinned).digest
    copy.mkdir(parents=True)
    shutil.copy("stranger.py", copy)
    plugins.search("another folder", (tmp_path / "copies").joinpath)  # of a sweep that this process ran
    for named in {name, pinned}:
        run, folder = store.write()
        edit(folder, lambda r, named=named: r["trial"].update({path: [named] if path == "measure.suites" else named}))
        refused(capsys, store, run, f"plug-in '{named}', of which no copy is trusted")
    assert "stranger" not in sys.modules and not any("stranger" in module for module in sys.modules)


@pytest.mark.slow
def test_a_record_of_a_plug_in_is_verified_with_its_kept_copy(capsys, tmp_path, empty_store, monkeypatch):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(plugin_files.write(tmp_path / "ideas"))
    own = Store(tmp_path, {"method": "alp.py:ALP"}.items())
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "ideas")
    run, _ = own.write()
    refused(capsys, own, run, "no copy is trusted")
    refused(capsys, own, run, "OUT/plugins; 'nowhere' is none", "--plugins", "nowhere")
    assert verified(own, run, "--plugins", str(tmp_path / "plugins")) == 0
    words = [run, "--tracking-uri", own.uri, "--plugins", "plugins", "--out", "out"]
    assert exit_status(lambda: export.main(words)) == 0
    (card,) = (tmp_path / "out").glob("*/README.md")
    text = card.read_text()
    assert "is a plug-in, named with the digest" in text and "Adversarial logit pairing" in text


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"trial": [1], "scores": [], "checks": []}',
        '{"trial": {"method": "sat"}, "scores": 3, "checks": []}',
        b"\xff\xfe\x00",
        "[" * 100_000,
    ],
)
def test_a_garbled_result_is_one_line(capsys, store, garbage, spare):
    run, folder = spare
    (folder / "result.json").write_bytes(garbage if isinstance(garbage, bytes) else garbage.encode())
    refused(capsys, store, run, f"the result.json of run {run} is damaged")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["scores"][0].update(mean="high"),
        lambda r: r["scores"][0].update(surplus=1),
        lambda r: r["scores"][0].update(name="elsewhere/clean"),
        lambda r: r["scores"][0].update(protocol=[]),
        lambda r: r.update(machine="cpu"),
        lambda r: r.update(checks=[{"name": "reach"}]),
        lambda r: r.update(surplus=1),
        lambda r: r.pop("rows"),
        lambda r: r.update(scores=[]),
    ],
)
def test_a_result_of_other_parts_is_one_line(capsys, store, change, spare):
    run, folder = spare
    edit(folder, change)
    refused(capsys, store, run, f"the result.json of run {run} is damaged")


@pytest.mark.parametrize("kind", ["garbled", "pickled", "square", "cut"])
def test_garbled_numbers_per_image_are_one_line(capsys, store, kind, spare):
    run, folder = spare
    whole, memory = (folder / "test.npz").read_bytes(), io.BytesIO()
    if kind == "pickled":
        np.savez(memory, **{"test/clean": np.array([{"a": 1}], dtype=object)})
    elif kind == "square":
        np.savez(memory, **{"test/clean": np.zeros((3, 3))})
    content = {"garbled": b"no file", "cut": whole[: len(whole) // 2]}.get(kind, memory.getvalue())
    (folder / "test.npz").write_bytes(content)
    refused(capsys, store, run, f"the test.npz of run {run} is damaged")


def test_a_run_without_its_result_is_one_line(capsys, store, spare):
    run, folder = spare
    (folder / "result.json").unlink()
    refused(capsys, store, run, "has no result.json")


# ---- and verified


def test_a_real_run_agrees_bit_for_bit_and_no_record_changes(capsys, store, kept, tmp_path):
    before = store.client.get_run(kept).to_dictionary()
    files = {p: p.read_bytes() for p in (store.workspace.out / "artifacts" / kept).rglob("*") if p.is_file()}
    assert verified(store, kept, "--keep", str(tmp_path / "anew")) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    n = len(store.result.scores)
    assert lines[-1] == f"{n} of {n} scores agree bit for bit."
    assert all(text in said.out.replace("\n", " ") for text in ("one more test evaluation", "no record changes"))
    assert max(map(len, lines)) <= verify.WIDTH and "\x1b" not in said.out and said.err == ""
    assert re.search(r"^test/clean +0\.\d{6} +0\.\d{6} +0 +0 +0 of 300 +yes$", said.out, re.M)
    assert re.search(r"^(\d+) of \1 tensors of the weights agree bit for bit\.$", said.out, re.M)
    assert store.client.get_run(kept).to_dictionary() == before
    assert {p: p.read_bytes() for p in files} == files
    anew = Workspace(tmp_path / "anew")  # teacher, maps and net, all made there
    assert len(list(anew.out.glob("trials/*/weights.pt"))) == len(list(anew.out.glob("teachers/*/weights.pt"))) == 1
    refused(capsys, store, kept, "is not empty", "--keep", str(tmp_path / "anew"))


def test_a_proposal_is_verified_on_validation_alone(capsys, store, monkeypatch):
    run, _ = store.write("search")  # its folder holds test scores, as a trial's does that has won
    asked = []
    monkeypatch.setattr(verify.run, "run", _reused(store, asked))
    assert verified(store, run) == 0
    said = capsys.readouterr().out
    assert asked == [False] and "test/" not in said and "val/clean" in said and "validation images only" in said
    n = sum(s.name.startswith("val/") for s in store.result.scores)
    assert said.endswith(f"{n} of {n} scores agree bit for bit.\n")


def _reused(store, asked=None):
    """In place of `harness.trial.run`: the files that the same trial left, which a run anew gives bit for bit."""

    def run(trial, workspace, *, report, test):
        (asked if asked is not None else []).append(test)
        folder = workspace.trial(trial.key)
        folder.mkdir(parents=True)
        for name in ("result.json", "val.npz", "test.npz", "weights.pt"):
            (folder / name).write_bytes((store.workspace.trial(trial.key) / name).read_bytes())

    return run


@pytest.fixture
def reused(store, monkeypatch):
    monkeypatch.setattr(verify.run, "run", _reused(store))


def test_one_altered_score_does_not_agree(capsys, store, spare):
    """Trained in earnest: the smallest step that a float can take is seen."""
    run, folder = spare
    mean = store.result.score("test/clean").mean
    alter(folder, "test/clean", np.nextafter(mean, 2) - mean)
    assert verified(store, run) == 1
    said, n = capsys.readouterr().out, len(store.result.scores)
    assert re.search(r"^test/clean .* NO$", said, re.M) and said.count(" NO\n") == 1
    assert said.endswith(f"{n - 1} of {n} scores agree bit for bit.\n")


@pytest.mark.parametrize("field", ["n", "stderr", "protocol", "counts"])
def test_what_else_a_score_says_has_to_agree_too(capsys, store, reused, field, spare):
    run, folder = spare
    other = {"n": 95, "stderr": 0.5, "protocol": {"eps": 0.5}, "counts": {"dropped": 1}}
    edit(folder, lambda r: r["scores"][0].update({field: other[field]}))
    assert verified(store, run) == 1
    said = capsys.readouterr().out
    assert said.count(" NO\n") == 1 and ("measured differently" in said) == (field == "protocol")


def test_a_metric_altered_in_mlflow_does_not_agree(capsys, store, reused):
    run, _ = store.write()
    store.client.log_metric(run, "test/robust", 0.99, step=99)
    assert verified(store, run) == 1
    assert "test/robust: MLflow shows 0.99, result.json" in capsys.readouterr().out


def test_a_score_that_was_taken_out_does_not_agree(capsys, store, reused, spare):
    run, folder = spare
    edit(folder, lambda r: r["scores"].pop())
    assert verified(store, run) == 1
    assert re.search(r"^test/robust +– +0\.\d+ +– .* NO$", capsys.readouterr().out, re.M)


def test_altered_numbers_per_image_do_not_agree(capsys, store, reused, spare):
    run, folder = spare
    with np.load(folder / "test.npz") as images:
        arrays = dict(images)
    clean = arrays["test/clean"]
    one, other = np.flatnonzero(clean)[0], np.flatnonzero(~clean)[0]
    clean[[one, other]] = clean[[other, one]]  # the mean stays
    np.savez_compressed(folder / "test.npz", **arrays)
    assert verified(store, run) == 1
    assert re.search(r"^test/clean .* 2 of 300 +NO$", capsys.readouterr().out, re.M)


def test_altered_weights_do_not_agree(capsys, store, reused, spare):
    run, folder = spare
    state = torch.load(folder / "weights.pt", weights_only=True)
    state["head.bias"][0] += 1e-6
    torch.save(state, folder / "weights.pt")
    assert verified(store, run) == 1
    said = capsys.readouterr().out
    assert f"{len(state) - 1} of {len(state)} tensors of the weights agree" in said and " NO\n" not in said


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_other_data_are_refused_before_anything_is_trained(capsys, store, monkeypatch, part, spare):
    run, folder = spare
    edit(folder, lambda r: r["checksums"].update({part: "0" * 16}))
    monkeypatch.setattr(verify.run, "run", lambda *_, **__: pytest.fail("trained on other data"))
    refused(capsys, store, run, f"data 'digits' are not those of run {run}, by the checksums of {part};")


def test_training_that_diverges_anew_does_not_agree(capsys, store, monkeypatch, kept):
    from harness.errors import Diverged

    def diverges(*_, **__):
        raise Diverged("the loss became nan in epoch 1, batch 2")

    monkeypatch.setattr(verify.run, "run", diverges)
    assert verified(store, kept) == 1
    assert "the loss became nan in epoch 1, batch 2: the run does not agree" in capsys.readouterr().out


# ---- on another machine


def test_elsewhere_a_score_may_differ_within_its_tolerance(capsys, store, reused, spare):
    run, folder = spare
    edit(folder, lambda r: r["machine"].update(torch="1.0", python="3.2.1"))
    assert verified(store, run) == 0
    said = capsys.readouterr().out
    n, n_val = len(store.result.scores), store.result.score("val/clean").n
    assert re.search(r"^  torch +then 1\.0 +now \d", said, re.M) and "tensors of the weights" not in said
    assert said.endswith(f"{n} of {n} scores agree bit for bit. {n} of {n} are within the tolerance.\n")
    assert f"The stored weights give the recorded verdict on {n_val} of {n_val} validation images." in said
    assert max(map(len, said.splitlines())) <= verify.WIDTH


def test_elsewhere_what_is_out_of_it_or_contradicts_itself_does_not_agree(capsys, store, reused, spare):
    run, folder = spare
    edit(folder, lambda r: r["machine"].update(threads="77"))
    alter(folder, "test/clean", 0.002)  # within the tolerance, but neither MLflow nor the images say so
    assert verified(store, run) == 1
    said = capsys.readouterr().out
    assert "test/clean: MLflow shows" in said and said.count(" NO\n") == 1


def test_elsewhere_a_score_raised_wherever_it_stands_is_told_by_the_images(capsys, store, reused):
    run, folder = store.write()
    edit(folder, lambda r: r["machine"].update(threads="77"))
    alter(folder, "test/clean", 0.01)  # three images of 300: within the tolerance
    store.client.log_metric(run, "test/clean", store.result.score("test/clean").mean + 0.01, step=99)
    assert verified(store, run) == 1
    said = capsys.readouterr().out
    assert re.search(r"test/clean: result\.json has 0\.\d+ over 300 images, the per-image values do not", said)
    assert said.count(" NO\n") == 1 and re.search(r"^test/clean .* 0 of 300 +NO$", said, re.M)


def test_elsewhere_weights_that_are_not_the_measured_ones_do_not_agree(capsys, store, reused, spare):
    run, folder = spare
    edit(folder, lambda r: r["machine"].update(threads="77"))
    state = torch.load(folder / "weights.pt", weights_only=True)
    torch.save({**state, "head.weight": -state["head.weight"]}, folder / "weights.pt")
    assert verified(store, run) == 1
    said, n = capsys.readouterr().out, store.result.score("val/clean").n
    (upheld,) = re.findall(rf"recorded verdict on (\d+) of {n} ", said)
    assert " NO\n" not in said and int(upheld) < 0.9 * n


def test_the_same_bits_are_asked_for_on_the_same_cpu_alone():
    here = {"device": "cpu (x86_64)", "cpu": "AVX2", "threads": "2", "python": "3.11.7"}
    here |= {"torch": "2.13.0", "numpy": "2.4.6"}
    assert exact(here, here) and exact(here, {**here, "python": "3.11.9", "git": "other", "ray": "3"})
    for name in NUMERIC:
        assert not exact(here, {**here, name: "9.9"}), name
        assert not exact({k: v for k, v in here.items() if k != name}, here), name
    gpu = {**here, "device": "cuda (NVIDIA H200)"}
    assert not exact(gpu, gpu)


def test_as_many_threads_are_used_as_the_record_had_where_there_are_so_many(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    for recorded, device, used in (("2", "cpu", 2), ("3", "cpu", before), ("2", "cuda", before), (None, "cpu", before)):
        with verify._threads(recorded, device):
            assert torch.get_num_threads() == used, (recorded, device)
        assert torch.get_num_threads() == before


def test_the_tolerance_is_three_errors_of_a_difference():
    """Two independent means: the difference of means has the root of the summed squares of their errors."""
    right = np.array([True] * 60 + [False] * 40)
    score = Score.of("test/clean", torch.from_numpy(right), {})
    score = dataclasses.replace(score, per_example=right)
    error = np.sqrt(0.6 * 0.4 / 99)
    assert score.stderr == pytest.approx(error)
    assert tolerance(score, score) == pytest.approx(3 * np.sqrt(2) * error)
    assert tolerance(score, score, spread=0.1) == pytest.approx(3 * np.sqrt(2) * 0.1)  # as two seeds differ
    none = dataclasses.replace(score, mean=0.0, stderr=0.0, per_example=np.zeros(100, bool))
    assert tolerance(none, none) == pytest.approx(3 / 100)  # the rule of three
    lone = dataclasses.replace(none, stderr=float("nan"), n=1)
    assert tolerance(lone, lone) == 3.0


@pytest.mark.slow
def test_the_spread_is_that_of_the_other_repetitions_of_one_winner(store, tmp_path):
    runs = [store.write(winner="w1")[0] for _ in range(4)]
    store.write(winner="w2")
    store.write("search", winner="w1")
    values = [0.99, 0.5, 0.6, 0.9]
    for run, value in zip(runs, values, strict=True):
        store.client.log_metric(run, "test/clean", value, step=99)
    found = record.read(store.uri, runs[0], _folder(tmp_path, 0))
    assert found.spread["test/clean"] == pytest.approx(np.std(values[1:], ddof=1))
    assert found.spread["val/clean"] == pytest.approx(0, abs=1e-12)
    alone = record.read(store.uri, store.write()[0], _folder(tmp_path, 1))
    assert alone.spread == {}


def test_an_altered_figure_does_not_widen_its_own_tolerance(capsys, store, reused):
    """Raised in result.json, in MLflow and image by image, so that only the other seeds tell."""
    runs = [store.write(winner="w3") for _ in range(3)]
    run, folder = runs[0]
    edit(folder, lambda r: r["machine"].update(threads="77"))
    with np.load(folder / "test.npz") as images:
        arrays = dict(images) | {"test/robust": np.ones(300, bool)}
    np.savez_compressed(folder / "test.npz", **arrays)
    alter(folder, "test/robust", 1.0 - store.result.score("test/robust").mean)
    store.client.log_metric(run, "test/robust", 1.0, step=99)
    assert verified(store, run) == 1
    said = capsys.readouterr().out
    assert re.search(r"^test/robust +1\.000000 .* NO$", said, re.M) and said.count(" NO\n") == 1
    assert "MLflow shows" not in said and "the per-image values do not" not in said


def test_a_score_without_a_number_agrees_with_itself(store, kept, tmp_path):
    found = record.read(store.uri, kept, _folder(tmp_path, 0))
    score = Score("test/art-in", float("nan"), float("nan"), 0, per_example=np.full(96, np.nan))
    result = dataclasses.replace(found.result, scores=[score])
    found = dataclasses.replace(found, result=result)
    for bitwise in (True, False):
        (row,) = compare(found, result, bitwise=bitwise)
        assert row.agrees and row.images == (0, 96)
