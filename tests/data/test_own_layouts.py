"""Folders of one's own, in the layouts in which people have them, are found and read as what they are."""

import json
import shutil
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_data import column, encoded, noise, write

from harness.data import datasets, readers
from harness.data.datasets import checksum, load
from harness.data.settings import DataSource
from harness.errors import Notice, UserError

TRAIN, TEST = noise(9, seed=0), noise(6, seed=1)
LABELS = [0, 1, 2] * 3
NAMES = ("ant", "bee", "cat")


def pngs(images):
    return [encoded(image) for image in images]


def parquet(path, images, labels=None, names=NAMES, **more):
    write(path, pngs(images), LABELS[: len(images)] if labels is None else labels, names, **more)


def plain_parquet(root):
    parquet(root / "mine/train-00000-of-00001.parquet", TRAIN)
    parquet(root / "mine/test-00000-of-00001.parquet", TEST)


def hub_configuration(root):
    parquet(root / "mine/plain_text/train-00000-of-00001.parquet", TRAIN)
    parquet(root / "mine/plain_text/test-00000-of-00001.parquet", TEST)
    (root / "mine/.cache/huggingface").mkdir(parents=True)
    (root / "mine/README.md").write_text("---\ndataset_info: ...\n")


def hub_configuration_of_shards(root):
    for shard, part in enumerate((np.s_[:4], np.s_[4:])):
        path = root / f"mine/cropped_digits/train-0000{shard}-of-00002.parquet"
        parquet(path, TRAIN[part], LABELS[part])
    parquet(root / "mine/cropped_digits/test-00000-of-00001.parquet", TEST)


def hub_conversion(root):
    for shard, part in enumerate((np.s_[:4], np.s_[4:])):
        parquet(root / f"mine/default/train/000{shard}.parquet", TRAIN[part], LABELS[part])
    parquet(root / "mine/default/test/0000.parquet", TEST)


def folders_of_parts(root):
    parquet(root / "mine/train/0000.parquet", TRAIN)
    parquet(root / "mine/validation/0000.parquet", TEST)


def image_folder(root, test="test", suffix=".png", under=""):
    for part, images in (("train", TRAIN), (test, TEST)):
        for i, (image, label) in enumerate(zip(images, LABELS, strict=False)):
            path = root / "mine" / part / NAMES[label] / under / f"{i}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(image, {".BMP": "BMP", ".ppm": "PPM"}.get(suffix, "PNG")))
    (root / "mine/train/ant/Thumbs.db").write_bytes(b"no image")
    (root / "mine/train/.hidden").mkdir()


def text_labels(root):
    for part, images in (("train", TRAIN), ("test", TEST)):
        names = [NAMES[label] for label in LABELS[: len(images)]]
        parquet(root / f"mine/{part}-0.parquet", images, names, None)


def dictionary_labels(root):
    for part, images in (("train", TRAIN), ("test", TEST)):
        names = pa.array([NAMES[label] for label in LABELS[: len(images)]]).dictionary_encode()
        parquet(root / f"mine/{part}-0.parquet", images, names, None)


def unlabelled_test(root, labels=(-1,) * 6):
    parquet(root / "mine/train-0.parquet", TRAIN)
    parquet(root / "mine/validation-0.parquet", TEST)
    parquet(root / "mine/test-0.parquet", noise(6, seed=5), pa.array(list(labels), pa.int64()))


def without_label_column(root):
    unlabelled_test(root)
    table = pq.read_table(root / "mine/test-0.parquet").drop_columns(["label"])
    pq.write_table(table, root / "mine/test-0.parquet")


def image_folder_with_unlabelled_test(root):
    image_folder(root, "val")
    (root / "mine/test").mkdir()
    (root / "mine/test/1.png").write_bytes(encoded(TEST[0]))


def with_files_of_macos(root):
    hub_conversion(root)
    for part in ("train", "test"):
        (root / f"mine/default/{part}/._0000.parquet").write_bytes(b"\0\5\x16\7")


