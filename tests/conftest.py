import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run beside workers; and sums in one order are the same sums

import pytest
import torch

from harness.config import build
from harness.place import Place

QUICK = {
    "epochs": 2,
    "data.limit": 96,
    "measure.eps": (16 / 255,),
    "measure.steps": 2,
    "measure.watch": 1,
}


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_place(tmp_path_factory):
    """A place that tests may share where they only add to it."""
    return Place(tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("data")).writable()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "out", tmp_path / "data").writable()


@pytest.fixture
def quick():
    """A function from settings to a trial of a second or less."""
    return lambda **settings: build({**QUICK, **{k.replace("__", "."): v for k, v in settings.items()}})


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A tracking database with its tables and nothing in them: making those takes seconds, copying does not."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def fresh(tmp_path, empty_store):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
