"""A few damaged images are left out and counted, and all others stay where they were; many are refused."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from rows import PGD
from small_data import both_parts, column, encoded, noise, write

from harness.data.datasets import load
from harness.data.readers.images import Damaged, Sample
from harness.data.readers.stack import stack
from harness.data.settings import DataSource
from harness.errors import Notice, UserError
from harness.storage.sealed_json import read_json
from harness.tracking.run_content import data_tags
from harness.trials import run as trial_run
from harness.trials.result import decode_result
from reports.present import reliability

WHOLE = encoded(noise(1, 64, 64)[0])
JPEG = encoded(noise(1, 64, 64)[0], "JPEG")
BROKEN = {
    "empty": b"",
    "a page": b"<!DOCTYPE html><html><body>Not Found</body></html>",
    "half a PNG": WHOLE[: len(WHOLE) // 2],
    "half a JPEG": JPEG[: len(JPEG) // 2],
    "a garbled PNG": WHOLE[:60] + bytes(40) + WHOLE[100:],
    "another format": b"%!PS-Adobe-3.0 EPSF-3.0",
    "a header alone": WHOLE[:33],
}


def images(n=100, seed=0):
    return [encoded(image) for image in noise(n, 64, 64, seed)]


def numbers(split, of):
    """The positions of a split's images among those encoded."""
    where = {image.transpose(2, 0, 1).tobytes(): i for i, image in enumerate(noise(of, 64, 64))}
    return [where[image.numpy().tobytes()] for image in split.x]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_image_is_left_out_and_said(workspace, kind):
    for folder, broken in (("whole", {}), ("mine", {3: BROKEN[kind], 77: BROKEN[kind]})):
        some = [broken.get(i, image) for i, image in enumerate(images())]
        write(workspace.data / folder / "train-0.parquet", some)
        write(workspace.data / folder / "test-0.parquet", images(20))
    whole = load(DataSource("whole"), workspace)
    for _ in range(2):  # read, and from the cache
        with pytest.warns(
            UserWarning, match=r"^data 'mine': 2 of 100 training images are damaged and left out: row 3 "
        ):
            data = load(DataSource("mine"), workspace)
    assert whole.damaged == {} and sum(data.damaged.values()) == 2 and "test" not in data.damaged
    for name in ("train", "val", "test"):
        before, now = (numbers(getattr(d, name), 100) for d in (whole, data))
        assert now == [number for number in before if name == "test" or number not in (3, 77)], (
            "in their part and order"
        )
        assert len(before) - len(now) == data.damaged.get(name, 0)
        assert getattr(data, name).y.tolist() == [number % 2 for number in now]
        assert (data.checksums[name] == whole.checksums[name]) == (name not in data.damaged)


def test_what_is_drawn_for_other_images_does_not_move_to_another_part(workspace):
    """Where a seed draws the test part too."""
    for folder, broken in (("whole", ()), ("mine", (5, 50))):
        some = [b"" if i in broken else image for i, image in enumerate(images())]
        write(workspace.data / folder / "train-0.parquet", some)
    whole = load(DataSource("whole", test_share=0.3), workspace)
    with pytest.warns(Notice, match="2 of 100 training images"):
        data = load(DataSource("mine", test_share=0.3), workspace)
    for name in ("train", "val", "test"):
        assert numbers(getattr(data, name), 100) == [
            number for number in numbers(getattr(whole, name), 100) if number not in (5, 50)
        ]


@pytest.mark.parametrize(("broken", "of", "refused"), [(1, 20, False), (2, 20, True), (1, 19, True), (5, 100, False)])
def test_more_than_one_in_twenty_is_refused(workspace, broken, of, refused):
    both_parts(workspace.data / "mine", [b""] * broken + images(of - broken))
    if not refused:
        with pytest.warns(Notice, match=f"{broken} of {of} (training|test) images are damaged"):
            assert sum(load(DataSource("mine"), workspace).damaged.values()) == 2 * broken
        return
    with pytest.raises(UserError, match=r"^cannot decode row 0 of .*: not an image") as error:
        load(DataSource("mine"), workspace)
    if of == 20:
        assert str(error.value).endswith("; with 1 more of 20 images, more than one in 20 is damaged")


