"""What every data set of a plug-in promises."""

import tempfile
from pathlib import Path

import numpy as np

from harness.config.trial import build
from harness.contracts.promise import Promise, require
from harness.data import datasets
from harness.data.readers import EMBEDDED
from harness.data.readers.common import Part, Raw
from harness.storage.workspace import Workspace


def _parts(raw: Raw) -> dict[str, Part]:
    """Its parts by name; a data set may have no test part."""
    return {"train": raw.train} | ({"test": raw.test} if raw.test else {})


def its_images_are_uint8_with_labels_of_its_classes(name: str) -> None:
    for what, part in _parts(EMBEDDED.find(name)(0)).items():
        good = part.x.dtype == np.uint8 and part.x.ndim == 4 and part.x.shape[1] in (1, 3)
        require(good, f"{name}: {what}.x is {part.x.dtype} {part.x.shape}, not uint8 (N, 1 or 3, H, W)")
        same = part.y.dtype == np.int64 and part.y.shape == (len(part.x),)
        require(same, f"{name}: {what}.y is {part.y.dtype} {part.y.shape}, not int64 ({len(part.x)},)")
        if part.boxes is not None:
            good = part.boxes.dtype == np.int16 and part.boxes.shape == (len(part.x), 4)
            require(good, f"{name}: {what}.boxes is {part.boxes.dtype} {part.boxes.shape}, not int16 (N, 4)")
        if part.masks is not None:
            good = part.masks.dtype == np.uint8 and part.masks.shape == (len(part.x), *part.x.shape[2:])
            require(good, f"{name}: {what}.masks is {part.masks.dtype} {part.masks.shape}, not uint8 (N, H, W)")


def it_is_the_same_each_time_it_is_read(name: str) -> None:
    one, two = _parts(EMBEDDED.find(name)(0)), _parts(EMBEDDED.find(name)(0))
    same = all(np.array_equal(one[w].x, two[w].x) and np.array_equal(one[w].y, two[w].y) for w in one)
    require(same, f"{name}: gives other images each time; seed what is random")


def it_is_resized_if_that_is_asked_for(name: str) -> None:
    shape = EMBEDDED.find(name)(16).train.x.shape[2:]
    require(shape == (16, 16), f"{name}: gives {shape} images where 16x16 are asked for; see readers.images.resized")


def its_defaults_make_a_trial_that_loads_it(name: str) -> None:
    trial = build({"data": name})
    with tempfile.TemporaryDirectory() as folder:
        datasets.load(trial.data, Workspace(out=Path(folder, "runs"), data=Path(folder, "data")))


CONTRACT: tuple[Promise, ...] = (
    its_images_are_uint8_with_labels_of_its_classes,
    it_is_the_same_each_time_it_is_read,
    it_is_resized_if_that_is_asked_for,
    its_defaults_make_a_trial_that_loads_it,
)
