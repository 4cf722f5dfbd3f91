"""What is exported: weights that load without running anything, the entry, the card and its own instructions."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_verify import EVIL, SETTINGS, Store, edit

from harness import evaluate
from harness.config.trial import build
from harness.config.trial_key import TRAINING_VERSION
from harness.data import datasets
from harness.errors import UserError, exit_status
from harness.evaluation.batching import to_batch
from harness.evaluation.checks.evidence import Check
from harness.evaluation.external import loading
from harness.evaluation.measurements import accuracy
from harness.evaluation.scores import Score
from harness.models import nets
from reports import export
from reports.read import record

ROOT = Path(__file__).parents[2]
FILES = {"model.safetensors", "config.json", "README.md"}


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store):
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store, out / "mlflow.db")
    return Store(out, {"normalise": True})


@pytest.fixture(scope="module")
def kept(store):
    """A run that nobody alters."""
    return store.write()[0]


@pytest.fixture(scope="module")
def exported(store, kept, tmp_path_factory):
    """The folder of an export."""
    out = tmp_path_factory.mktemp("export")
    assert exit_status(lambda: export.main([kept, "--tracking-uri", store.uri, "--out", str(out)])) == 0
    (folder,) = out.iterdir()
    return folder


@pytest.fixture(scope="module")
def data(store):
    return datasets.load(store.trial.data, store.workspace)


@pytest.fixture
def found(store, kept, tmp_path):
    """The record of the run, to be altered in memory."""
    return record.read(store.uri, kept, tmp_path)


def refused(capsys, store, run, out, said):
    assert exit_status(lambda: export.main([run, "--tracking-uri", store.uri, "--out", str(out)])) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    assert re.search(said, captured.err), captured.err
    assert captured.out == "" and not out.exists()  # nothing is written


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def scored(found, **means):
    """The record with these test scores in place of its own."""
    scores = [Score(f"test/{name.replace('_', '-')}", mean, 0.01, 200, {"eps": 0.1}) for name, mean in means.items()]
    return dataclasses.replace(found, result=dataclasses.replace(found.result, scores=scores))


def test_the_folder_and_its_names(exported, store):
    assert exported.name == f"sat-digits-small-{store.trial.key}"
    assert {file.name for file in exported.iterdir()} == FILES | {f"{exported.name}.json", "every_eval_ever"}


def test_the_cards_own_lines_give_the_recorded_accuracy(exported, store, data, monkeypatch):
    """The snippet runs as it stands, in a process of its own place, on the very images that were measured."""
    (snippet,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.S)
    assert sum(bool(line.strip()) for line in snippet.splitlines()) <= 6
    monkeypatch.chdir(exported)
    there = {"images": to_batch(data.test).x}
    exec(compile(snippet, "README.md", "exec"), there)
    right = there["logits"].argmax(1) == data.test.y
    score = store.result.score("test/clean")
    assert score.mean > 0.3  # of a net that has learnt something
    assert torch.equal(right, torch.from_numpy(score.per_example) > 0) and float(right.double().mean()) == score.mean


def test_the_weights_are_those_of_the_trial(exported, store):
    state = torch.load(store.workspace.trial(store.trial.key) / "weights.pt", weights_only=True)
    found = load_file(exported / "model.safetensors")
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert found["mean"].abs().sum() > 0  # the normalisation goes along
    with safe_open(exported / "model.safetensors", "pt") as file:
        about = file.metadata()
    assert about["format"] == "pt" and about["key"] == store.trial.key and about["protocol"] == str(TRAINING_VERSION)
    assert re.fullmatch(r"\d+\.\d+.*", about["harness"])


@pytest.mark.slow
def test_the_bytes_are_the_same_in_every_process(tmp_path):
    """safetensors' own writer orders its texts by a hash that differs from process to process."""
    code = (
        "import sys, torch; from reports.export import weights;"
        "state = {'b': torch.arange(6).view(2, 3).t(), 'a': torch.ones(1).double(), 'é': torch.zeros(0, 2)};"
        "sys.stdout.buffer.write(weights(state, {c: c for c in 'uvwxyz'}))"
    )
    files = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout]
    files.append(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout)
    assert files[0] == files[1]
    (tmp_path / "x.safetensors").write_bytes(files[0])
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", **{c: c for c in "uvwxyz"}}
        assert torch.equal(file.get_tensor("b"), torch.tensor([[0, 3], [1, 4], [2, 5]]))
        assert file.get_tensor("a").dtype == torch.float64 and file.get_tensor("é").shape == (0, 2)


def test_exporting_again_replaces_the_files_by_the_same_bytes(exported, store, kept):
    before = contents(exported)
    (exported / "README.md").write_text("torn")
    words = [kept, "--tracking-uri", store.uri, "--out", str(exported.parent)]
    assert exit_status(lambda: export.main(words)) == 0
    assert contents(exported) == before  # and no temporary file stays


