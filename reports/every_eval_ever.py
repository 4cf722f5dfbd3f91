"""Every Eval Ever's record of an evaluation (schema 0.3.0): aggregate JSON, and one line of JSON per image and score.

Schema: eval.schema.json and instance_level_eval.schema.json of github.com/evaleval/every_eval_ever.
"""

import datetime
import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harness.data.datasets import Data
from harness.evaluation.score_name import ScoreName
from harness.evaluation.scores import Score
from reports.model_card import name, portable, tested_scores
from reports.read import score_names
from reports.read.record import Record

SCHEMA = "0.3.0"
_NO_OUTPUT = "the class given to an image that is not classified correctly is not recorded; output.raw is then empty"


def files(record: Record, data: Data, owner: str, dataset: str, version: str) -> dict[str, bytes]:
    """Path, as in the collection's repository (`data/...`), -> content: the aggregate, and its lines if there are any.

    owner: who publishes the net. dataset: id of the data on the Hugging Face Hub, or "". version: of this harness.
    An accuracy has one line per test image; other scores have no right and wrong answer, which a line must say."""
    model = f"{owner}/{name(record)}"
    identity = hashlib.sha256(f"{record.run} {model}".encode()).digest()
    path = f"data/{_collection(record)}/{model}/{uuid.UUID(bytes=identity[:16], version=4)}"
    aggregate = _aggregate(record, data, owner, dataset, version)
    if not (lines := list(_lines(record, data, aggregate))):
        return {f"{path}.json": _json(aggregate, indent=1)}
    content = b"".join(_json(line) for line in lines)
    aggregate["detailed_evaluation_results"] = {
        "format": "jsonl",
        "file_path": f"{path}_samples.jsonl",
        "hash_algorithm": "sha256",
        "checksum": hashlib.sha256(content).hexdigest(),
        "total_rows": len(lines),
        "additional_details": {"output": _NO_OUTPUT},
    }
    return {f"{path}.json": _json(aggregate, indent=1), f"{path}_samples.jsonl": content}


def _aggregate(record: Record, data: Data, owner: str, dataset: str, version: str) -> dict[str, Any]:
    trial, stem = record.result.trial, name(record)
    known = {text: s for text, s in tested_scores(record).items() if not math.isnan(s.mean)}
    evaluation = f"{_collection(record)}/{owner}/{stem}/{record.ended}"
    details = {path: str(value) for path, value in trial.flat().items()}
    return {
        "schema_version": SCHEMA,
        "evaluation_id": evaluation,
        "evaluation_timestamp": datetime.datetime.fromtimestamp(record.ended, datetime.UTC).isoformat(),
        "retrieved_timestamp": str(record.ended),
        "source_metadata": {
            "source_name": "saliency-harness",
            "source_type": "evaluation_run",
            "source_organization_name": owner,
            "evaluator_relationship": "first_party",
        },
        "eval_library": {"name": "saliency-harness", "version": version},
        "model_info": {
            "name": stem,
            "id": f"{owner}/{stem}",
            "developer": owner,
            "inference_engine": {"name": "PyTorch", "version": record.result.machine.get("torch", "unknown")},
            "additional_details": {**details, "deployment_type": "self_deployed", "model_availability": "unknown"},
        },
        "evaluation_results": [
            {
                "evaluation_result_id": f"{evaluation}/{text}",
                "evaluation_name": f"{trial.data.name} {text}",
                "source_data": _source(record, data, dataset),
                "metric_config": _metric(text, score),
                "score_details": _details(score),
            }
            for text, score in known.items()
        ],
    }


def _source(record: Record, data: Data, dataset: str) -> dict[str, Any]:
    kind = {"source_type": "hf_dataset", "hf_repo": dataset, "hf_split": "test", "samples_number": len(data.test)}
    source = {"dataset_name": record.result.trial.data.name, **(kind if dataset else {"source_type": "other"})}
    return {**source, "additional_details": {f"sha256 {part}": text for part, text in data.checksums.items()}}


def _metric(text: str, score: Score) -> dict[str, Any]:
    about = ScoreName.parse(text).about
    bounds = {"min_score": _bound(about.unit.lowest), "max_score": _bound(about.unit.highest)}
    return {
        "metric_id": "accuracy" if text == "clean" else f"saliency-harness.{text}",
        "metric_name": score_names.label(text),
        "metric_kind": "accuracy" if score_names.accuracy(text) else about.kind,
        "metric_unit": "proportion" if about.is_share else about.unit.name,
        "lower_is_better": about.better == "lower",
        "score_type": "continuous",
        **bounds,
        "additional_details": {what: json.dumps(value) for what, value in score.protocol.items()},
    }


def _bound(limit: float) -> float | str:
    """A bound of a score; JSON has no infinity, so the schema takes it as a text."""
    return limit if math.isfinite(limit) else "Infinity" if limit > 0 else "-Infinity"


def _details(score: Score) -> dict[str, Any]:
    error = {"standard_error": {"value": score.stderr, "method": "analytic"}} if math.isfinite(score.stderr) else {}
    counts = {what: str(count) for what, count in score.counts.items()}
    return {"score": score.mean, "uncertainty": {**error, "num_samples": score.n}, "details": counts}


def _lines(record: Record, data: Data, aggregate: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A line for each headline accuracy and each test image that it counts, in the order of `Data.test`."""
    images = [_image(record, data, i) for i in range(len(data.test))]
    tested = tested_scores(record)
    shared = {"schema_version": SCHEMA, "evaluation_id": aggregate["evaluation_id"]}
    shared |= {"model_id": aggregate["model_info"]["id"]}
    for result in aggregate["evaluation_results"]:
        text = result["evaluation_result_id"].removeprefix(f"{aggregate['evaluation_id']}/")
        verdicts = _verdicts(text, tested[text], len(images))
        for image, verdict in zip(images, verdicts, strict=False):
            if not math.isnan(verdict):
                names = {what: result[what] for what in ("evaluation_name", "evaluation_result_id")}
                yield {**shared, **names, **image, **_outcome(image["input"]["reference"], bool(verdict))}


def _verdicts(text: str, score: Score, images: int) -> np.ndarray:
    """1 or 0 per image, NaN if not counted; empty for a score that is no accuracy of a leaderboard, or a mean."""
    values = score.per_example
    if values is None or len(values) != images or not score_names.accuracy(text) or score_names.is_minor(text):
        return np.empty(0)
    return values if np.isin(values[~np.isnan(values)], (0, 1)).all() else np.empty(0)


def _image(record: Record, data: Data, i: int) -> dict[str, Any]:
    """What identifies a test image: its place among those of the trial, and its pixels."""
    pixels = hashlib.sha256(data.test.x[i].contiguous().numpy().tobytes()).hexdigest()
    label = data.classes[int(data.test.y[i])]
    asked = {"raw": f"test image {i} of {record.result.trial.data.name}, SHA-256 {pixels}", "reference": [label]}
    return {
        "sample_id": f"test-{i:06d}",
        "sample_hash": hashlib.sha256(f"{asked['raw']}{label}".encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": asked,
    }


def _outcome(reference: list[str], right: bool) -> dict[str, Any]:
    output = {"raw": reference if right else []}
    return {"output": output, "answer_attribution": [], "evaluation": {"score": float(right), "is_correct": right}}


def _collection(record: Record) -> str:
    return f"saliency-harness-{portable(record.result.trial.data.name)}".rstrip(".")


def _json(value: Mapping[str, Any], indent: int | None = None) -> bytes:
    return (json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()
