"""Oxford's flowers, made small: every image is of one colour, which tells its number."""

import io

import numpy as np
import pytest
import scipy.io
from PIL import Image

from harness.data import datasets, readers
from harness.data.readers.flowers import KINDS, nonblue_mask, trimap_mask
from harness.data.settings import DataSource
from harness.errors import UserError

FLOWER, GROUND, BAND, BLUE = (128, 0, 0), (128, 128, 0), (0, 0, 0), (0, 0, 254)


def encoded(image, kind):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind)
    return buffer.getvalue()


def plain(number, side=4):
    """An image whose red tells its kind, and whose green and blue its place within the kind."""
    kind, index = divmod(number - 1, 80)
    return np.full((side, side, 3), (kind * 15, index // 9 * 28, index % 9 * 28), np.uint8)


def numbers(part):
    """What `plain` was given, from the images of a part; JPEG moves a colour by less than half of its step."""
    colours = part.x.reshape(len(part.x), 3, -1).mean(2)
    kind, nines, rest = np.rint(colours / (15, 28, 28)).astype(int).T
    return kind * 80 + nines * 9 + rest + 1


def painted(*rows):
    """A trimap from rows of letters: f flower, g ground, any other the band."""
    colours = {"f": FLOWER, "g": GROUND}
    return np.array([[colours.get(letter, BAND) for letter in row] for row in rows], np.uint8)


@pytest.fixture(scope="session")
def jpegs():
    """The 1,360 encoded images."""
    return {i: encoded(plain(i), "JPEG") for i in range(1, 1361)}


@pytest.fixture
def seventeen(tmp_path, jpegs):
    """A folder with Flower-17 in it, without trimaps."""
    folder = tmp_path / "data" / "flower17"
    (folder / "jpg").mkdir(parents=True)
    for i, data in jpegs.items():
        (folder / "jpg" / f"image_{i:04}.jpg").write_bytes(data)
    return folder


def read(folder, size=0):
    return readers.find(folder.name, folder.parent).read(size)


# 17 kinds


def test_seventeen_are_split_72_to_8_in_every_kind(seventeen):
    raw = read(seventeen)
    train, test = numbers(raw.train), numbers(raw.test)
    assert sorted([*train, *test]) == list(range(1, 1361))
    for part, each in ((raw.train, 72), (raw.test, 8)):
        assert np.bincount(part.y).tolist() == [each] * 17
        np.testing.assert_array_equal(part.y, (numbers(part) - 1) // 80)
    assert raw.train.masks is None and raw.train.boxes is None
    assert raw.classes == KINDS and KINDS[0] == "daffodil" and KINDS[16] == "pansy" and len(set(KINDS)) == 17
    np.testing.assert_array_equal(numbers(read(seventeen).test), test, "the split is the same every time")
    assert set(test[:8]) != {i - 80 for i in test[8:16]}, "each kind is shuffled anew"


def test_trimaps_become_masks_and_the_rest_is_unknown(seventeen):
    first, second = numbers(read(seventeen).train)[[0, 100]]
    (seventeen / "trimaps").mkdir()
    rows = ("gggg", "gbfb", "gbff", "gggb")
    coloured = Image.fromarray(painted(*rows))
    for number, image in ((first, coloured), (second, coloured.quantize(4))):  # as colours, and as a palette
        (seventeen / "trimaps" / f"image_{number:04}.png").write_bytes(encoded(image, "PNG"))
    scipy.io.savemat(seventeen / "trimaps" / "imlist.mat", {"imlist": np.array([[first, second]])})
    raw = read(seventeen)
    expected = [[{"f": 1, "g": 0}.get(letter, 255) for letter in row] for row in rows]
    found = raw.train.masks[np.isin(numbers(raw.train), [first, second])]
    assert found.tolist() == [expected] * 2
    assert (raw.train.masks == 255).all((1, 2)).sum() == 72 * 17 - 2 and raw.test.masks is None


def test_a_resized_trimap_holds_no_new_colour(seventeen):
    (seventeen / "trimaps").mkdir()
    left = painted(*["ffgg"] * 4)
    for i in range(1, 1361):
        (seventeen / "trimaps" / f"image_{i:04}.png").write_bytes(encoded(left, "PNG"))
    masks = read(seventeen, 10).test.masks
    assert masks.shape == (136, 10, 10) and masks[:, :, :5].all() and not masks[:, :, 5:].any()


def test_the_stamp_changes_with_a_trimap(seventeen):
    before = readers.find("flower17", seventeen.parent).stamp()
    (seventeen / "trimaps").mkdir()
    assert readers.find("flower17", seventeen.parent).stamp() == before
    (seventeen / "trimaps" / "image_0001.png").write_bytes(b"")
    assert readers.find("flower17", seventeen.parent).stamp() != before


def test_a_trimap_of_other_colours_is_refused():
    assert trimap_mask(painted("fgb").transpose(2, 0, 1)).tolist() == [[1, 0, 255]]
    with pytest.raises(ValueError, match=r"neither flower, \(128, 0, 0\)"):
        trimap_mask(np.full((3, 2, 2), 255, np.uint8))
    with pytest.raises(ValueError, match="neither flower"):
        trimap_mask(np.full((1, 2, 2), 128, np.uint8))


# 102 kinds


LABELS = np.array([2, 1, 3, 1, 2, 3, 1, 2])
SETS = {"trnid": [8, 1], "valid": [3, 6], "tstid": [2, 7, 4, 5]}


def many(folder, labels=LABELS, sets=SETS):
    """Flowers of three kinds in the files of the 102."""
    (folder / "jpg").mkdir(parents=True)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    scipy.io.savemat(folder / "setid.mat", {name: np.array(ids)[None] for name, ids in sets.items()})
    for i in range(1, len(LABELS) + 1):
        (folder / "jpg" / f"image_{i:05}.jpg").write_bytes(encoded(plain(i, side=16), "JPEG"))
    return folder


@pytest.mark.parametrize("nested", ["", "flowers-102"])
def test_many_kinds_by_their_sets(tmp_path, nested):
    many(tmp_path / "flower102" / nested)
    raw = read(tmp_path / "flower102")
    assert numbers(raw.train).tolist() == [8, 1, 3, 6] and numbers(raw.test).tolist() == [2, 7, 4, 5]
    assert raw.train.y.tolist() == [1, 1, 2, 2] and raw.test.y.tolist() == [0, 0, 0, 1]
    assert raw.train.y.dtype == np.int64 and raw.train.masks is None and raw.classes == ("1", "2", "3")


def test_many_kinds_agree_with_torchvision(tmp_path, monkeypatch):
    from harness.models.torchvision_import import torchvision

    theirs = torchvision.datasets.flowers102
    monkeypatch.setattr(theirs, "check_integrity", lambda path, md5: True)
    many(tmp_path / "flower102" / "flowers-102")
    raw = read(tmp_path / "flower102")
    for part, splits in ((raw.train, ("train", "val")), (raw.test, ("test",))):
        pairs = [pair for split in splits for pair in theirs.Flowers102(tmp_path / "flower102", split)]
        np.testing.assert_array_equal(part.x.transpose(0, 2, 3, 1), [np.asarray(image) for image, _ in pairs])
        assert part.y.tolist() == [y for _, y in pairs]


def test_names_are_given_where_all_102_kinds_are_there(tmp_path):
    many(tmp_path / "flower102", labels=np.array([102, 1, 3, 1, 2, 3, 1, 2]))
    classes = read(tmp_path / "flower102").classes
    assert len(classes) == 102 and classes[0] == "pink primrose" and classes[53] == "sunflower"


def test_blue_ground_of_segmentations_survives_jpeg(tmp_path):
    folder = many(tmp_path / "flower102")
    (folder / "segmim").mkdir()
    inside = np.zeros((16, 16), bool)
    inside[4:12, 2:9] = True
    image = np.where(inside[..., None], np.array((230, 120, 160), np.uint8), np.array(BLUE, np.uint8))
    for i in (1, 2):
        (folder / "segmim" / f"segmim_{i:05}.jpg").write_bytes(encoded(image, "JPEG"))
    raw = read(folder)
    (mask,) = raw.train.masks[numbers(raw.train) == 1]
    wrong = mask != inside
    assert wrong[1:3].sum() == 0 and wrong.mean() < 0.1, "JPEG blurs the colours of a pixel or two at the border"
    assert (raw.train.masks[numbers(raw.train) != 1] == 255).all()
    exact = np.where(inside, 1, 0)
    np.testing.assert_array_equal(nonblue_mask(image.transpose(2, 0, 1)), exact)


# Bad input


def without(*names):
    return lambda folder: folder.joinpath(*names).unlink()


def holding(data, *names):
    def put(folder):
        folder.joinpath(*names).parent.mkdir(exist_ok=True)
        folder.joinpath(*names).write_bytes(data)

    return put


PAGE = b"<!DOCTYPE html><html><body>404</body></html>"
WHITE = encoded(np.full((4, 4, 3), 255, np.uint8), "PNG")

BAD_17 = {
    "image missing": (without("jpg", "image_0007.jpg"), ["image_0007.jpg", "is missing", "0 more of the"]),
    "page for an image": (holding(PAGE, "jpg", "image_0007.jpg"), ["image_0007.jpg", "not an image"]),
    "page for a trimap": (holding(PAGE, "trimaps", "image_0007.png"), ["image_0007", "not an image"]),
    "white trimap": (holding(WHITE, "trimaps", "image_0007.png"), ["image_0007", "neither flower"]),
}
BAD_102 = {
    "no labels": (without("imagelabels.mat"), ["imagelabels.mat", "No such file"]),
    "no sets": (without("setid.mat"), ["setid.mat", "No such file"]),
    "page for labels": (holding(PAGE, "imagelabels.mat"), ["imagelabels.mat", "'labels'"]),
    "other matrix": (lambda f: scipy.io.savemat(f / "setid.mat", {"a": [1]}), ["setid.mat", "'trnid'"]),
    "empty set": (lambda f: scipy.io.savemat(f / "setid.mat", SETS | {"tstid": []}), ["setid.mat", "'tstid'", "empty"]),
    "label 0": (lambda f: scipy.io.savemat(f / "imagelabels.mat", {"labels": LABELS - 1}), ["label 0", "from 1"]),
    "few labels": (lambda f: scipy.io.savemat(f / "imagelabels.mat", {"labels": [1, 2]}), ["image 8", "2 images"]),
    "image missing": (without("jpg", "image_00003.jpg"), ["image_00003.jpg", "is missing"]),
}


def refused(workspace, name):
    with pytest.raises(UserError) as error:
        datasets.load(DataSource(name), workspace)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("case", BAD_17)
def test_bad_files_of_17_are_one_line(workspace, seventeen, case):
    spoil, said = BAD_17[case]
    spoil(seventeen)
    message = refused(workspace, "flower17")
    assert all(words in message for words in said), message


@pytest.mark.parametrize("case", BAD_102)
def test_bad_files_of_102_are_one_line(workspace, case):
    spoil, said = BAD_102[case]
    spoil(many(workspace.data / "flower102"))
    message = refused(workspace, "flower102")
    assert all(words in message for words in said), message


def test_what_the_folders_may_hold_is_said(workspace):
    workspace.data.mkdir()
    assert "there is no folder" in refused(workspace, "flower17") and "image_1360.jpg" in refused(workspace, "flower17")
    assert "imagelabels.mat" in refused(workspace, "flower102")
    assert "did you mean 'flower102'?" in refused(workspace, "flowers102")