def test_the_settings_make_the_same_trial_and_the_net_can_be_built(exported, store, data):
    config = json.loads((exported / "config.json").read_text(), parse_constant=pytest.fail)
    assert build(config["trial"]).key == config["key"] == store.trial.key
    net = config["net"]
    assert (net["channels"], net["classes"], net["image_size"], net["normalise"]) == (1, 10, [8, 8], True)
    assert net["class_names"] == list(data.classes)
    nets.build(net["model"], net["channels"], net["classes"]).load_state_dict(load_file(exported / "model.safetensors"))
    assert config["checksums"] == data.checksums
    assert [s["mean"] for s in config["scores"]] == [s.mean for s in store.result.scores]


def test_a_number_that_is_none_is_valid_json(found, data):
    none = Score("val/art-in", float("nan"), float("nan"), 0)
    result = dataclasses.replace(found.result, scores=[none])
    content = export.config(dataclasses.replace(found, result=result), data)
    assert json.loads(json.dumps(content, allow_nan=False))["scores"][0]["mean"] is None


# ---- the entry


def test_the_entry_has_robustbenchs_fields(exported, store):
    entry = json.loads((exported / f"{exported.name}.json").read_text())
    texts = {"link", "name", "authors", "dataset", "venue", "architecture", "eps", "clean_acc", "reported", "footnote"}
    assert {field for field, value in entry.items() if isinstance(value, str)} == texts
    assert entry["number_forward_passes"] == 1 and entry["additional_data"] is False
    clean, robust = (100 * store.result.score(f"test/{name}").mean for name in ("clean", "pgd2-16"))
    lowest = min(robust, 100 * store.result.score("test/fgsm-16").mean)
    assert entry["clean_acc"] == f"{clean:.2f}" and entry["reported"] == f"{lowest:.2f}" and entry["eps"] == "16/255"
    assert "autoattack_acc" not in entry and "corruptions_acc" not in entry


def test_the_entry_reports_the_lowest_at_the_largest_eps(found):
    means = {"clean": 0.9, "pgd10_4": 0.1, "pgd10_8": 0.5, "pgd10x5_8": 0.45, "aa_8": 0.4, "worst_8": 0.39}
    means |= {"aa_square_8": 0.2, "l2_pgd40_128": 0.01, "cw100": 0.02, "corrupted": 0.7, "fog": 0.3, "robust": 0.05}
    entry = export.entry(scored(found, **means))
    assert (entry["eps"], entry["clean_acc"], entry["reported"]) == ("8/255", "90.00", "39.00")
    assert (entry["autoattack_acc"], entry["corruptions_acc"]) == ("40.00", "70.00")
    assert entry["footnote"] == "One net, seed 1; 200 test images. Reported is Worst case 8/255."


def test_the_entry_of_a_net_that_was_not_attacked_or_not_tested(found):
    entry = export.entry(scored(found, clean=0.9))
    assert (entry["eps"], entry["reported"], entry["clean_acc"]) == (None, None, "90.00")
    untested = dataclasses.replace(found.result, scores=[s for s in found.result.scores if s.name.startswith("val/")])
    assert export.entry(dataclasses.replace(found, result=untested))["clean_acc"] is None


def test_the_entry_says_what_is_in_doubt_and_what_annotations_were_used(found):
    doubted = [Check("reach", False, {}, "too short"), Check("logits", True, {}, "fine"), Check("other", None, {}, "")]
    of_maps = Check("depends_on_weights", False, {}, "it shows the image")  # says nothing of an accuracy
    doubted_maps = dataclasses.replace(found, result=dataclasses.replace(found.result, checks=[of_maps]))
    assert export.entry(doubted_maps)["unreliable"] is False
    trial = build({**SETTINGS, "maps.saliency": "mask+gradient"})
    entry = export.entry(
        dataclasses.replace(found, result=dataclasses.replace(found.result, checks=doubted, trial=trial))
    )
    assert entry["unreliable"] is True and "Failed checks: reach." in entry["footnote"]
    assert "Trained with the masks of the training images." in entry["footnote"]


# ---- the card


def test_the_card_holds_every_score_setting_and_checksum(exported, store, kept):
    card = (exported / "README.md").read_text()
    for score in store.result.scores:
        name = score.name.partition("/")[2]
        row = next(line for line in card.splitlines() if f"(`{name}`)" in line)
        assert f"{100 * score.mean:.2f} ± {100 * score.stderr:.2f}" in row and str(score.n) in row
    for path in store.trial.flat():
        assert f"| `{path}` |" in card
    assert all(digest in card for digest in store.result.checksums.values())
    assert kept in card and "measured on the test images once" in card and "AutoAttack was not measured" in card
    assert "eps 16/255, step" in card and "2020" in card  # the protocol; the method's paper


