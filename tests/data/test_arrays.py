"""Arrays in memory come back to the bit, from the files that another process reads."""

import os

import numpy as np
import pytest
import torch
from small_data import noise

from harness.data.arrays import Arrays, from_arrays
from harness.data.datasets import load
from harness.data.settings import DataSource
from harness.errors import UserError


def pixels(n=10, channels=3, side=8, seed=0):
    return noise(n, side, side, seed).transpose(0, 3, 1, 2)[:, :channels]


def arrays(n=10, seed=0, **more):
    return Arrays(pixels(n, seed=seed), np.arange(n) % 2, **more)


BOXES = np.array([[i % 4, 1, 5 + i % 3, 7] for i in range(10)])
MASKS = np.random.default_rng(0).choice([0, 1, 255], (10, 8, 8))
KINDS = {
    "uint8": (pixels(), np.arange(10) % 2),
    "grey": (pixels(channels=1), np.arange(10) % 2),
    "tensors": (torch.from_numpy(pixels().copy()), torch.arange(10) % 2),
    "single precision": (pixels().astype(np.float32) / 255, np.arange(10, dtype=np.int32) % 2),
    "double precision": (pixels() / 255, np.arange(10) % 2 == 1),
}


def together(data, column):
    """A column of all training images, held out or not, sorted by their pixels."""
    parts = [getattr(part, column) for part in (data.train, data.val)]
    order = sorted(range(10), key=lambda i: torch.cat([data.train.x, data.val.x])[i].numpy().tobytes())
    return torch.cat(parts)[order].numpy()


def by_pixels(x, column):
    return np.stack([column[i] for i in sorted(range(len(x)), key=lambda i: x[i].tobytes())])


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_come_back_to_the_bit(workspace, kind):
    x, y = KINDS[kind]
    source = DataSource(from_arrays(Arrays(x, y, BOXES, MASKS), Arrays(x, y), workspace))
    data = load(source, workspace)
    expected = pixels(channels=np.shape(x)[1])
    for column, values in (("x", expected), ("y", np.arange(10) % 2), ("boxes", BOXES), ("masks", MASKS)):
        np.testing.assert_array_equal(together(data, column), by_pixels(expected, values))
    assert data.classes == ("0", "1") and data.test.boxes is None


def test_a_mask_of_unknown_pixels_alone_stays_unknown(workspace):
    masks = np.where(MASKS == 1, 0, MASKS)
    data = load(DataSource(from_arrays(arrays(masks=masks), arrays(4, 1), workspace)), workspace)
    assert set(data.train.masks.unique().tolist()) == {0, 255}


def test_equal_arrays_are_stored_once_and_others_elsewhere(workspace):
    name = from_arrays(arrays(), arrays(4, 1), workspace, classes=["no", "yes"])
    files = sorted((workspace.data / name).iterdir())
    stored = [os.stat(file).st_mtime_ns for file in files]
    assert from_arrays(arrays(), arrays(4, 1), workspace, classes=["no", "yes"]) == name
    assert [os.stat(file).st_mtime_ns for file in files] == stored and [file.stem for file in files] == [
        "test",
        "train",
    ]
    assert load(DataSource(name), workspace).classes == ("no", "yes")
    one_more = arrays()
    one_more.x[3, 0, 0, 0] ^= 1
    others = [
        from_arrays(one_more, arrays(4, 1), workspace, classes=["no", "yes"]),
        from_arrays(arrays(), arrays(4, 2), workspace, classes=["no", "yes"]),
        from_arrays(arrays(), arrays(4, 1), workspace, classes=["yes", "no"]),
        from_arrays(arrays(boxes=BOXES), arrays(4, 1), workspace, classes=["no", "yes"]),
        from_arrays(arrays(), None, workspace, classes=["no", "yes"]),
        from_arrays(arrays(), arrays(4, 1), workspace, classes=["no", "yes"], name="mine"),
    ]
    assert len({name, *others}) == 7 and others[-1].startswith("mine-")


