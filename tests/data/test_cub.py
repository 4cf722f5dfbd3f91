"""Birds in CUB's own lists, written by hand: what is read must be what was listed."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from harness.data import datasets, readers
from harness.data.settings import DataSource
from harness.errors import UserError

# number: file, class, training or not, box x y width height
BIRDS = {
    "1": ("001.Ibis/Ibis_1.jpg", "1", "1", "0.0 0.0 12.0 8.0"),
    "2": ("001.Ibis/Ibis_2.jpg", "1", "0", "3.0 2.0 4.0 5.0"),
    "3": ("002.Kite/Kite_1.jpg", "2", "1", "2.5 1.0 3.0 2.5"),
    "10": ("002.Kite/Kite_2.jpg", "2", "0", "11.0 7.0 40.0 1.0"),
    "11": ("002.Kite/Kite_3.jpg", "2", "1", "1.0 1.0 2.0 2.0"),
}
LISTS = {"images.txt": 0, "image_class_labels.txt": 1, "train_test_split.txt": 2, "bounding_boxes.txt": 3}


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def picture(number):
    """A 12x8 image of noise."""
    return np.random.default_rng(int(number)).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def cub(folder):
    """The lists and images of BIRDS; a PNG under a name that ends in jpg keeps every pixel."""
    folder.mkdir(parents=True)
    for name, column in LISTS.items():
        (folder / name).write_text("".join(f"{n} {bird[column]}\n" for n, bird in BIRDS.items()))
    (folder / "classes.txt").write_text("1 001.Ibis\n2 002.Kite\n")
    for number, (name, *_) in BIRDS.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(encoded(picture(number)))
    return folder


def segmented(folder, number, grey):
    path = (folder / BIRDS[number][0]).with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(grey))


def read(root, size=0):
    return readers.find("cub", root).read(size)


@pytest.mark.parametrize("nested", ["", "CUB_200_2011"])
def test_birds_are_those_of_the_lists(tmp_path, nested):
    cub(tmp_path / "cub" / nested)
    raw = read(tmp_path)
    for part, chosen in ((raw.train, ("1", "3", "11")), (raw.test, ("2", "10"))):
        np.testing.assert_array_equal(part.x.transpose(0, 2, 3, 1), [picture(n) for n in chosen])
        assert part.y.tolist() == [int(BIRDS[n][1]) - 1 for n in chosen] and part.masks is None
    assert raw.classes == ("Ibis", "Kite")
    # All pixels that a box touches; what hangs over the edge is cut off.
    assert raw.train.boxes.tolist() == [[0, 0, 11, 7], [2, 1, 5, 3], [1, 1, 2, 2]]
    assert raw.test.boxes.tolist() == [[3, 2, 6, 6], [11, 7, 11, 7]]
    assert raw.test.boxes.dtype == np.int16


def test_proportions_are_ignored_and_boxes_come_along(tmp_path):
    cub(tmp_path / "cub")
    raw = read(tmp_path, 24)
    assert raw.train.x.shape == (3, 3, 24, 24)
    # Twice as wide, three times as high.
    assert raw.train.boxes.tolist() == [[0, 0, 23, 23], [4, 3, 11, 11], [2, 3, 5, 8]]


@pytest.mark.parametrize("beside", [False, True])
def test_masks_are_what_most_annotators_saw(tmp_path, beside):
    base = cub(tmp_path / "cub" / "CUB_200_2011")
    folder = (base.parent if beside else base) / "segmentations"
    shares = np.random.default_rng(0).integers(0, 6, (8, 12), dtype=np.uint8)  # of five annotators
    segmented(folder, "3", shares * 51)
    segmented(folder, "2", np.dstack([shares * 51] * 3))
    raw = read(tmp_path)
    np.testing.assert_array_equal(raw.train.masks[1], shares >= 3)
    np.testing.assert_array_equal(raw.test.masks[0], shares >= 3)
    assert (raw.train.masks[[0, 2]] == 255).all() and (raw.test.masks[1] == 255).all()


def test_the_stamp_changes_with_lists_images_and_masks(tmp_path):
    folder = cub(tmp_path / "cub")
    seen = [readers.find("cub", tmp_path).stamp()]
    for path in (folder / "bounding_boxes.txt", folder / "images" / BIRDS["1"][0], folder / "segmentations" / "a.png"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"longer than before, or new" * 99)
        seen.append(readers.find("cub", tmp_path).stamp())
    assert len(set(seen)) == 4 and readers.find("cub", tmp_path).stamp() == seen[-1]


def test_a_box_is_cropped_with_its_image(workspace):
    cub(workspace.data / "cub")
    data = datasets.load(DataSource("cub", size=16, crop=10, val=0.4), workspace)
    whole = datasets.load(DataSource("cub", size=16, val=0.4), workspace)
    assert data.train.x.shape == (2, 3, 16, 16) and data.val.x.shape == (1, 3, 10, 10)
    assert (data.test.x == whole.test.x[:, :, 3:13, 3:13]).all()
    # In 16x16 the boxes are (4, 4, 9, 13) and (14, 14, 15, 15); 3 pixels are cut away on each side.
    assert sorted(whole.test.boxes.tolist()) == [[4, 4, 9, 13], [14, 14, 15, 15]]
    assert sorted(data.test.boxes.tolist()) == [[1, 1, 6, 9], [9, 9, 9, 9]]


PAGE = "<!DOCTYPE html>\n<html><body>Not Found</body></html>\n"


def texts(name, text):
    return lambda folder: (folder / name).write_text(text)


def replaced(name, old, new):
    def spoil(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return spoil


def bad_mask(folder):
    (folder / "segmentations/001.Ibis").mkdir(parents=True)
    (folder / "segmentations/001.Ibis/Ibis_1.png").write_text(PAGE)


BAD = {
    "no boxes": (lambda f: (f / "bounding_boxes.txt").unlink(), ["bounding_boxes.txt", "No such file"]),
    "no images": (lambda f: shutil.rmtree(f / "images"), ["Ibis_1.jpg", "No such file"]),
    "no list of images": (lambda f: (f / "images.txt").unlink(), ["images.txt", "No such file"]),
    "page for a list": (texts("images.txt", PAGE), ["images.txt", "'<!DOCTYPE' instead of a number"]),
    "page for an image": (texts("images/002.Kite/Kite_1.jpg", PAGE), ["Kite_1.jpg", "not an image"]),
    "page for a mask": (bad_mask, ["Ibis_1.jpg", "not an image"]),
    "empty list": (texts("images.txt", "\n"), ["images.txt", "0 lines"]),
    "line cut off": (replaced("images.txt", "3 002.Kite/Kite_1.jpg", "3"), ["images.txt", "'3'", "2 fields"]),
    "number twice": (replaced("images.txt", "10 ", "3 "), ["images.txt", "5 lines", "4 different"]),
    "label missing": (replaced("image_class_labels.txt", "10 2\n", ""), ["has 4 images", "images.txt 5", "'10'"]),
    "label too many": (replaced("image_class_labels.txt", "11 2", "11 2\n12 2"), ["has 6 images", "'12'"]),
    "unknown class": (replaced("image_class_labels.txt", "10 2", "10 3"), ["image 10", "class '3'", "classes.txt"]),
    "split of another kind": (replaced("train_test_split.txt", "10 0", "10 2"), ["image 10", "'2' instead of 1"]),
    "no test images": (replaced("train_test_split.txt", " 0\n", " 1\n"), ["train_test_split.txt", "part empty"]),
    "box of words": (replaced("bounding_boxes.txt", "2.5 1.0", "x 1.0"), ["bounding_boxes.txt", "x 1.0 3.0 2.5"]),
    "box of three": (replaced("bounding_boxes.txt", " 3.0 2.5", " 3.0"), ["bounding_boxes.txt", "2.5 1.0 3.0"]),
    "box without end": (replaced("bounding_boxes.txt", "2.5 1.0", "inf 1.0"), ["bounding_boxes.txt", "inf"]),
    "box of no width": (replaced("bounding_boxes.txt", "3.0 2.5", "0.0 2.5"), ["bounding_boxes.txt", "0.0 2.5"]),
    "box outside": (replaced("bounding_boxes.txt", "2.5 1.0", "12 1.0"), ["Kite_1.jpg", "nothing inside the 12x8"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line(workspace, case):
    spoil, said = BAD[case]
    spoil(cub(workspace.data / "cub"))
    with pytest.raises(UserError) as error:
        datasets.load(DataSource("cub", size=16), workspace)
    message = str(error.value)
    assert "\n" not in message and all(words in message for words in said), message


def test_what_the_folder_may_hold_is_said(workspace):
    (workspace.data / "cub").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is empty; it may hold .*train_test_split\.txt"):
        datasets.load(DataSource("cub"), workspace)