def test_the_tables_are_whole_whatever_the_texts(found, data):
    """Names from outside stay text: no tags, no bars that cut a row, no line that begins something else."""
    scores = [Score("test/clean|`x`\n# h", 0.5, 0.1, 9, {"a|b": "<img src=x>"}, {"dropped": 3})]
    checks = [Check("reach", False, {}, "[x](http://example.com) <script>\n## h")]
    result = dataclasses.replace(found.result, scores=scores, checks=checks)
    strange = dataclasses.replace(found, result=result, cell="a | b\n# c", experiment="<b>", tags={"git": "x|y\n"})
    classes = dataclasses.replace(data, classes=("<i>", "a\n# b", *data.classes[2:]))
    card = export.card(strange, classes, "Held.")
    assert not re.search(r"<(img|script|b|i)\b", card)
    assert not re.search(r"(?<!\\)\]\(", card)
    own = {"Use", "Scores", "Checks", "Data", "Training", "Limitations", "Provenance"}
    assert set(re.findall(r"^## (.*)$", card, re.M)) == own and len(re.findall(r"^# ", card, re.M)) == 1
    for block in re.findall(r"(?:^\|.*\|$\n?)+", card, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
    assert "3 dropped" in card and EVIL not in card


def test_the_name_bears_any_data_set(found):
    trial = dataclasses.replace(found.result.trial, data=dataclasses.replace(found.result.trial.data, name="../a b/c"))
    name = export.name(dataclasses.replace(found, result=dataclasses.replace(found.result, trial=trial)))
    assert re.fullmatch(r"sat-\.\.-a-b-c-small-[0-9a-f]{12}", name)


# ---- what is not exported


def test_what_keeps_no_weights_is_refused(capsys, store, tmp_path):
    out = tmp_path / "out"
    searched, _ = store.write("search")
    refused(capsys, store, searched, out, f"run {searched} has no weights: only winners' seed runs do")
    run, folder = store.write()
    (folder / "weights.pt").unlink()
    refused(capsys, store, run, out, f"run {run} has no weights: they are gone from its artifacts")


@pytest.mark.parametrize("kind", ["garbled", "page", "pickle", "other", "altered"])
def test_weights_that_are_not_the_measured_ones_are_refused(capsys, store, tmp_path, kind):
    run, folder = store.write()
    file = folder / "weights.pt"
    state = torch.load(file, weights_only=True)
    if kind == "garbled":
        file.write_bytes(file.read_bytes()[:500])
    elif kind == "page":
        file.write_text("<!DOCTYPE html><html>404</html>")
    elif kind == "pickle":
        torch.save({"state_dict": Path("x")}, file)  # an object, whose loading would run code
    elif kind == "other":
        torch.save(nets.build("resnet10", 1, 10).state_dict(), file)
    else:
        torch.save({**state, "head.weight": state["head.weight"].roll(1, 0)}, file)
    said = "are not those that were measured" if kind == "altered" else "cannot be used: 'weights.pt' "
    refused(capsys, store, run, tmp_path / "out", f"the weights of run {run} {said}")


def test_a_record_that_contradicts_itself_is_refused(capsys, store, tmp_path):
    run, folder = store.write()
    edit(folder, lambda r: r["scores"][-1].update(mean=0.99))
    refused(capsys, store, run, tmp_path / "out", f"run {run} contradicts itself, test/robust: MLflow shows 0.")


def test_other_data_are_refused(capsys, store, tmp_path):
    run, folder = store.write()
    edit(folder, lambda r: r["checksums"].update(val="0" * 16))
    refused(capsys, store, run, tmp_path / "out", "by the checksums of val;")


def test_what_cannot_be_written_is_one_line(capsys, store, kept, tmp_path):
    (tmp_path / "file").write_text("")
    words = [kept, "--tracking-uri", store.uri, "--out", str(tmp_path / "file" / "out")]
    assert exit_status(lambda: export.main(words)) == 2
    assert capsys.readouterr().err.startswith("error: cannot write ")


# ---- a safetensors file is measured


def test_an_exported_file_measures_the_same(exported, store, data, monkeypatch, capsys):
    weights = exported / "model.safetensors"
    net = loading.load_external("small", weights, data)
    right = torch.cat([accuracy(net, to_batch(data.test))])
    assert float(right.double().mean()) == store.result.score("test/clean").mean
    words = ["--model", "small", "--weights", str(weights), "--set", "data.limit=300", "--set", "measure.eps=16/255"]
    words += ["--set", "measure.steps=2", "--out", str(store.workspace.out / "again"), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["evaluate", *words])
    assert exit_status(evaluate.main) == 0
    said = capsys.readouterr().out
    for score in (s for s in store.result.scores if s.name.startswith("val/")):
        assert re.search(rf"^{score.name} +{100 * score.mean:.2f} ", said, re.M), score


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>404</html>", "is not a safetensors file: SafetensorError"),
        (b"", "is not a safetensors file: SafetensorError"),
        (None, "cannot read"),
    ],
)
def test_what_is_no_safetensors_file_is_one_line(data, tmp_path, content, said):
    file = tmp_path / "x.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=said) as mistake:
        loading.load_external("small", file, data)
    assert str(file) in str(mistake.value) and "\n" not in str(mistake.value)


def test_a_safetensors_file_of_another_net_is_named(data, tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(export.weights(nets.build("resnet10", 1, 10).state_dict(), {}))
    with pytest.raises(UserError, match="holds the weights of another net: it lacks 'features"):
        loading.load_external("small", file, data)