def with_one_unlabelled_folder(root):
    image_folder(root, "val")
    (root / "mine/test/unknown").mkdir(parents=True)
    (root / "mine/test/unknown/1.png").write_bytes(encoded(TEST[0]))


def links_to_folders(root):
    """At each depth; one leads back to a folder above it."""
    image_folder(root)
    for part in ("train", "test"):
        for name in NAMES:
            moved = shutil.move(root / "mine" / part / name, root / f"elsewhere-{part}-{name}")
            (root / "mine" / part / name).mkdir()
            (root / "mine" / part / name / "here").symlink_to(moved)
    (root / "mine/train/ant/again").symlink_to(root / "mine/train")


LAYOUTS = {
    "plain parquet": plain_parquet,
    "the Hub's plain_text": hub_configuration,
    "the Hub's configuration, in shards": hub_configuration_of_shards,
    "the Hub's conversion": hub_conversion,
    "folders of parts": folders_of_parts,
    "ImageFolder": image_folder,
    "ImageFolder with val": lambda root: image_folder(root, "val"),
    "ImageFolder with Validation": lambda root: image_folder(root, "Validation"),
    "ImageFolder of BMP": lambda root: image_folder(root, suffix=".BMP"),
    "ImageFolder of JFIF": lambda root: image_folder(root, suffix=".jfif"),
    "ImageFolder of links": links_to_folders,
    "ImageFolder with one unlabelled folder of test": with_one_unlabelled_folder,
    "files of macOS": with_files_of_macos,
    "ImageFolder, nested": lambda root: image_folder(root, under="images"),
    "labels as text": text_labels,
    "labels as a dictionary": dictionary_labels,
    "test of labels -1": unlabelled_test,
    "test without labels": lambda root: unlabelled_test(root, [None] * 6),
    "test without a column of labels": without_label_column,
    "ImageFolder with unlabelled test": image_folder_with_unlabelled_test,
}


def numbered(part, by):
    """The positions in `by` of the images of a part."""
    where = {image.tobytes(): i for i, image in enumerate(by)}
    return [where[np.asarray(image).transpose(1, 2, 0).tobytes()] for image in part.x]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_data(tmp_path, layout):
    LAYOUTS[layout](tmp_path)
    raw = readers.find("mine", tmp_path).read(0)
    assert raw.classes == NAMES
    for part, images in ((raw.train, TRAIN), (raw.test, TEST)):
        numbers = numbered(part, images)
        assert sorted(numbers) == list(range(len(images)))
        assert part.y.tolist() == [LABELS[number] for number in numbers]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "ImageFolder" not in name])
def test_rows_keep_their_order_whatever_the_folders_are(tmp_path, layout):
    LAYOUTS[layout](tmp_path)
    raw = readers.find("mine", tmp_path).read(0)
    assert numbered(raw.train, TRAIN) == list(range(9)) and numbered(raw.test, TEST) == list(range(6))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "unlabelled" in name or "test " in name])
def test_it_is_said_that_the_validation_part_is_the_test_part(workspace, layout):
    LAYOUTS[layout](workspace.data)
    for _ in range(2):  # read, and from the cache
        with pytest.warns(Notice, match=r"^data 'mine': the test part has no .*: the validation part is the test"):
            load(DataSource("mine"), workspace)


def test_an_image_folder_is_listed_as_torchvision_lists_it(tmp_path):
    from harness.models.torchvision_import import torchvision

    image_folder(tmp_path)
    (tmp_path / "mine/train/.hidden").rmdir()  # which torchvision takes for a class
    raw = readers.find("mine", tmp_path).read(0)
    for part, name in ((raw.train, "train"), (raw.test, "test")):
        peer = torchvision.datasets.ImageFolder(tmp_path / "mine" / name)
        assert peer.classes == list(raw.classes) and peer.targets == part.y.tolist()
        for x, (image, _) in zip(part.x, peer, strict=True):
            np.testing.assert_array_equal(x.transpose(1, 2, 0), np.asarray(image))


