"""Data of one's own: arrays and data set objects of torch and Hugging Face become the same data; others are refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from harness.data import datasets
from harness.data.own import OwnData
from harness.data.settings import DataSource
from harness.errors import UserError

N, SIDE = 20, 6
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (N, 3, SIDE, SIDE), dtype=np.uint8)
Y = np.arange(N) % 4
NAMES = ("ant", "bee", "cat", "dog")


def test_every_image_keeps_its_label_box_and_mask(workspace):
    boxes = np.stack([np.arange(N) % 3, np.arange(N) % 2, np.arange(N) % 3 + 2, np.arange(N) % 2 + 3], 1)
    masks = RNG.integers(0, 2, (N, SIDE, SIDE))
    own = OwnData.from_arrays(X, Y, boxes, masks, test=(X[:4], Y[:4], boxes[:4], masks[:4]), classes=NAMES, name="mine")
    name = own.stored(workspace)
    data = datasets.load(DataSource(name), workspace)
    where = {X[i].tobytes(): i for i in range(N)}
    assert name.startswith("mine-") and data.classes == NAMES
    assert (len(data.train) + len(data.val), len(data.test)) == (N, 4)
    for split in (data.train, data.val, data.test):
        index = [where[image.numpy().tobytes()] for image in split.x]
        assert split.y.tolist() == Y[index].tolist()
        assert split.boxes.tolist() == boxes[index].tolist() and split.masks.tolist() == masks[index].tolist()


@pytest.mark.parametrize("test", [(X,), (X, Y, None, None, None)])
def test_a_test_part_of_another_number_of_columns_is_refused(test):
    with pytest.raises(UserError, match=rf"^test takes x and y, and perhaps boxes and masks, not {len(test)} arrays$"):
        OwnData.from_arrays(X, Y, test=test)


# ---- data set objects


class Rows:
    """What a Hugging Face data set is, as far as it is asked."""

    class Names:
        names = NAMES

    def __init__(self, image, label):
        self.image, self.label = image, label
        self.features = {label: self.Names()}

    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"id": i, self.image: Image.fromarray(X[i].transpose(1, 2, 0)), self.label: int(Y[i])}


class Pictures:
    """What a data set of torchvision is without a transform."""

    classes = NAMES

    def __len__(self):
        return N

    def __getitem__(self, i):
        return Image.fromarray(X[i].transpose(1, 2, 0)), int(Y[i])


@pytest.mark.parametrize(
    "given",
    [Rows("img", "fine_label"), Rows("image", "label"), Pictures()],
    ids=["rows, other names", "rows", "pictures"],
)
def test_an_object_gives_the_data_of_its_arrays(given, workspace):
    expected = OwnData.from_arrays(X, Y, classes=NAMES, name="mine").stored(workspace)
    assert OwnData.from_dataset(given, name="mine").stored(workspace) == expected


def test_a_torch_dataset_of_tensors_gives_the_data_of_its_arrays(workspace):
    given = TensorDataset(torch.from_numpy(X).float() / 255, torch.from_numpy(Y))
    expected = OwnData.from_arrays(X, Y, test=(X, Y), name="dataset").stored(workspace)
    assert OwnData.from_dataset(given, given).stored(workspace) == expected


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA"])
def test_pictures_of_every_mode_are_grey_or_in_colour(mode):
    picture = Image.fromarray(X[0].transpose(1, 2, 0)).convert(mode)
    x = OwnData.from_dataset([(picture, 0), (picture, 1)]).train.x
    assert x.shape == (2, 1 if mode in ("L", "1") else 3, SIDE, SIDE)
    expected = np.asarray(picture.convert("L" if mode in ("L", "1") else "RGB"))
    assert np.array_equal(x[0].transpose(1, 2, 0).squeeze(), expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (iter(X), "iterator has no length; give a data set whose items have numbers"),
        ([], "list is empty"),
        ({"a": 1}, "dict cannot be read: KeyError"),
        ([1, 2], "an item is a int, not an image and its label"),
        ([{"a": 1}], "one column of images and one of labels are needed; there are: a"),
        ([(X[0], 0), (X[1, :, 1:], 1)], "the images differ in shape"),
        ([(np.zeros((2, 2, 2, 2)), 0)], r"image 0 has the shape \(2, 2, 2, 2\), not that of an image"),
        ([(X[0], "ant")], "label 0 is 'ant', not a whole number"),
        ([(X[0], 0.5)], "label 0 is 0.5, not a whole number"),
    ],
)
def test_what_is_no_data_set_object_is_refused_in_one_line(given, said):
    with pytest.raises(UserError, match=said) as mistake:
        OwnData.from_dataset(given)
    assert "\n" not in str(mistake.value)