def test_a_damaged_mask_leaves_its_image_out(workspace):
    mask = np.zeros((64, 64), np.uint8)
    mask[3:9, 4:30] = 255
    masks = [encoded(mask)] * 39 + [b"no"]
    both_parts(workspace.data / "mine", images(40), mask=column(masks))
    with pytest.warns(Notice, match=r"1 of 40 (training|test) images are damaged and left out: row 39 of"):
        data = load(DataSource("mine"), workspace)
    assert len(data.train) + len(data.val) == 39
    assert torch.equal(data.train.masks[0], torch.from_numpy(mask // 255))


def test_the_files_of_a_folder_are_left_out_too(workspace):
    for part in ("train", "test"):
        for i, image in enumerate(images(40)):
            path = workspace.data / "mine" / part / "ab"[i % 2] / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image if i else b"")
    with pytest.warns(
        UserWarning, match=r"1 of 40 (training|test) images are damaged and left out: '.*/a/00.png': not"
    ):
        assert load(DataSource("mine"), workspace).damaged["test"] == 1


def test_a_damaged_image_of_a_published_archive_is_refused(workspace):
    """An archive is whole, or its numbers are not those of others."""
    where = workspace.data / "tiny"
    for folder in ("train/n01/images", "train/n02/images", "val/images"):
        (where / folder).mkdir(parents=True)
        for i, image in enumerate(images(30)):
            (where / folder / f"{i}.png").write_bytes(image)
    (where / "train/n01/images/7.png").write_bytes(b"")
    (where / "wnids.txt").write_text("n01\nn02\n")
    (where / "val/val_annotations.txt").write_text("0.png\tn01\n1.png\tn02\n")
    with pytest.raises(UserError, match=r"cannot decode '.*n01/images/7.png': not an image"):
        load(DataSource("tiny"), workspace)


def test_an_image_that_is_wrong_and_whole_is_no_damaged_one(workspace):
    deep = encoded(np.full((64, 64), 1000, np.uint16))
    both_parts(workspace.data / "mine", [*images(99), deep])
    with pytest.raises(UserError, match=r"row 99 of .* has more than 8 bits a channel"):
        load(DataSource("mine"), workspace)


def test_the_first_image_may_be_damaged_and_the_rest_is_not_shifted():
    samples = [Damaged("it", 1, "why"), *(Sample(str(i), np.full((1, 2, 2), i, np.uint8), i % 2) for i in range(1, 20))]
    part = stack(samples, 20)
    assert part.x[:, 0, 0, 0].tolist() == list(range(20)) and part.y.tolist() == [1, *(i % 2 for i in range(1, 20))]
    assert part.damaged == {0: "it: why"} and part.whole(np.array([2, 0, 1])).tolist() == [2, 1]


def test_a_trial_knows_which_images_it_did_not_see(workspace, quick):
    """In its record, in the tags of its run, and in the report; of older records, none."""
    both_parts(workspace.data / "mine", [b"", *(encoded(image) for image in noise(59))])
    trial = quick(data="mine", data__size=8, model="small", epochs=1)
    with pytest.warns(Notice, match="1 of 60 (training|test) images are damaged"):
        trial_run.run(trial, workspace)
    record = read_json(workspace.trial(trial.key) / "result.json")
    assert record["damaged"] in ({"train": 1, "test": 1}, {"val": 1, "test": 1})
    tags = data_tags(decode_result(record, trial))
    assert tags["harness.data.damaged"] in ("train 1, test 1", "val 1, test 1")
    assert tags["harness.data.train"] == record["checksums"]["train"]
    runs = pd.DataFrame([row | {"tag:data.damaged": tags["harness.data.damaged"]} for row in PGD])
    rows = [[entry.text for entry in row] for row in reliability.provenance(runs).rows]
    assert ["Damaged images, left out", tags["harness.data.damaged"]] in rows
    del record["damaged"]
    older = decode_result(record, trial)
    assert "harness.data.damaged" not in data_tags(older)


def test_a_note_is_said_once_a_process(workspace):
    """Wherever in the code the data are loaded."""
    both_parts(workspace.data / "mine", [b"", *(encoded(image) for image in noise(59))])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        load(DataSource("mine"), workspace)
        load(DataSource("mine"), workspace)
    assert len(said) == 2, "of the training and of the test images"


@pytest.mark.slow
def test_a_command_says_it_in_one_line(workspace):
    write(workspace.data / "mine/train-0.parquet", [b"", *(encoded(image) for image in noise(59))])
    words = ["--space", "sat", "--cell", "standard", "--data", "mine", "--data-root", str(workspace.data), "--quiet"]
    words += ["--out", str(workspace.out), "--set", "model=small", "--set", "epochs=1", "--set", "data.size=8"]
    command = [sys.executable, "-m", "harness.trial", *words]
    refused = subprocess.run(command, capture_output=True, text=True)
    said = "error: data 'mine' has no test part with labels; by --set data.test_share=0.2 a seed draws it from the "
    assert refused.returncode == 2 and refused.stderr == f"{said}training part\n"
    done = subprocess.run([*command, "--set", "data.test_share=0.2"], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 0 and line.startswith(
        "note: data 'mine': 1 of 60 training images are damaged and left out:"
    )