def test_the_stamp_of_an_image_folder_changes_with_its_files(tmp_path):
    image_folder(tmp_path)
    before = readers.find("mine", tmp_path).stamp()
    assert readers.find("mine", tmp_path).stamp() == before
    (tmp_path / "mine/test/bee/1.png").unlink()
    assert readers.find("mine", tmp_path).stamp() != before


# Tiny-ImageNet whose validation images were moved into folders of their classes


def tiny(root, name, under, annotated, boxes=True):
    """Tiny-ImageNet's folders under `root / name`, its 12 validation images in `under`, formatted by their class."""
    where = root / name
    wnids = ("n02", "n01", "n03")
    lines = []
    for k, wnid in enumerate(wnids):
        (where / "train" / wnid / "images").mkdir(parents=True)
        for i, image in enumerate(noise(2, 16, 16, seed=k)):
            (where / "train" / wnid / "images" / f"{wnid}_{i}.JPEG").write_bytes(encoded(image, "JPEG"))
    for i, image in enumerate(noise(12, 16, 16, seed=7)):
        folder = where / "val" / under.format(wnids[i % 3])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"val_{i}.JPEG").write_bytes(encoded(image, "JPEG"))
        lines.append(f"val_{i}.JPEG\t{wnids[i % 3]}" + f"\t{i % 5}\t3\t9\t12\n" * boxes)
    if annotated:
        (where / "val/val_annotations.txt").write_text("".join(lines))
    (where / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))


@pytest.mark.parametrize("under", ["{}", "{}/images"])
@pytest.mark.parametrize("annotated", [True, False])
def test_a_rearranged_tiny_imagenet_is_the_same_data(tmp_path, under, annotated):
    """To the bit and in the same order, though val_10 sorts before val_2; the boxes are where the annotations are."""
    tiny(tmp_path, "original", "images", annotated=True)
    tiny(tmp_path, "moved", under, annotated)
    original, moved = (readers.find(name, tmp_path).read(0) for name in ("original", "moved"))
    assert checksum(moved.test.x, moved.test.y) == checksum(original.test.x, original.test.y)
    assert moved.classes == original.classes
    if annotated:
        np.testing.assert_array_equal(moved.test.boxes, original.test.boxes)
    else:
        assert moved.test.boxes is None


def test_a_rearranged_tiny_imagenet_without_lists_is_a_folder_of_images(tmp_path):
    tiny(tmp_path, "moved", "{}", annotated=False)
    (tmp_path / "moved/wnids.txt").unlink()
    raw = readers.find("moved", tmp_path).read(0)
    assert raw.classes == ("n01", "n02", "n03") and len(raw.test.y) == 12


# One of several columns of images


def two_columns(root):
    for part, images in (("train", TRAIN), ("test", TEST)):
        parquet(root / f"mine/{part}-0.parquet", 255 - images, photo=column(pngs(images)))


def test_a_column_of_images_is_chosen_by_name(workspace):
    two_columns(workspace.data)
    with pytest.raises(UserError, match=r"columns of images, 'image', 'photo'; name one: --set data.image=image$"):
        load(DataSource("mine"), workspace)
    photo = load(DataSource("mine", image="photo"), workspace)
    image = load(DataSource("mine", image="image"), workspace)
    assert bool((photo.test.x == 255 - image.test.x).all()) and photo.checksums != image.checksums
    with pytest.raises(UserError, match=r"'phto' is not known; did you mean 'photo'\?"):
        load(DataSource("mine", image="phto"), workspace)


@pytest.mark.parametrize("name", ["digits", "mine"])
def test_a_column_of_what_has_none_is_a_mistake(workspace, name):
    image_folder(workspace.data)
    with pytest.raises(UserError, match=f"^data.image has no effect: data '{name}' is not a table with columns$"):
        load(DataSource(name, image="photo"), workspace)


# A test part that a seed draws


