"""Result of a trial, and its files in the trial's folder (result.json, val.npz, test.npz)."""

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.config.trial import Trial
from harness.data.datasets import Data
from harness.errors import UserError
from harness.evaluation.checks.evidence import Check
from harness.evaluation.scores import Ledger, Score, save_images
from harness.storage import provenance
from harness.storage.sealed_json import read_json, write_json
from harness.storage.weights import load_weights
from harness.storage.workspace import Workspace
from harness.training.epoch_metrics import EpochMetrics
from harness.trials import test_evaluations

RESULT = "result.json"
GALLERY = "gallery.npz"  # pictures of test images
TEST_EVALUATIONS = "touches"  # their key in result.json


@dataclass(frozen=True)
class Result:
    """Result of a trial. scores: `val/...`, and `test/...` after the test, without per-image values.

    rows: metrics per epoch. seconds: device time by phase. test_evaluations: number of measurements on the test images.
    checks: verdicts of `harness.evaluation.checks` on the test scores. damaged: images of a part that were left out.
    """

    trial: Trial
    scores: list[Score]
    rows: list[EpochMetrics]
    seconds: dict[str, float]
    checksums: dict[str, str]
    machine: dict[str, str] = field(default_factory=dict)
    test_evaluations: int = 0
    checks: list[Check] = field(default_factory=list)
    damaged: dict[str, int] = field(default_factory=dict)

    def score(self, name: str) -> Score | None:
        return next((s for s in self.scores if s.name == name), None)

    def without_images(self) -> "Result":
        """The result without values per image, which are stored in its folder."""
        return dataclasses.replace(self, scores=[dataclasses.replace(s, per_example=None) for s in self.scores])

    def of(self, split: str) -> list[Score]:
        """The scores on a split."""
        return [s for s in self.scores if s.name.startswith(f"{split}/")]


def record_test_evaluation(result: Result, workspace: Workspace) -> Result:
    """Count one more test evaluation of the trial, before it begins."""
    folder = workspace.trial(result.trial.key)
    return dataclasses.replace(result, test_evaluations=test_evaluations.record(folder, result.test_evaluations))


def store_result(result: Result, folder: Path, part: str = "") -> None:
    """Write result.json, and the per-image scores of `part` (`val` or `test`) to PART.npz."""
    if part:
        save_images(folder / f"{part}.npz", (s for s in result.scores if s.name.startswith(part)))
    stored_as = {"test_evaluations": TEST_EVALUATIONS}
    record = {stored_as.get(f.name, f.name): getattr(result, f.name) for f in dataclasses.fields(result)}
    record["trial"] = result.trial.flat()
    record["scores"] = [s.record() for s in result.scores]
    record["checks"] = [vars(c) for c in result.checks]
    write_json(folder / RESULT, record)
    if part:
        Ledger(folder / f"measuring-{part}").clear()


def decode_result(record: Mapping[str, Any], trial: Trial) -> Result:
    """Decode the JSON object of `store_result`. Raises KeyError or TypeError for any other object."""
    fields = dict(record)
    fields["test_evaluations"] = fields.pop(TEST_EVALUATIONS, 0)
    fields["scores"] = [Score(**s) for s in fields["scores"]]
    fields["checks"] = [Check(**c) for c in fields["checks"]]
    return Result(**{**fields, "trial": trial})


def load_result(trial: Trial, folder: Path, data: Data) -> Result | None:
    """The result in a trial's folder; None if it is not trained yet. Raises `UserError` if the data differ."""
    record = read_json(folder / RESULT)
    if record is None:
        return None
    try:
        result = decode_result(record, trial)
    except (KeyError, TypeError):
        raise UserError(
            f"{str(folder / 'result.json')!r} is not a trial's result; remove the folder and it runs again"
        ) from None
    check_same_data(result.checksums, trial, folder, data)
    return dataclasses.replace(result, test_evaluations=test_evaluations.count(folder, result.test_evaluations))


def weights_fault(folder: Path) -> str:
    """Why the weights in a trial's folder cannot be measured, in one line; "" if they can."""
    try:
        load_weights(folder / "weights.pt", hint="")
    except UserError as error:
        return str(error)
    return ""


def check_same_data(checksums: dict[str, str], trial: Trial, folder: Path, data: Data) -> None:
    """Raise `UserError` if the stored trial used other data of the same name, by checksum."""
    if checksums != data.checksums:
        raise UserError(
            f"data {trial.data.name!r} has changed since trial {trial.key} was run under {str(folder.parent.parent)!r};"
            " choose another --out"
        )


def describe_machine(device: str) -> dict[str, str]:
    """Hardware, threads, package versions and git commit, stored with a result."""
    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine()
    )
    return {
        "device": f"{device} ({name})",
        "cpu": torch.backends.cpu.get_cpu_capability(),  # instruction set: it changes the rounding of sums
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **provenance.code(),
    }
