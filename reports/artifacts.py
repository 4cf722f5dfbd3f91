"""Files that runs keep in MLflow: one number per image and score, and pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np
import pandas as pd

from harness import arrays
from harness.errors import Mistake
from reports import selection
from reports.runs import opened

if TYPE_CHECKING:
    from mlflow import MlflowClient

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Files:
    """images: run id -> the ranked score -> one number per test image. pictures: row of the board -> its gallery's."""

    images: Mapping[str, Arrays] = field(default_factory=dict)
    pictures: Mapping[str, Arrays] = field(default_factory=dict)


def read(uri: str, runs: pd.DataFrame) -> Files:
    """The files of the runs that count; the pictures of each row's first seed. What is not there is left out.

    Raises `Mistake` where the store cannot be read."""
    counted, ranked = selection.tested(runs), selection.ranked_by(runs)
    images, pictures = {}, {}
    with opened(uri) as client:
        ordered = counted.sort_values(["row", "number"], kind="stable")
        for run in ordered[["run_id", "row", "artifacts"]].to_dict("records"):
            if found := _arrays(client, run, "test.npz", ranked):
                images[run["run_id"]] = found
            if run["row"] not in pictures and (found := _arrays(client, run, "gallery.npz")):
                pictures[run["row"]] = found
    return Files(images, pictures)


def _arrays(client: "MlflowClient", run: Mapping[str, object], name: str, only: str = "") -> dict[str, np.ndarray]:
    """The arrays of an artifact, or one alone; none where it is missing or damaged: a report shows what there is."""
    from mlflow.exceptions import MlflowException

    try:
        return arrays.read(_file(client, run, name), only)
    except (MlflowException, Mistake, OSError):
        return {}


def _file(client: "MlflowClient", run: Mapping[str, object], name: str) -> Path:
    """Where the artifact lies on this machine, fetched if need be; asking MLflow takes 25 ms even where it need not."""
    where = str(run["artifacts"] or "")
    if where.startswith(("/", "file:///")):
        return Path(unquote(where.removeprefix("file://"))) / name
    return Path(client.download_artifacts(run["run_id"], name))
