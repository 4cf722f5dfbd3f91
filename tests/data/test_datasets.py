"""Splits, checksums and the kept files; what the readers give is tested in test_readers."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data import datasets, readers
from harness.data.datasets import Split, checksum, load
from harness.data.readers.common import Part, Raw, Reader
from harness.data.settings import DataSource
from harness.errors import UserError

REAL = Path(os.environ.get("HARNESS_DATA", Path(__file__).parents[3] / "shared" / "data"))


def raw(train=20, test=7, classes=2, channels=1, side=4):
    """Images that all differ: every one carries its number."""
    x = np.zeros((train + test, channels, side, side), np.uint8)
    x[:, 0, 0, 0] = np.arange(train + test)
    y = np.arange(train + test) % classes  # the image's number tells its label
    names = tuple(map(str, range(classes)))
    return Raw(Part(x[:train], y[:train]), Part(x[train:], y[train:]), names)


@pytest.fixture
def reading(monkeypatch):
    """A function that makes every data set of files be this `Raw`, and gives a list that grows with each reading."""

    def pretend(given, stamp="1"):
        read = []
        reader = Reader(read=lambda size: read.append(size) or given, stamp=lambda: stamp)
        monkeypatch.setattr(readers, "find", lambda name, root, image: reader)
        return read

    return pretend


def numbers(split):
    return split.x[:, 0, 0, 0].tolist()


def test_train_val_and_test_share_no_image_and_lose_none(workspace, reading):
    reading(raw())
    data = load(DataSource("mine", val=0.25), workspace)
    assert [len(s) for s in (data.train, data.val, data.test)] == [15, 5, 7]
    assert sorted(numbers(data.train) + numbers(data.val)) == list(range(20))
    assert sorted(numbers(data.test)) == list(range(20, 27))
    for split in (data.train, data.val, data.test):
        assert split.y.tolist() == [n % 2 for n in numbers(split)], "labels stay with their images"


def test_the_split_follows_its_seed_and_nothing_else(workspace, tmp_path, reading):
    reading(raw())
    first = load(DataSource("mine"), workspace)
    torch.manual_seed(99)
    again = load(DataSource("mine"), replace(workspace, out=tmp_path / "elsewhere"))
    other = load(DataSource("mine", split=1), workspace)
    assert numbers(again.train) == numbers(first.train) and again.checksums == first.checksums
    assert numbers(other.val) != numbers(first.val)
    assert numbers(other.test) == numbers(first.test), "the test part is the same whatever is held out"


def test_boxes_and_masks_stay_with_their_images(workspace):
    data = load(DataSource("shapes"), workspace)
    for split in (data.train, data.val, data.test):
        rows, cols = split.masks.any(2), split.masks.any(1)
        first = torch.stack([cols.int().argmax(1), rows.int().argmax(1)], 1)
        assert torch.equal(split.boxes[:, :2].long(), first)
        # An object is brighter than its ground.
        grey, mask = split.x.float().mean(1), split.masks.float()
        on, off = ((grey * m).sum((1, 2)) / m.sum((1, 2)) for m in (mask, 1 - mask))
        assert (on > off).float().mean() > 0.95


def test_a_limit_keeps_the_first_of_every_part(workspace, reading):
    read = reading(raw())
    whole, few = load(DataSource("mine"), workspace), load(DataSource("mine", limit=3), workspace)
    assert [numbers(s) for s in (few.train, few.val, few.test)] == [
        numbers(s)[:3] for s in (whole.train, whole.val, whole.test)
    ]
    assert few.checksums == whole.checksums and read == [0]


def test_a_limited_test_part_is_not_of_one_class_where_files_are_sorted(workspace, reading):
    sorted_ = raw(test=200, classes=4)
    order = np.argsort(sorted_.test.y, kind="stable")
    reading(replace(sorted_, test=sorted_.test.take(order)))
    assert len(load(DataSource("mine", limit=40), workspace).test.y.unique()) == 4


def test_the_test_images_stand_in_the_order_that_is_told(workspace, reading):
    reading(raw())
    order = datasets.test_order(7)
    assert sorted(order) == list(range(7)) and order.tolist() == datasets.test_order(7).tolist()
    assert numbers(load(DataSource("mine", limit=3), workspace).test) == [20 + n for n in order[:3]]


def test_only_what_is_measured_is_cropped_when_it_is_read(workspace, reading):
    given, rng = raw(side=9), np.random.default_rng(0)
    masks, x = (rng.choice(some, (27, 9, 9)).astype(np.uint8) for some in ((0, 1, 255), np.arange(256)))
    train, test = replace(given.train, x=x[:20, None], masks=masks[:20]), replace(given.test, x=x[20:, None])
    read = reading(replace(given, train=train, test=replace(test, masks=masks[20:])))
    whole, data = load(DataSource("mine"), workspace), load(DataSource("mine", crop=4), workspace)
    assert read == [0] and data.checksums == whole.checksums
    assert torch.equal(data.train.x, whole.train.x) and torch.equal(data.train.masks, whole.train.masks)
    for name in ("val", "test"):
        cut, uncut = getattr(data, name), getattr(whole, name)
        assert torch.equal(cut.x, uncut.x[:, :, 2:6, 2:6]) and torch.equal(cut.masks, uncut.masks[:, 2:6, 2:6])
        assert torch.equal(cut.y, uncut.y) and set(cut.masks.unique().tolist()) == {0, 1, 255}


def test_a_crop_that_does_not_fit_is_a_mistake(workspace, reading):
    reading(raw())
    assert load(DataSource("mine", crop=4), workspace).test.x.shape == (7, 1, 4, 4)
    with pytest.raises(UserError, match=r"data.crop 5 is larger than the images of 'mine' \(4x4\)"):
        load(DataSource("mine", crop=5), workspace)


def test_a_cropped_box_holds_the_pixels_that_were_in_it():
    side, crop, rng = 12, 5, np.random.default_rng(0)
    low, high = np.sort(rng.integers(0, side, (2, 400, 2)), axis=0)
    at = np.arange(side)
    inside = [(at >= low[:, i, None]) & (at <= high[:, i, None]) for i in (0, 1)]
    masks = torch.from_numpy(inside[1][:, :, None] & inside[0][:, None, :])
    boxes = torch.from_numpy(np.hstack([low, high]).astype(np.int16))
    cut = Split(masks[:, None], torch.zeros(400, dtype=torch.int64), boxes, masks).cropped(crop)
    assert cut.boxes.dtype == torch.int16 and cut.boxes.min() == 0 and cut.boxes.max() == crop - 1
    rest = cut.masks.flatten(1).any(1)
    assert 0 < rest.sum() < 400
    for box, mask in zip(cut.boxes[rest].tolist(), cut.masks[rest], strict=True):
        rows, cols = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert box == [int(cols.min()), int(rows.min()), int(cols.max()), int(rows.max())]
    for box, old in zip(cut.boxes[~rest].tolist(), (boxes[~rest] - 3).tolist(), strict=True):
        for axis in (0, 1):
            if old[2 + axis] < 0 or old[axis] >= crop:
                edge = 0 if old[2 + axis] < 0 else crop - 1
                assert box[axis] == box[2 + axis] == edge, "a pixel wide, at the nearest edge"


def test_the_checksum_changes_with_a_pixel_a_label_or_the_order():
    part = raw().train
    seen = {checksum(part.x, part.y), checksum(part.x[::-1], part.y[::-1]), checksum(part.x[..., :2, :], part.y)}
    for i in range(len(part.y)):
        x, y = part.x.copy(), part.y.copy()
        x[i, 0, 3, 3] ^= 1
        y[i] ^= 1
        seen |= {checksum(x, part.y), checksum(part.x, y)}
    assert len(seen) == 3 + 2 * len(part.y)
    assert checksum(part.x.copy(order="F"), part.y.astype(np.int32)) == checksum(part.x, part.y)


def test_a_changed_pixel_in_the_files_changes_the_checksum_of_its_part_only(workspace, reading):
    given = raw()
    reading(given, stamp="1")
    before = load(DataSource("mine"), workspace).checksums
    given.test.x[2, 0, 3, 3] ^= 1
    reading(given, stamp="2")
    after = load(DataSource("mine"), workspace).checksums
    assert {name for name in before if before[name] != after[name]} == {"test"}


def test_files_are_read_once_and_mapped_into_memory(workspace, reading):
    read = reading(raw())
    one, two = load(DataSource("mine"), workspace), load(DataSource("mine"), workspace)
    assert read == [0]
    file = next(workspace.cache("data").glob("mine-*/train-x.npy"))
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps to see mappings in")
    assert maps.read_text().count(str(file)) == 2, "both are views of the file, not copies"
    one.train.x[0] = 7
    assert not torch.equal(one.train.x, two.train.x), "writing to one leaves the other as it is"
    assert torch.equal(load(DataSource("mine"), workspace).train.x, two.train.x)


def test_a_change_of_files_split_or_size_is_read_anew(workspace, reading):
    read = reading(raw())
    for source in (
        DataSource("mine"),
        DataSource("mine", val=0.5),
        DataSource("mine", split=2),
        DataSource("mine", size=4),
    ):
        load(source, workspace)
    assert read == [0, 0, 0, 4]
    read = reading(raw(), stamp="2")
    load(DataSource("mine"), workspace)
    assert read == [0]


def test_trials_that_start_together_read_once(workspace, reading):
    read = reading(raw())
    threads = [threading.Thread(target=load, args=(DataSource("mine"), workspace)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [0]


def test_what_is_killed_half_way_is_read_again(workspace, reading, monkeypatch):
    reading(raw())
    save = np.save

    def killed(path, array):
        if "test" in Path(path).name:
            raise KeyboardInterrupt
        save(path, array)

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        load(DataSource("mine"), workspace)
    assert not list(workspace.cache("data").rglob("*.npy"))
    monkeypatch.setattr(np, "save", save)
    (workspace.cache("data") / "rest").mkdir()
    assert len(load(DataSource("mine"), workspace).train) == 16


def test_a_full_disk_is_a_mistake_and_leaves_nothing(workspace, reading, monkeypatch):
    reading(raw())

    def full(path, array):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"'mine'.*No space left"):
        load(DataSource("mine"), workspace)
    assert not list(workspace.cache("data").rglob("*.npy"))


def relabelled(part, change):
    """Raw data of which the labels of one part are changed."""
    given = getattr(raw(), part)
    return replace(raw(), **{part: replace(given, y=change(given.y))})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (relabelled("train", np.ones_like), "one class only"),
        (relabelled("test", lambda y: y + 1), "labels from 1 to 2, but 2 classes"),
        (relabelled("train", lambda y: y - 1), "labels from -1 to 0, but 2 classes"),
        (replace(raw(), test=raw().test.take(np.s_[:0])), "an empty part"),
        (replace(raw(), test=raw(side=5).test), "4x4 in train, 5x5 in test; set one size by --set data.size=32"),
    ],
)
def test_data_that_cannot_be_trained_on_is_a_mistake(workspace, reading, given, said):
    reading(given)
    with pytest.raises(UserError) as error:
        load(DataSource("mine"), workspace)
    assert "'mine'" in str(error.value) and said in str(error.value) and "\n" not in str(error.value)
    assert not list(workspace.cache("data").rglob("*.json"))


def test_too_few_images_to_hold_some_out(workspace, reading):
    reading(raw(train=2))
    with pytest.raises(UserError, match="2 training images"):
        load(DataSource("mine", val=0.9), workspace)


def test_one_grey_part_becomes_coloured_with_the_other(workspace, reading):
    grey, coloured = raw(), raw(channels=3)
    reading(replace(grey, test=coloured.test))
    data = load(DataSource("mine"), workspace)
    assert data.channels == 3 and data.test.x.shape == (7, 3, 4, 4)
    assert (data.train.x == data.train.x[:, :1]).all()


def test_statistics_are_those_of_the_training_images(workspace):
    data = load(DataSource("shapes"), workspace)
    mean, std = data.statistics()
    x = data.train.x.numpy() / 255
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(std, x.std((0, 2, 3)), rtol=1e-4)


def part_of(name, workspace, file):
    """The data set `name` under the place's root, in which one real file is both train and test."""
    source = REAL / name / file
    if not source.exists():
        pytest.skip(f"there is no {source} (set HARNESS_DATA to the data root)")
    folder = workspace.data / name
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        (folder / f"{part}-0.parquet").symlink_to(source)


@pytest.mark.slow
def test_the_real_cifar10_test_images(workspace):
    part_of("cifar10", workspace, "test-00000-of-00001.parquet")
    data = load(DataSource("cifar10"), workspace)
    assert data.test.x.shape == (10_000, 3, 32, 32)
    assert torch.bincount(data.test.y).tolist() == [1000] * 10
    assert data.classes[0] == "airplane" and data.classes[9] == "truck"
    # The published means of the test images.
    mean = data.test.x.float().mean((0, 2, 3)) / 255
    assert mean.tolist() == pytest.approx([0.4942, 0.4851, 0.4504], abs=1e-4)


def test_real_tiny_imagenet_images_with_boxes(workspace):
    part_of("tiny-imagenet-20", workspace, "val-00000-of-00001.parquet")
    data = load(DataSource("tiny-imagenet-20", size=32), workspace)
    assert data.test.x.shape == (1000, 3, 32, 32) and len(data.classes) == 20
    x1, y1, x2, y2 = data.test.boxes.T
    assert (x1 <= x2).all() and (y1 <= y2).all() and data.test.boxes.min() >= 0 and data.test.boxes.max() <= 31