def no_test_part(root):
    parquet(root / "mine/train-0.parquet", noise(40), [0, 1] * 20, "ab")


def one_folder(root):
    for i, image in enumerate(noise(40)):
        path = root / "mine" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))


def unlabelled_without_validation(root):
    no_test_part(root)
    parquet(root / "mine/test-0.parquet", TEST, [-1] * 6, "ab")


UNTESTED = [no_test_part, one_folder, unlabelled_without_validation]


@pytest.mark.parametrize("make", UNTESTED)
def test_a_test_part_is_drawn_by_a_seed_of_its_own(workspace, make):
    make(workspace.data)
    with pytest.raises(UserError, match=r"^data 'mine' has no test part with labels; by --set data.test_share=0.2 a s"):
        load(DataSource("mine"), workspace)
    by = noise(40)
    drawn = {}
    for split in (0, 1):
        data = load(DataSource("mine", test_share=0.25, split=split), workspace)
        drawn[split] = {name: numbered(getattr(data, name), by) for name in ("train", "val", "test")}
        assert [len(part) for part in drawn[split].values()] == [24, 6, 10]
        assert sorted(chain(*drawn[split].values())) == list(range(40))
        for name, numbers in drawn[split].items():
            assert getattr(data, name).y.tolist() == [number % 2 for number in numbers]
    assert drawn[0]["test"] == drawn[1]["test"] and drawn[0]["val"] != drawn[1]["val"]
    assert set(np.diff(sorted(drawn[0]["test"]))) != {1}, "drawn, not the first or the last"
    again = load(DataSource("mine", test_share=0.25), workspace)
    assert numbered(again.test, by) == drawn[0]["test"]


def test_a_share_of_what_has_a_test_part_is_a_mistake(workspace):
    plain_parquet(workspace.data)
    with pytest.raises(UserError, match=r"^data.test_share has no effect: data 'mine' has a test part$"):
        load(DataSource("mine", test_share=0.2), workspace)
    with pytest.raises(UserError, match=r"^data.test_share has no effect: data 'digits' has a test part$"):
        load(DataSource("digits", test_share=0.2), workspace)


# What is wrong is said in one line


def two_configurations(root):
    for name in ("cropped_digits", "full_numbers"):
        parquet(root / f"mine/{name}/train-0.parquet", TRAIN)
        parquet(root / f"mine/{name}/test-0.parquet", TEST)


def partial_conversion(root):
    parquet(root / "mine/default/partial-train/0000.parquet", TRAIN)
    parquet(root / "mine/default/test/0000.parquet", TEST)


def missing_number(root):
    hub_conversion(root)
    (root / "mine/default/train/0001.parquet").rename(root / "mine/default/train/0002.parquet")


def unseen_folder(root):
    image_folder(root)
    shutil.copytree(root / "mine/test/ant", root / "mine/test/dog")


def unseen_text(root):
    text_labels(root)
    parquet(root / "mine/test-0.parquet", TEST, ["ant", "bee", "dog"] * 2, None)


def unseen_number(root):
    plain_parquet(root)
    parquet(root / "mine/train-00000-of-00001.parquet", TRAIN, [0, 1] * 4 + [0])


def one_class(root):
    for part in ("train", "test"):
        path = root / f"mine/{part}/ant/1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(TEST[0]))


def other_names(root):
    hub_configuration(root)
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["ant", "bee"]}}}})}
    path = root / "mine/plain_text/test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)


def named_twice(root):
    hub_conversion(root)
    shutil.copytree(root / "mine/default/train", root / "mine/default/trainval")


def files_named_twice(root):
    parquet(root / "mine/train.parquet", TRAIN)
    parquet(root / "mine/valid.parquet", TEST)
    parquet(root / "mine/validation.parquet", TEST)


def folders_named_twice(root):
    image_folder(root)
    shutil.copytree(root / "mine/train", root / "mine/training")


def segmentation(root):
    image_folder(root)
    for part in ("train", "test"):
        (root / "mine" / part / "ant").rename(root / "mine" / part / "images")
        (root / "mine" / part / "bee").rename(root / "mine" / part / "Masks")


