"""Read run artifacts from MLflow: per-image scores (test.npz) and pictures (gallery.npz)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np
import pandas as pd

from harness.errors import UserError
from harness.storage import npz
from harness.tracking.mlflow_client import opened_reader

if TYPE_CHECKING:
    from mlflow import MlflowClient

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Files:
    """images: run id -> ranked score -> one value per test image. pictures: leaderboard row -> gallery arrays."""

    images: Mapping[str, Arrays] = field(default_factory=dict)
    pictures: Mapping[str, Arrays] = field(default_factory=dict)


def read(uri: str, tested: pd.DataFrame, ranked: str) -> Files:
    """The artifacts of these runs: per-image values of the score `ranked`, the pictures of each row's first seed.

    Missing artifacts are skipped. Raises `UserError` if the store cannot be read."""
    images, pictures = {}, {}
    with opened_reader(uri) as client:
        ordered = tested.sort_values(["row", "number"], kind="stable")
        for run in ordered[["run_id", "row", "artifacts"]].to_dict("records"):
            if arrays := _arrays(client, run, "test.npz", ranked):
                images[run["run_id"]] = arrays
            if run["row"] not in pictures and (arrays := _arrays(client, run, "gallery.npz")):
                pictures[run["row"]] = arrays
    return Files(images, pictures)


def _arrays(client: "MlflowClient", run: Mapping[str, object], name: str, only: str = "") -> dict[str, np.ndarray]:
    """The arrays of an artifact, or only one of them; empty if missing or damaged, since reports skip those."""
    from mlflow.exceptions import MlflowException

    try:
        return npz.read(_file(client, run, name), only)
    except (MlflowException, UserError, OSError):
        return {}


def _file(client: "MlflowClient", run: Mapping[str, object], name: str) -> Path:
    """Local path of an artifact, downloaded if remote. Local ones skip MLflow's client, which takes 25 ms each."""
    uri = str(run["artifacts"] or "")
    if uri.startswith(("/", "file:///")):
        return Path(unquote(uri.removeprefix("file://"))) / name
    return Path(client.download_artifacts(str(run["run_id"]), name))
