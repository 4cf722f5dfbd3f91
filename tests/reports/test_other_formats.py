"""Exported scores in the forms of Hugging Face and of Every Eval Ever, and what these two read from them."""

import dataclasses
import hashlib
import json
import re
from collections import defaultdict

import numpy as np
import pytest
import torch
import yaml

from harness.config.trial import build
from harness.data import datasets
from harness.errors import UserError
from harness.evaluation.scores import Score
from harness.trials.result import Result
from reports import every_eval_ever, export, hugging_face, model_card
from reports.read.record import Record

RIGHT = {
    "clean": [1, 1, 0, 1, 1, 0, 1, 1, 1, 1],
    "pgd10-8": [1, 0, 0, 1, 0, 0, 1, 0, float("nan"), 1],
    "robust": [1, 0.5, 0, 1, 0, 0, 0.5, 0, 0, 1],
    "fgsm-8": [1, 0, 0, 1, 0, 0, 1, 0, 1, 1],
    "strong-in": [0.5, 0.25, 1, 0, 0.5, 0.5, 0.75, 0.5, 0, 0],
    "cw40_l2": [3.5, 0.25, 1, 0, 0.5, 0.5, 0.75, 0.5, 0, 0],
}
HEADLINE = {"clean", "pgd10-8", "robust", "strong-in"}


@pytest.fixture(scope="module")
def data(shared_workspace):
    return datasets.load(build({"data": "digits", "data.limit": 10}).data, shared_workspace)


@pytest.fixture
def found(data):
    """A record with these values per test image, one validation score, and one that was not measured."""
    scores = [Score.of(f"test/{name}", torch.tensor(values), {"eps": 8 / 255}) for name, values in RIGHT.items()]
    scores += [Score("val/clean", 0.9, 0.1, 10), Score("test/strong-k", float("nan"), float("nan"), 0)]
    trial = build({"method": "sat", "maps.saliency": "gradient", "data.limit": 10, "seed": 3})
    result = Result(trial, scores, [], {}, data.checksums, {"torch": "2.13.0"}, 1)
    return Record("a" * 32, "sat-digits", "sat", "seed", {}, {}, result, {}, None, 1_700_000_000)


def written(found, data, dataset="", owner="my-lab"):
    """The aggregate, its lines, and the paths of both."""
    files = every_eval_ever.files(found, data, owner, dataset, "0.1.0")
    (one,) = (path for path in files if path.endswith(".json"))
    lines = files.get(f"{one.removesuffix('.json')}_samples.jsonl", b"").splitlines()
    assert len(files) == 1 + bool(lines)
    return json.loads(files[one], parse_constant=pytest.fail), [json.loads(line) for line in lines], files


# ---- Hugging Face


def test_the_metadata_name_every_headline_score_of_the_test_images(found):
    block = yaml.safe_load(hugging_face.metadata(found, "uoft-cs/cifar10").strip("-\n"))
    (model,) = block["model-index"]
    (result,) = model["results"]
    assert model["name"] == model_card.name(found) and block["datasets"] == ["uoft-cs/cifar10"]
    assert result["dataset"] == {"type": "uoft-cs/cifar10", "name": "digits", "split": "test"}
    means = {name: found.result.score(f"test/{name}").mean for name in HEADLINE}
    assert sorted(metric["value"] for metric in result["metrics"]) == sorted(means.values())
    assert [metric["type"] for metric in result["metrics"]].count("accuracy") == 3  # strong-in is none


def test_a_data_set_that_the_hub_does_not_have_is_not_named(found):
    block = yaml.safe_load(hugging_face.metadata(found, "").strip("-\n"))
    assert "datasets" not in block and block["model-index"][0]["results"][0]["dataset"]["type"] == "digits"


def test_a_net_that_was_not_tested_claims_no_score(found):
    untested = dataclasses.replace(found, result=dataclasses.replace(found.result, scores=[]))
    block = yaml.safe_load(hugging_face.metadata(untested, "").strip("-\n"))
    assert "model-index" not in block and "metrics" not in block
    assert hugging_face.eval_results(untested, "uoft-cs/cifar10") == {}


def test_there_is_a_file_for_each_headline_score(found):
    files = hugging_face.eval_results(found, "uoft-cs/cifar10")
    assert set(files) == {f"{name}.yaml" for name in HEADLINE}
    for name in HEADLINE:
        (entry,) = yaml.safe_load(files[f"{name}.yaml"])
        assert entry["dataset"] == {"id": "uoft-cs/cifar10", "task_id": name}
        assert entry["value"] == found.result.score(f"test/{name}").mean and entry["date"] == "2023-11-14"
        assert "seed 3" in entry["notes"] and ("9 test" if name == "pgd10-8" else "10 test") in entry["notes"]


@pytest.mark.parametrize("text", ["a: b", "---", "x\n---\n# h", "{}", "- a", "'\"", "#"])
def test_texts_from_outside_stay_texts_in_the_metadata(found, text):
    trial = found.result.trial
    named = dataclasses.replace(trial, data=dataclasses.replace(trial.data, name=text))
    strange = dataclasses.replace(found, result=dataclasses.replace(found.result, trial=named))
    block = hugging_face.metadata(strange, "")
    assert re.findall("^---$", block, re.M) == ["---", "---"]
    assert yaml.safe_load(block.strip("-\n"))["model-index"][0]["results"][0]["dataset"]["name"] == text


