"""Every layout of files is written by hand here, then read; what comes out must be what went in."""

import csv
import gc
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from harness.data import datasets, readers
from harness.data.datasets import checksum
from harness.data.readers.images import pixels, scaled
from harness.data.settings import DataSource
from harness.errors import UserError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def noise(n, height=8, width=8, seed=0):
    """Images (n, H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write(path, images, labels, names=None, image="image", label="label", more=None):
    """A parquet file as the `datasets` library writes it; images are arrays, or bytes, or None."""
    data = [encoded(i) if isinstance(i, np.ndarray) else i for i in images]
    columns = {image: pa.array([{"bytes": d, "path": "a.png"} for d in data], IMAGE)}
    columns |= {label: pa.array(labels)} if label else {}
    columns |= more or {}
    features = {image: {"_type": "Image"}}
    if names:
        features[label] = {"_type": "ClassLabel", "names": list(names)}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=3)


def folder(root, name="mine", train=8, test=4, **options):
    """A parquet data set of two classes under `root`."""
    for seed, (part, n) in enumerate((("train", train), ("test", test))):
        write(root / name / f"{part}-00000-of-00001.parquet", noise(n, seed=seed), np.arange(n) % 2, **options)
    return root / name


def read(name, root, size=0):
    return readers.find(name, root).read(size)


def hwc(x):
    return x.transpose(0, 2, 3, 1)


# Embedded


def test_digits_are_those_of_scikit_learn(tmp_path):
    raw = read("digits", tmp_path)
    images, y = load_digits(return_X_y=True)
    test = np.arange(len(y)) % 5 == 4
    for part, keep in ((raw.train, ~test), (raw.test, test)):
        np.testing.assert_allclose(part.x[:, 0] / 255, images.reshape(-1, 8, 8)[keep] / 16, atol=0.5 / 255)
        np.testing.assert_array_equal(part.y, y[keep])
    assert raw.classes == tuple("0123456789")
    assert read("digits", tmp_path, 16).train.x.shape == (1438, 1, 16, 16)


@pytest.fixture(scope="module")
def shapes():
    return readers.find("shapes", Path("nowhere")).read(0)


def test_shapes_have_tight_boxes_around_their_masks(shapes):
    for part, n in ((shapes.train, 2000), (shapes.test, 500)):
        assert part.x.shape == (n, 3, 32, 32) and part.x.dtype == np.uint8
        assert part.masks.shape == (n, 32, 32) and set(np.unique(part.masks)) == {0, 1}
        for mask, box in zip(part.masks, part.boxes, strict=True):
            rows, cols = np.nonzero(mask)
            assert box.tolist() == [cols.min(), rows.min(), cols.max(), rows.max()]


def test_shapes_are_balanced_and_of_their_kind(shapes):
    assert shapes.train.y.dtype == np.int64
    assert np.bincount(shapes.train.y).tolist() == [250] * len(shapes.classes)
    x1, y1, x2, y2 = shapes.train.boxes.T.astype(int)
    filled = shapes.train.masks.sum((1, 2)) / ((x2 - x1 + 1) * (y2 - y1 + 1))
    mean = {name: filled[shapes.train.y == k].mean() for k, name in enumerate(shapes.classes)}
    assert mean["disc"] == pytest.approx(np.pi / 4, abs=0.03)
    # Upright, a triangle fills half of its box and a square all of it; tilted, the square fills less.
    assert mean["triangle"] == pytest.approx(1 / 2, abs=0.03) and 0.75 < mean["square"] <= 1
    middle = shapes.train.masks[np.arange(2000), (y1 + y2) // 2, (x1 + x2) // 2]
    assert not middle[shapes.train.y == shapes.classes.index("ring")].any()
    assert middle[shapes.train.y != shapes.classes.index("ring")].all()


def test_shapes_cannot_be_told_by_colour(shapes):
    def colours(part):
        """Mean colour of object and ground."""
        on = part.masks[:, None].astype(bool)
        means = [part.x.mean((2, 3), where=where) for where in (on, ~on)]
        return np.hstack(means) / 255

    guess = LogisticRegression(max_iter=500).fit(colours(shapes.train), shapes.train.y)
    chance = 1 / len(shapes.classes)
    assert guess.score(colours(shapes.test), shapes.test.y) < chance + 4 * np.sqrt(chance * (1 - chance) / 500)
    on, off = np.hsplit(colours(shapes.train).reshape(2000, 2, 3).mean(2), 2)
    assert (on > off).mean() > 0.9


def test_shapes_are_the_same_bytes_everywhere(shapes, tmp_path):
    """One figure that is pinned: whoever changes the drawing must change the version in the stamp."""
    assert readers.find("shapes", tmp_path).stamp() == "shapes-1"
    assert checksum(shapes.train.x, shapes.train.y) == PINNED


PINNED = "24e672012beda4c1"


def test_shapes_are_drawn_at_any_size(tmp_path):
    raw = read("shapes", tmp_path, 20)
    assert raw.test.x.shape == (500, 3, 20, 20) and raw.test.masks.shape == (500, 20, 20)
    assert raw.test.boxes.max() <= 19


# Parquet


def test_parquet_gives_back_what_was_written(tmp_path):
    x, test = noise(7), noise(4, seed=1)
    names = ("cat", "dog", "eel")
    boxes = pa.array([[i, 0, 7, i] for i in range(7)], pa.list_(pa.int64(), 4))
    masks = np.random.default_rng(2).integers(0, 2, (7, 8, 8), dtype=np.uint8)
    mask = pa.array([{"bytes": encoded(m * 255), "path": None} for m in masks], IMAGE)
    for shard, part in enumerate((np.s_[:4], np.s_[4:])):
        more = {"bbox": boxes[part], "mask": mask[part], "id": pa.array(range(7))[part]}
        path = tmp_path / "mine" / "data" / f"train-0000{shard}-of-00002.parquet"
        write(path, x[part], [0, 1, 2, 0, 1, 2, 0][part], names, "img", "fine_label", more)
    write(tmp_path / "mine/data/validation-00000-of-00001.parquet", test, [2, 1, 0, 0], names)
    raw = read("mine", tmp_path)
    np.testing.assert_array_equal(hwc(raw.train.x), x)
    np.testing.assert_array_equal(hwc(raw.test.x), test)
    assert raw.train.y.tolist() == [0, 1, 2, 0, 1, 2, 0] and raw.test.y.tolist() == [2, 1, 0, 0]
    assert raw.train.boxes.tolist() == boxes.to_pylist() and raw.test.boxes is None
    np.testing.assert_array_equal(raw.train.masks, masks)
    assert raw.classes == names


def test_a_test_part_goes_before_a_val_part(tmp_path):
    where = folder(tmp_path)
    write(where / "val-00000-of-00001.parquet", noise(5, seed=9), [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(hwc(read("mine", tmp_path).test.x), noise(4, seed=1))


def test_classes_without_names_are_numbers(tmp_path):
    folder(tmp_path)
    assert read("mine", tmp_path).classes == ("0", "1")


def test_the_fine_label_is_taken_where_there_are_two(tmp_path):
    folder(tmp_path, label="fine_label", names="ab", more={})
    for path in (tmp_path / "mine").iterdir():
        table = pq.read_table(path)
        pq.write_table(table.append_column("coarse_label", pa.array([0] * len(table))), path)
    assert read("mine", tmp_path).train.y.tolist() == [0, 1] * 4


def test_grey_stays_grey_until_there_is_colour(tmp_path):
    grey = noise(6)[..., 0]
    for part in ("train", "test"):
        write(tmp_path / f"grey/{part}-0.parquet", grey, [0, 1] * 3)
        write(tmp_path / f"mixed/{part}-0.parquet", [*grey, noise(1)[0]], [0, 1] * 3 + [0])
    np.testing.assert_array_equal(read("grey", tmp_path).train.x[:, 0], grey)
    mixed = read("mixed", tmp_path).train.x
    np.testing.assert_array_equal(mixed[:6], grey[:, None].repeat(3, 1))
    np.testing.assert_array_equal(hwc(mixed)[6], noise(1)[0])


def test_resizing_takes_boxes_and_masks_along(tmp_path):
    """A white rectangle on black: after resizing, box and mask still fit it."""
    box, x = (9, 4, 30, 21), np.zeros((2, 64, 64, 3), np.uint8)
    x[:, 4:22, 9:31] = 255
    more = {
        "bbox": pa.array([list(box)] * 2, pa.list_(pa.int64())),
        "mask": pa.array([{"bytes": encoded(i[..., 0]), "path": None} for i in x], IMAGE),
    }
    for part in ("train", "test"):
        write(tmp_path / f"mine/{part}-0.parquet", x, [0, 1], more=more)
    for size in (32, 16, 128):
        part = read("mine", tmp_path, size).train
        x1, y1, x2, y2 = part.boxes[0].tolist()
        bright = np.zeros((size, size), bool)
        bright[y1 : y2 + 1, x1 : x2 + 1] = True
        # Blurred by up to half a pixel on each side.
        assert part.x[0, 0][bright].mean() > 200 and part.x[0, 0][~bright].mean() < 10
        assert part.x[0, 0][bright].min() > 60, "no side of the box lies in the dark"
        assert (part.masks[0] <= bright).all() and part.masks[0].sum() >= 0.8 * bright.sum()
    assert read("mine", tmp_path, 32).train.boxes[0].tolist() == [c // 2 for c in box]


def test_halving_a_box_halves_its_corners_and_no_box_grows_beyond_the_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        x1, x2 = sorted(rng.integers(0, 64, 2).tolist())
        assert scaled((x1, x1, x2, x2), 64, 64, 32) == (x1 // 2, x1 // 2, x2 // 2, x2 // 2)
        assert scaled((x1, 0, x2, 9), 64, 10, 0) == (x1, 0, x2, 9)
    assert scaled((0, 0, 47, 29), 48, 30, 100) == (0, 0, 99, 99)
    assert scaled((-3, 5, 70, 80), 64, 64, 64) == (0, 5, 63, 63)


def test_large_images_are_decoded_by_threads_in_order(tmp_path):
    x = noise(40, 64, 64)
    for part in ("train", "test"):
        write(tmp_path / f"mine/{part}-0.parquet", x, np.arange(40) % 2)
    np.testing.assert_array_equal(hwc(read("mine", tmp_path).train.x), x)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"])
def test_pixels_of_every_mode(mode):
    image = Image.fromarray(noise(1)[0]).convert(mode)
    x = pixels(image, 0)
    assert x.dtype == np.uint8 and x.shape == ((1 if mode in ("1", "L") else 3), 8, 8)
    np.testing.assert_array_equal(x[0], np.asarray(image.convert("RGB"))[..., 0])


def test_the_stamp_changes_with_the_files(tmp_path):
    where = folder(tmp_path)
    before = readers.find("mine", tmp_path).stamp()
    assert readers.find("mine", tmp_path).stamp() == before
    write(where / "test-00000-of-00001.parquet", noise(4, seed=3), [0, 1, 0, 1])
    os.utime(where / "test-00000-of-00001.parquet", ns=(1, 1))
    assert readers.find("mine", tmp_path).stamp() != before


# Tiny-ImageNet's folders


def tiny(root, classes=("n02", "n01"), each=3, boxes=True):
    """A folder in Tiny-ImageNet's layout under `root`; gives its training images by file name."""
    where = root / "tiny"
    (where / "val/images").mkdir(parents=True)
    (where / "wnids.txt").write_text("".join(f"{c}\n" for c in classes))
    (where / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\tnewt\nn99\tnothing\n")
    images, annotations = {}, []
    for k, wnid in enumerate(classes):
        (where / "train" / wnid / "images").mkdir(parents=True)
        lines = []
        for i, image in enumerate(noise(each, 64, 64, seed=k)):
            name = f"{wnid}_{i}.JPEG"
            (where / "train" / wnid / "images" / name).write_bytes(encoded(image, "JPEG"))
            images[name] = where / "train" / wnid / "images" / name
            lines.append(f"{name}\t{i}\t3\t40\t{50 + i}\n")
        if boxes:
            (where / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(lines))
        (where / f"val/images/val_{k}.JPEG").write_bytes(encoded(noise(1, 64, 64, seed=9 + k)[0], "JPEG"))
        annotations.append(f"val_{k}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (where / "val/val_annotations.txt").write_text("".join(annotations))
    return images


def test_tiny_imagenet_folders(tmp_path):
    images = tiny(tmp_path)
    raw = read("tiny", tmp_path)
    assert raw.classes == ("goldfish, Carassius", "newt")
    assert raw.train.y.tolist() == [0, 0, 0, 1, 1, 1] and raw.test.y.tolist() == [1, 0]
    for x, name in zip(hwc(raw.train.x), sorted(images), strict=True):
        np.testing.assert_array_equal(x, np.asarray(Image.open(images[name])))
    assert raw.train.boxes.tolist() == [[i, 3, 40, 50 + i] for i in range(3)] * 2
    assert raw.test.boxes.tolist() == [[0, 32, 44, 62]] * 2
    half = read("tiny", tmp_path, 32)
    assert half.train.x.shape == (6, 3, 32, 32) and half.test.boxes.tolist() == [[0, 16, 22, 31]] * 2


def test_tiny_imagenet_without_boxes_and_its_stamp(tmp_path):
    images = tiny(tmp_path, boxes=False)
    assert read("tiny", tmp_path).train.boxes is None
    before = readers.find("tiny", tmp_path).stamp()
    next(iter(images.values())).unlink()
    assert readers.find("tiny", tmp_path).stamp() != before


# torchvision's files


class OldPickler(pickle.Pickler):
    """Writes dtypes as Python 2 did, in which CIFAR was pickled; NumPy 2.4 warns of that."""

    def reducer_override(self, obj):
        return (np.dtype, (obj.str[1:], 0, 1)) if isinstance(obj, np.dtype) else NotImplemented


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        OldPickler(file, 2).dump(value)


def cifar(root, classes):
    """CIFAR's files with few images under `root`, one or two of each class: (train, test) images (N, 32, 32, 3)."""
    ten = classes == 10
    where = root / ("cifar10/cifar-10-batches-py" if ten else "cifar100/cifar-100-python")
    label, names = ("labels", "label_names") if ten else ("fine_labels", "fine_label_names")
    train, test = noise(10 if ten else 100, 32, 32), noise(6, 32, 32, seed=1)
    batches = {f"data_batch_{i + 1}": np.s_[2 * i : 2 * i + 2] for i in range(5)} if ten else {"train": np.s_[:]}
    for name, part in batches.items():
        data = train[part].transpose(0, 3, 1, 2).reshape(-1, 3072)
        dump(where / name, {"data": data, label: list(range(classes))[part]})
    data = test.transpose(0, 3, 1, 2).reshape(-1, 3072)
    dump(where / ("test_batch" if ten else "test"), {"data": data, label: [5, 4, 3, 2, 1, 0]})
    dump(where / ("batches.meta" if ten else "meta"), {names: [f"kind {k}" for k in range(classes)]})
    return train, test


@pytest.fixture
def any_md5(monkeypatch):
    """torchvision takes files for the published ones whatever their MD5 sums are."""
    from harness.models.torchvision_import import torchvision

    for module in (torchvision.datasets.cifar, torchvision.datasets.svhn):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5: Path(path).is_file())


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_as_torchvision_keeps_it(tmp_path, any_md5, classes):
    train, test = cifar(tmp_path, classes)
    raw = read(f"cifar{classes}", tmp_path)
    np.testing.assert_array_equal(hwc(raw.train.x), train)
    np.testing.assert_array_equal(hwc(raw.test.x), test)
    assert raw.train.y.tolist() == list(range(classes)) and raw.test.y.tolist() == [5, 4, 3, 2, 1, 0]
    assert raw.classes == tuple(f"kind {k}" for k in range(classes))
    assert readers.find(f"cifar{classes}", tmp_path).stamp().startswith("archive-1-")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_unpickled_that_torchvision_does_not_know(tmp_path):
    cifar(tmp_path, 10)
    dump(tmp_path / "cifar10/cifar-10-batches-py/data_batch_1", Bomb(tmp_path / "exploded"))
    with pytest.raises(UserError, match=r"cifar10.*download=True"):
        read("cifar10", tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_svhn_as_torchvision_keeps_it(tmp_path, any_md5):
    (tmp_path / "svhn").mkdir()
    x, y = noise(20, 32, 32), np.arange(20) % 10 + 1
    for part in ("train", "test"):
        mat = {"X": x.transpose(1, 2, 3, 0), "y": y[:, None].astype(np.uint8)}
        scipy.io.savemat(tmp_path / f"svhn/{part}_32x32.mat", mat)
    raw = read("svhn", tmp_path)
    np.testing.assert_array_equal(hwc(raw.test.x), x)
    assert raw.test.y.tolist() == (y % 10).tolist() and raw.classes == tuple("0123456789")


def gtsrb(root, classes=43):
    where = root / "gtsrb/gtsrb"
    x = noise(43, 12, 15)
    for k in range(classes):
        path = where / f"GTSRB/Training/{k:05d}/00000_00000.ppm"
        path.parent.mkdir(parents=True)
        Image.fromarray(x[k]).save(path)
    (where / "GTSRB/Final_Test/Images").mkdir(parents=True)
    with open(where / "GT-final_test.csv", "w", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["Filename", "Width", "ClassId"])
        for i, k in enumerate((42, 7)):
            Image.fromarray(x[k]).save(where / f"GTSRB/Final_Test/Images/{i:05d}.ppm")
            table.writerow([f"{i:05d}.ppm", 15, k])
    return x


def test_gtsrb_as_torchvision_keeps_it(tmp_path):
    x = gtsrb(tmp_path)
    raw = read("gtsrb", tmp_path)
    np.testing.assert_array_equal(hwc(raw.train.x), x)
    np.testing.assert_array_equal(hwc(raw.test.x), x[[42, 7]])
    assert raw.train.y.tolist() == list(range(43)) and raw.test.y.tolist() == [42, 7]
    assert read("gtsrb", tmp_path, 32).train.x.shape == (43, 3, 32, 32)


def test_gtsrb_with_a_class_missing_is_refused(tmp_path):
    gtsrb(tmp_path, classes=42)
    with pytest.raises(UserError, match="42 of the 43 classes"):
        read("gtsrb", tmp_path)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # torchvision leaves the file open
def test_gtsrb_with_a_broken_image_is_refused(tmp_path):
    gtsrb(tmp_path)
    (tmp_path / "gtsrb/gtsrb/GTSRB/Final_Test/Images/00001.ppm").write_bytes(b"P6\n15 12\n255\nno")
    with pytest.raises(UserError) as error:
        read("gtsrb", tmp_path)
    assert "image 1 of GTSRB(split='test')" in str(error.value) and "\n" not in str(error.value)
    del error
    gc.collect()


def test_parquet_files_go_before_torchvisions(tmp_path):
    cifar(tmp_path, 10)
    folder(tmp_path, "cifar10", names="ab")
    assert read("cifar10", tmp_path).classes == ("a", "b")


# Bad input: each says in one line what is wrong, and with what


def edit(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data))


def no_test(root):
    (folder(root) / "test-00000-of-00001.parquet").unlink()


def truncated(root):
    edit(folder(root) / "train-00000-of-00001.parquet", lambda data: data[: len(data) // 2])


def garbled(root):
    edit(folder(root, train=60) / "train-00000-of-00001.parquet", lambda data: data[:8] + bytes(2000) + data[2008:])


def rows_miscounted(root):
    """The footer's count of rows says 9; what is there is 8."""
    path = folder(root) / "train-00000-of-00001.parquet"
    footer = pq.ParquetFile(path).metadata
    assert footer.num_rows == 8
    start = len(path.read_bytes()) - 8 - footer.serialized_size
    # Thrift's compact form: field 3 (rows), an i64, comes after the schema; 8 and 9 are written as 16 and 18.
    edit(path, lambda data: data[:start] + data[start:].replace(b"\x16\x10\x19", b"\x16\x12\x19", 1))


def not_an_image(root):
    write(folder(root) / "test-00000-of-00001.parquet", [noise(1)[0], b"GIF89a no"], [0, 1])


def half_an_image(root):
    whole = encoded(noise(1, 64, 64)[0])
    write(folder(root) / "test-00000-of-00001.parquet", [noise(1, 64, 64)[0], whole[: len(whole) // 2]], [0, 1])


def deep_image(root):
    deep = encoded(np.full((8, 8), 1000, np.uint16))
    write(folder(root) / "test-00000-of-00001.parquet", [noise(1)[0], deep], [0, 1])


def path_only(root):
    write(folder(root) / "test-00000-of-00001.parquet", [noise(1)[0], None], [0, 1])


def missing_shard(root):
    where = folder(root)
    (where / "train-00000-of-00001.parquet").rename(where / "train-00000-of-00003.parquet")


def dangling(root):
    path = folder(root) / "train-00000-of-00001.parquet"
    path.unlink()
    path.symlink_to(root / "gone")


def other_classes(root):
    write(folder(root, names="abc") / "test-00000-of-00001.parquet", noise(2), [0, 1], names="ab")


def bad_box(root):
    more = {"bbox": pa.array([[5, 1, 2, 6]] * 2)}
    write(folder(root) / "test-00000-of-00001.parquet", noise(2), [0, 1], more=more)


def short_box(root):
    more = {"bbox": pa.array([[5, 1, 6, 6], [1, 2]])}
    write(folder(root) / "test-00000-of-00001.parquet", noise(2), [0, 1], more=more)


def huge_label(root):
    write(folder(root) / "train-00000-of-00001.parquet", noise(2), [0, 10**9])


def tiny_stranger(root):
    tiny(root)
    (root / "tiny/val/val_annotations.txt").write_text("val_0.JPEG\tn77\t0\t0\t1\t1\n")


def tiny_without(*names):
    def break_(root):
        tiny(root)
        (root.joinpath("tiny", *names)).unlink()

    return break_


def tiny_edit(text, *names):
    def break_(root):
        tiny(root)
        root.joinpath("tiny", *names).write_bytes(text)

    return break_


def write_labels(root, labels):
    write(folder(root) / "train-00000-of-00001.parquet", noise(len(labels)), labels)


def sizes(root):
    x = [*noise(2), *noise(1, 7, 9)]
    write(folder(root) / "train-00000-of-00001.parquet", x, [0, 1, 0])


def folder_of_pairs(root):
    more = {"other": pa.array([{"bytes": b"", "path": ""}] * 8, IMAGE)}
    write(folder(root) / "train-00000-of-00001.parquet", noise(8), [0, 1] * 4, more=more)


def pq_without_image(root):
    pq.write_table(pa.table({"label": [0, 1]}), folder(root) / "train-00000-of-00001.parquet")


def no_gtsrb_test(root):
    gtsrb(root)
    (root / "gtsrb/gtsrb/GT-final_test.csv").unlink()


def gtsrb_sizes(root):
    gtsrb(root)
    Image.fromarray(noise(1, 9, 9)[0]).save(root / "gtsrb/gtsrb/GTSRB/Training/00001/00000_00000.ppm")


def svhn_pages(root):
    (root / "svhn").mkdir()
    for part in ("train", "test"):
        (root / f"svhn/{part}_32x32.mat").write_text("<!DOCTYPE html><html><body>Not Found</body></html>")


BAD = {
    "typo": ("digts", lambda root: None, ["'digts'", "did you mean 'digits'?"]),
    "typo of a folder": ("mien", folder, ["'mien'", "did you mean 'mine'?"]),
    "nothing near": ("zzzzz", folder, ["'zzzzz'", "cifar10", "digits", "mine", "shapes"]),
    "outside the root": ("../of-nobody", folder, ["'../of-nobody' is not known"]),
    "no root": ("mine", lambda root: root.rmdir(), ["'mine'", "data root", "does not exist"]),
    "no folder": ("svhn", lambda root: None, ["svhn'", "train-*.parquet", "train_32x32.mat", "download=True"]),
    "empty folder": ("mine", lambda root: (root / "mine").mkdir(), ["mine'", "is empty", "train-*.parquet"]),
    "other files": ("mine", lambda root: (root / "mine/cats").mkdir(parents=True), ["known layout", "wnids.txt"]),
    "no test part": ("mine", no_test, ["mine'", "no test part"]),
    "truncated": ("mine", truncated, ["cannot read", "train-00000-of-00001.parquet"]),
    "garbled": ("mine", garbled, ["train-00000-of-00001.parquet"]),
    "rows miscounted": ("mine", rows_miscounted, ["train-00000-of-00001.parquet", "9 rows"]),
    "dangling link": ("mine", dangling, ["cannot read", "train-00000-of-00001.parquet", "No such file"]),
    "missing shard": ("mine", missing_shard, ["mine'", "1 files", "not 3"]),
    "not an image": ("mine", not_an_image, ["row 1 of", "test-00000-of-00001.parquet", "not an image"]),
    "half an image": ("mine", half_an_image, ["row 1 of", "test-00000-of-00001.parquet"]),
    "deep image": ("mine", deep_image, ["row 1 of", "8 bits"]),
    "no bytes": ("mine", path_only, ["row 1 of", "no bytes of an image; a path alone is not read"]),
    "no label": ("mine", lambda root: folder(root, label=None), ["train-0", "'label'", "image"]),
    "no image": ("mine", pq_without_image, ["train-0", "no column of images", "among label (int64)"]),
    "two images": ("mine", folder_of_pairs, ["train-0", "'image', 'other'"]),
    "text labels": (
        "mine",
        lambda root: write_labels(root, list("ababab")),
        ["mine'", "text in the other"],
    ),
    "unlabelled": ("mine", lambda root: write_labels(root, [0, 1, -1]), ["row 2 of", "label -1"]),
    "no label in a row": ("mine", lambda root: write_labels(root, [0, 1, None]), ["row 2 of", "label None"]),
    "huge label": ("mine", huge_label, ["mine'", "labels up to 1000000000", "2 training images"]),
    "other classes": ("mine", other_classes, ["mine'", "different classes", "3 and 2"]),
    "no rows": ("mine", lambda root: write_labels(root, pa.array([], pa.int64())), ["train-0", "no rows"]),
    "differing sizes": ("mine", sizes, ["row 2 of", "8x8 and 9x7", "--set data.size=32"]),
    "inverted box": ("mine", bad_box, ["row 0 of", "(5, 1, 2, 6)", "8x8"]),
    "short box": ("mine", short_box, ["row 1 of", "[1, 2]"]),
    "no wnid": ("tiny", tiny_stranger, ["val_annotations.txt", "val_0.JPEG"]),
    "no annotations": ("tiny", tiny_without("val", "val_annotations.txt"), ["val_annotations.txt", "No such"]),
    "no val image": ("tiny", tiny_without("val", "images", "val_1.JPEG"), ["val_1.JPEG", "No such"]),
    "garbled box": ("tiny", tiny_edit(b"a\t1\t2\tx\t4\n", "train/n01/n01_boxes.txt"), ["n01_boxes.txt", "1 2 x 4"]),
    "missing box": ("tiny", tiny_edit(b"n01_0.JPEG\t1\t2\t3\t4\n", "train/n01/n01_boxes.txt"), ["n01_1", "no box"]),
    "binary text": ("tiny", tiny_edit(b"\xff\xfe\x00", "val/val_annotations.txt"), ["annotations", "not text"]),
    "short line": ("tiny", tiny_edit(b"val_0.JPEG\n", "val/val_annotations.txt"), ["val_0.JPEG", "2 fields"]),
    "broken jpeg": ("tiny", tiny_edit(b"\xff\xd8\xff", "train/n01/images/n01_1.JPEG"), ["n01_1.JPEG", "decode"]),
    "class without folder": ("tiny", tiny_edit(b"n01\nn02\nn03\n", "wnids.txt"), ["n03", "No such file"]),
    "cifar damaged": ("cifar10", lambda root: cifar(root, 10), ["cifar10'", "corrupted", "download=True"]),
    "svhn pages": ("svhn", svhn_pages, ["svhn'", "corrupted", "download=True"]),
    "gtsrb without test": ("gtsrb", no_gtsrb_test, ["gtsrb'", "download=True"]),
    "gtsrb sizes": ("gtsrb", gtsrb_sizes, ["image 1 of GTSRB", "--set data.size=32"]),
}


@pytest.mark.parametrize("before", ["{root.name}", "../{root.parent.name}/{root.name}", "{root}"])
def test_a_path_to_a_folder_is_refused_with_its_name_and_data_root(workspace, monkeypatch, before):
    workspace.data.mkdir()
    folder(workspace.data)
    monkeypatch.chdir(workspace.data.parent)
    with pytest.raises(UserError) as error:
        datasets.load(DataSource(f"{before.format(root=workspace.data)}/mine"), workspace)
    assert str(error.value).endswith(f"name it in its data root: --data mine --data-root {workspace.data.resolve()}")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_names_it(workspace, case):
    name, prepare, said = BAD[case]
    workspace.data.mkdir()
    prepare(workspace.data)
    with pytest.raises(UserError) as error:
        datasets.load(DataSource(name), workspace)
    message = str(error.value)
    assert "\n" not in message and "Traceback" not in message
    for words in said:
        assert words in message
    kept = [p for p in workspace.out.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert not kept, "a failed reading leaves nothing behind"