def one_folder_deeper(root):
    image_folder(root)
    (root / "mine").rename(root / "inner")
    (root / "mine").mkdir()
    (root / "inner").rename(root / "mine/inner")


def many_classes(root):
    for i in range(400):
        for part, name in (("train", f"class {i}"), ("test", f"class {i}"), ("test", "other")):
            path = root / "mine" / part / name / "1.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def many_configurations(root):
    for i in range(400):
        hub_configuration(root)
        (root / "mine/plain_text").rename(root / f"mine/configuration-{i}")
        shutil.rmtree(root / "mine/.cache")


def labels_of(*labels, names=None):
    def make(root):
        for part, images in (("train", TRAIN), ("test", TEST)):
            parquet(root / f"mine/{part}-0.parquet", images, list(labels) * (len(images) // len(labels)), names)

    return make


def many_columns(root):
    columns = {f"attribute {i}": [0.5] * 9 for i in range(400)}
    parquet(root / "mine/train-0.parquet", TRAIN, [0.5] * 9, None, **columns)
    table = pq.read_table(root / "mine/train-0.parquet").drop_columns(["label"])
    pq.write_table(table, root / "mine/train-0.parquet")


def plain_bytes(root):
    table = pa.table({"image": pngs(TRAIN), "label": LABELS})
    (root / "mine").mkdir(parents=True)
    pq.write_table(table, root / "mine/train-0.parquet")


BAD = {
    "two folders of a part": (folders_named_twice, "has 'train' and 'training', which may be one part or two"),
    "two folders of shards": (named_twice, "has 'train' and 'trainval', which may be one part or two; move away all"),
    "two files of a part": (files_named_twice, "has 'valid' and 'validation', which may be one part or two"),
    "images and masks": (segmentation, "has folders of images and of annotations, there are: Masks, cat, images"),
    "one folder deeper": (one_folder_deeper, "has one folder of images, 'inner'; if the classes lie in it: --data in"),
    "400 classes": (many_classes, "/test/other' is a class that no training image has; there are: class 0, "),
    "400 configurations": (many_configurations, "several data sets; name one: --data configuration-0 --data-root "),
    "400 columns": (many_columns, "whole numbers or names of classes, among image (struct<bytes: binary, path: strin"),
    "labels as floats": (labels_of(0.0, 1.0, 2.0), "names of classes; its 'label' is double"),
    "labels as bools": (labels_of(True, False, True), "names of classes; its 'label' is bool"),
    "images as bytes": (plain_bytes, "no column of images (structs of bytes and path) among image (binary), label (in"),
    "several configurations": (two_configurations, "(there are: cropped_digits, full_numbers)"),
    "a part of a conversion": (partial_conversion, "partial-train' is the part that the Hub converted of a larger"),
    "a missing number": (missing_number, "has 2 numbered files, of which the last is '0002.parquet'"),
    "a folder of an unseen class": (unseen_folder, "/test/dog' is a class that no training image has; there are: ant"),
    "text of an unseen class": (unseen_text, "the test part has the class 'dog', which no training image has"),
    "a number of an unseen class": (unseen_number, "has test images of class 'cat', of which there is no training im"),
    "labels from 1": (labels_of(1, 2, 3), "has labels that count from 1 to 3; subtract 1, so that the first is 0"),
    "labels from 1, with names": (
        labels_of(1, 2, 3, names=NAMES),
        "labels from 1 to 3, but 3 classes (0 to 2): they count from 1",
    ),
    "one class": (one_class, "has training images of one class only"),
    "different names": (other_names, "train and test have different classes (3 and 2 of them)"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_layout_that_is_wrong_is_said_in_one_line(workspace, case):
    make, said = BAD[case]
    make(workspace.data)
    with pytest.raises(UserError) as error:
        load(DataSource("mine"), workspace)
    assert said in str(error.value) and "mine" in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 1000, "its middle would be left out, where it is printed"


def test_one_of_several_configurations_is_read_by_its_name(workspace):
    two_configurations(workspace.data)
    raw = readers.find("full_numbers", workspace.data / "mine").read(0)
    assert numbered(raw.train, TRAIN) == list(range(9))


def test_classes_without_training_images_are_said(workspace):
    for part, images in (("train", TRAIN), ("test", TEST)):
        parquet(workspace.data / f"mine/{part}-0.parquet", images, names=[*NAMES, *"defgh"])
    with pytest.warns(Notice, match="held out, have none of the classes 'd', 'e', 'f' and 2 more$"):
        load(DataSource("mine"), workspace)


def test_numbers_as_text_are_in_the_order_of_numbers(tmp_path):
    for part in ("train", "test"):
        parquet(tmp_path / f"mine/{part}-0.parquet", noise(12), [str(i) for i in range(12)], None)
    raw = readers.find("mine", tmp_path).read(0)
    assert raw.classes == tuple(map(str, range(12))) and raw.train.y.tolist() == list(range(12))


@pytest.mark.parametrize("texts", [("1", "01", "001"), ("0", "00", "10")])
def test_equal_numbers_as_different_text_have_one_order(tmp_path, texts):
    """Not that of a set, which each process orders in another way."""
    labels_of(*texts)(tmp_path)
    labels = readers.find("mine", tmp_path).read(0)
    assert labels.classes == tuple(sorted(texts, key=lambda text: (int(text), text)))


def test_which_of_several_columns_has_the_labels_is_said(tmp_path):
    for part, images in (("train", TRAIN), ("test", TEST)):
        parquet(tmp_path / f"mine/{part}-0.parquet", images, ["ant", "bee", "cat"] * (len(images) // 3), None)
        table = pq.read_table(tmp_path / f"mine/{part}-0.parquet")
        table = table.append_column("target", pa.array([0, 1, 2] * (len(images) // 3)))
        pq.write_table(table, tmp_path / f"mine/{part}-0.parquet")
    assert readers.find("mine", tmp_path).read(0).notes == ("the labels are those of 'target', and not of 'label'",)


def test_images_and_classes_that_may_be_missed_are_said(tmp_path):
    image_folder(tmp_path)
    (tmp_path / "mine/train/ant/late.AVIF").touch()
    (tmp_path / "mine/test/dog").mkdir()
    (tmp_path / "mine/test/dog/1.heic").touch()
    unread, empty = readers.find("mine", tmp_path).read(0).notes
    assert unread.startswith("2 files are of a kind that is not read, and left out, such as ") and "1.heic'" in unread
    assert empty == f"folders without images are no classes: {str(tmp_path / 'mine/test/dog')!r}"


def test_a_folder_of_parquet_files_is_suggested_by_its_name(workspace):
    for make, name in ((hub_configuration, "mine"), (image_folder, "mine")):
        make(workspace.data)
        with pytest.raises(UserError, match=f"did you mean '{name}'"):
            load(DataSource("mien"), workspace)
        shutil.rmtree(workspace.data / "mine")


def test_the_order_of_the_drawn_test_part_is_pinned(workspace):
    """Another seed or another way to draw would give other images under the same settings."""
    no_test_part(workspace.data)
    data = load(DataSource("mine", test_share=0.25), workspace)
    assert numbered(data.test, noise(40)) == np.random.default_rng(1).permutation(40)[:10].tolist()
    assert datasets.test_order(3).tolist() == np.random.default_rng(0).permutation(3).tolist()


def test_a_folder_that_may_not_be_read_is_no_suggestion(workspace, monkeypatch):
    hub_configuration(workspace.data)
    (workspace.data / "lost+found").mkdir()
    known = readers.parquet.holds

    def holds(folder):
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return known(folder)

    monkeypatch.setattr(readers.parquet, "holds", holds)
    with pytest.raises(UserError, match="did you mean 'mine'"):
        load(DataSource("mien"), workspace)