def test_a_test_part_is_drawn_where_there_is_none(workspace):
    name = from_arrays(arrays(), None, workspace)
    assert len(load(DataSource(name, test_share=0.3), workspace).test) == 3


BAD = {
    "channels last": (
        {"x": noise(10)},
        "train.x must be (N, C, H, W) with 1 or 3 channels, not (10, 8, 8, 3); put",
    ),
    "no channels": ({"x": noise(10)[..., 0]}, "train.x must be (N, C, H, W) with 1 or 3 channels, not (10, 8, 8)"),
    "no images": ({"x": pixels()[:0]}, "not (0, 3, 8, 8)"),
    "floats to 255": (
        {"x": pixels().astype(float)},
        "has values from 0 to 255, and floats are in [0, 1]; give them",
    ),
    "normalised": ({"x": pixels() / 128 - 1.0}, "floats are in [0, 1]; undo the normalisation"),
    "not a number": ({"x": pixels() / 255 * np.nan}, "has values from nan to nan"),
    "between levels": ({"x": pixels() / 255 * 0.7}, "has values between the 256 levels of an 8-bit image"),
    "whole numbers": ({"x": pixels().astype(np.int64)}, "must be uint8, or floats in [0, 1], not int64"),
    "labels of another length": ({"y": [0, 1]}, "train.y must have the shape (10,), not (2,)"),
    "one-hot labels": ({"y": np.eye(10)}, "train.y must have the shape (10,), not (10, 10)"),
    "fractional labels": ({"y": np.arange(10) / 2}, "train.y must be whole numbers, not float64"),
    "negative labels": ({"y": np.arange(10) - 1}, "train.y must lie in 0 to 2147483647, and goes from -1 to 8"),
    "boxes of five": ({"boxes": np.zeros((10, 5), int)}, "train.boxes must have the shape (10, 4), not (10, 5)"),
    "boxes outside": ({"boxes": BOXES + 4}, "train.boxes must lie in 0 to 7, and goes from 4 to 11"),
    "boxes as sides": (
        {"boxes": BOXES[:, ::-1]},
        "train.boxes[0] is [7, 5, 1, 0], no box x1, y1, x2, y2 in 8x8",
    ),
    "masks of 2": ({"masks": MASKS * 0 + 2}, "train.masks has the value 2; there are 0 background, 1 object, 255"),
    "masks with channels": ({"masks": MASKS[:, None]}, "must have the shape (10, 8, 8), not (10, 1, 8, 8)"),
    "gradients": ({"x": torch.zeros(10, 3, 8, 8, requires_grad=True)}, "of a type of NumPy and without gradients"),
    "a type of torch alone": ({"x": torch.zeros(10, 3, 8, 8).bfloat16()}, "tensors on the CPU, of a type of NumPy"),
    "ragged": ({"x": [[1], [1, 2]]}, "arrays must be NumPy arrays or tensors"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_an_array_is_said_in_one_line(workspace, case):
    change, said = BAD[case]
    with pytest.raises(UserError) as error:
        from_arrays(Arrays(**{"x": pixels(), "y": np.arange(10) % 2, **change}), None, workspace)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not workspace.data.exists() or not list(workspace.data.iterdir())


@pytest.mark.parametrize("name", ["", "a/b", "../mine", "/mine", "..", ".hidden", "-x"])
def test_a_name_that_leads_out_of_the_data_root_is_refused(workspace, name):
    with pytest.raises(UserError, match="the name of arrays is that of a folder in the data root, such as 'a"):
        from_arrays(arrays(), None, workspace, name=name)
    assert not any(workspace.data.parent.rglob("*.parquet"))


def test_labels_beyond_the_names_and_a_root_that_is_no_folder_are_mistakes(workspace):
    with pytest.raises(UserError, match="arrays have labels up to 1, but 1 classes"):
        from_arrays(arrays(), None, workspace, classes=["one"])
    workspace.data.write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*; existing data is unchanged"):
        from_arrays(arrays(), None, workspace)