@pytest.mark.peer
def test_the_hubs_own_library_reads_both(found):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed; `make peers` does")
    from huggingface_hub.repocard_data import ModelCardData

    card = ModelCardData(**yaml.safe_load(hugging_face.metadata(found, "uoft-cs/cifar10").strip("-\n")))
    assert card.model_name == model_card.name(found)
    assert {(r.dataset_type, r.dataset_split, r.task_type) for r in card.eval_results} == {
        ("uoft-cs/cifar10", "test", "image-classification")
    }
    assert len(card.eval_results) == len(HEADLINE)
    for text in hugging_face.eval_results(found, "uoft-cs/cifar10").values():
        entries = yaml.safe_load(text)
        read = hub.parse_eval_result_entries(entries)
        assert hub.eval_result_entries_to_yaml(read) == entries and isinstance(read[0].value, float)


# ---- Every Eval Ever


def test_the_lines_of_a_score_have_its_mean_and_its_images(found, data):
    aggregate, lines, _ = written(found, data)
    values = defaultdict(list)
    for line in lines:
        values[line["evaluation_result_id"]].append(line["evaluation"]["score"])
        assert line["evaluation"]["is_correct"] == (line["evaluation"]["score"] == 1) == bool(line["output"]["raw"])
    of = {r["evaluation_result_id"]: r["score_details"] for r in aggregate["evaluation_results"]}
    assert {name.rpartition("/")[2] for name in values} == {"clean", "pgd10-8"}
    assert {name.rpartition("/")[2] for name in of} == set(RIGHT)  # not what was not measured
    for name, scores in values.items():
        assert np.mean(scores) == pytest.approx(of[name]["score"], abs=1e-12)
        assert len(scores) == of[name]["uncertainty"]["num_samples"]
    assert len({line["sample_id"] for line in lines}) == 10


def test_the_aggregate_and_its_lines_are_one_record(found, data):
    aggregate, lines, files = written(found, data)
    named = aggregate["detailed_evaluation_results"]
    content = files[named["file_path"]]
    assert named["total_rows"] == len(lines) == 19 and named["checksum"] == hashlib.sha256(content).hexdigest()
    assert {line["evaluation_id"] for line in lines} == {aggregate["evaluation_id"]}
    assert (
        {line["model_id"] for line in lines} == {aggregate["model_info"]["id"]} == {f"my-lab/{model_card.name(found)}"}
    )


def test_an_image_is_known_by_its_pixels(found, data):
    _, lines, _ = written(found, data)
    for i, line in enumerate(lines[:10]):
        pixels = data.test.x[i].numpy().tobytes()
        assert hashlib.sha256(pixels).hexdigest() in line["input"]["raw"]
        assert line["input"]["reference"] == [data.classes[data.test.y[i]]]


def test_bounds_that_are_infinite_are_texts(found, data):
    aggregate, _, _ = written(found, data)
    metrics = {r["evaluation_name"]: r["metric_config"] for r in aggregate["evaluation_results"]}
    assert (metrics["digits cw40_l2"]["min_score"], metrics["digits cw40_l2"]["max_score"]) == (0, "Infinity")
    assert metrics["digits clean"]["metric_id"] == "accuracy" and metrics["digits clean"]["max_score"] == 1


def test_a_record_without_values_per_image_has_no_lines(found, data):
    bare = dataclasses.replace(found, result=found.result.without_images())
    aggregate, lines, _ = written(bare, data)
    assert not lines and "detailed_evaluation_results" not in aggregate


@pytest.mark.peer
@pytest.mark.parametrize("dataset", ["", "uoft-cs/cifar10"])
@pytest.mark.parametrize("owner", ["my-lab", export.OWNER])
@pytest.mark.parametrize("images", [True, False])
def test_the_collections_own_validator_has_no_complaint(found, data, dataset, owner, images, tmp_path):
    """The check that its repository runs on what is sent to it: schema, paths, and that both files agree."""
    reason = "every_eval_ever is not installed; `make peers` does"
    core = pytest.importorskip("every_eval_ever.validator.validation_core", reason=reason)
    assert core.get_schema_version() == every_eval_ever.SCHEMA
    kept = found if images else dataclasses.replace(found, result=found.result.without_images())
    _, _, files = written(kept, data, dataset, owner)
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    for path in files:
        report = core.validate_file(
            tmp_path / path,
            repo_path=path,
            available_files=frozenset(files),
            read_repo_file=lambda name: files[name].decode(),
            run_semantic_checks=True,
        )
        assert report.valid and not report.errors and not report.warnings, report


# ---- the options


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--owner", "a/b"], "--owner takes letters, digits, - and _, not 'a/b'"),
        (["--owner", ""], "--owner takes letters, digits, - and _, not ''"),
        (["--owner", ".."], "--owner takes letters, digits, - and _, not '..'"),
        (["--dataset", "cifar10"], "--dataset takes OWNER/NAME, such as uoft-cs/cifar10, not 'cifar10'"),
        (["--dataset", "../x"], "--dataset takes OWNER/NAME, such as uoft-cs/cifar10, not '../x'"),
    ],
)
def test_a_wrong_owner_or_data_set_is_one_line(words, said):
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        export.arguments(["a" * 32, *words])
