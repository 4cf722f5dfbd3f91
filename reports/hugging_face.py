"""Hugging Face's formats: a model card's metadata (`model-index`), and evaluation results (`.eval_results/*.yaml`).

Formats: modelcard.md and eval_results.yaml of github.com/huggingface/hub-docs. A share is a number from 0 to 1.
"""

import datetime
import math
from typing import Any

import yaml

from harness.evaluation.score_name import ScoreName
from harness.evaluation.scores import Score
from reports.model_card import name, tested_scores
from reports.read import score_names
from reports.read.record import Record

# Data sets whose files are the same on the Hub, by their id there.
DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "svhn": "ufldl-stanford/svhn"}
TASK = {"type": "image-classification", "name": "Image classification"}


def metadata(record: Record, dataset: str) -> str:
    """The YAML block at the top of a model card. dataset: its id on the Hub, "" if it has none.

    The licence of the weights is for their author to add."""
    trial, method = record.result.trial, record.result.trial.flat()["method"]
    scores = _headline(record)
    where = {"type": dataset or trial.data.name, "name": trial.data.name, "split": "test"}
    results = [{"task": TASK, "dataset": where, "metrics": [_metric(text, s) for text, s in scores.items()]}]
    block = {
        "library_name": "saliency-harness",
        "pipeline_tag": TASK["type"],
        "tags": ["adversarial-robustness", "saliency-maps", str(method)],
        **({"datasets": [dataset]} if dataset else {}),
        **({"metrics": ["accuracy"], "model-index": [{"name": name(record), "results": results}]} if scores else {}),
    }
    return f"---\n{_yaml(block)}---\n"


def eval_results(record: Record, dataset: str) -> dict[str, str]:
    """File name below `.eval_results/` -> its YAML, one file per headline test score. dataset: its id on the Hub.

    The task of an entry is the score's name; its measuring and standard error are in its notes."""
    day = datetime.datetime.fromtimestamp(record.ended, datetime.UTC).date().isoformat()
    files = {}
    for text, score in _headline(record).items():
        value = {"value": score.mean, "date": day, "notes": _notes(record, text, score)}
        files[f"{text}.yaml"] = _yaml([{"dataset": {"id": dataset, "task_id": text}, **value}])
    return files


def _headline(record: Record) -> dict[str, Score]:
    """The test scores that a leaderboard shows and that are shares, by name without the split."""
    scores = tested_scores(record).items()
    shares = {text: s for text, s in scores if ScoreName.parse(text).about.is_share and not math.isnan(s.mean)}
    return {text: score for text, score in shares.items() if not score_names.is_minor(text)}


def _metric(text: str, score: Score) -> dict[str, Any]:
    """One metric of a `model-index`, in the Hub's vocabulary where that has a word for it."""
    known = "accuracy" if score_names.accuracy(text) else text
    return {"type": known, "name": score_names.label(text), "value": score.mean}


def _notes(record: Record, text: str, score: Score) -> str:
    error = "" if math.isnan(score.stderr) else f" ± {score.stderr:.4f} (standard error)"
    what = f"{score_names.label(text)}{error} over {score.n} test images of one net, seed {record.result.trial.seed}"
    strengths = [f"{k} {v:.6g}" for k, v in score.protocol.items() if isinstance(v, int | float)]
    return ", ".join([what, *strengths])


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
