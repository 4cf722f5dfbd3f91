"""What a data file of a few kilobytes declares is bounded before it is unpacked."""

import io
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.data import readers
from harness.data.readers import builtin, images, parquet
from harness.data.readers import stack as stacking
from harness.data.readers.images import Encoded, Sample, archive_mask, decoded, pixels
from harness.data.readers.stack import stack
from harness.errors import UserError


def encoded(width, height, kind="PNG", mode="RGB", **options):
    """A picture with a slope in it, as bytes."""
    slope = np.linspace(0, 255, width * height).reshape(height, width).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(slope).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def blank(side):
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root, image, rows):
    """Parquet files of equal images."""
    (root / "mine").mkdir()
    index = pa.array(np.zeros(rows, np.int64))
    image = pa.StructArray.from_arrays([pa.array([one]).take(index) for one in (image, "")], ["bytes", "path"])
    table = pa.table({"image": image, "label": np.arange(rows) % 2})
    for part in ("train", "test"):
        pq.write_table(table, root / f"mine/{part}.parquet", compression="zstd")
    return root / "mine"


@pytest.fixture
def undecoded(monkeypatch):
    """No pixel is unpacked within the test."""

    def load(self):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path, undecoded):
    made = folder(tmp_path, blank(9500), 12)
    assert sum(file.stat().st_size for file in made.iterdir()) < 10_000
    with pytest.raises(UserError, match=r"^cannot decode row 0 .*: 9500x9500 pixels are more than 67108864$"):
        readers.find("mine", tmp_path).read(32)


def test_millions_of_rows_in_a_small_file_are_refused_by_its_header(tmp_path, undecoded):
    made = folder(tmp_path, blank(8), 2_000_000)
    assert (made / "train.parquet").stat().st_size < 100_000
    with pytest.raises(UserError, match=r"declares 2000000 rows in \d+ bytes: they cannot be images$"):
        readers.find("mine", tmp_path).read(32)


def test_a_file_that_would_unpack_to_gigabytes_is_refused_by_its_header(tmp_path, undecoded, monkeypatch):
    monkeypatch.setattr(parquet, "_SMALL", 2**20)
    folder(tmp_path, bytes(2**21), 2)
    with pytest.raises(UserError, match=r"would unpack to \d+ bytes from \d+: they cannot be images$"):
        readers.find("mine", tmp_path).read(32)


def test_equal_images_of_a_small_file_are_read(tmp_path):
    folder(tmp_path, blank(8), 9_000)
    assert readers.find("mine", tmp_path).read(4).train.x.shape == (9_000, 1, 4, 4)


def decode(data, size, box=None):
    return next(decoded([Encoded("it", data, 0, box)], size))


def test_a_large_jpeg_is_decoded_at_a_smaller_scale(monkeypatch):
    data = encoded(640, 512, "JPEG", quality=95)
    whole = decode(data, 32, box=(100, 100, 300, 200))
    assert np.array_equal(whole.x, pixels(Image.open(io.BytesIO(data)), 32))  # as ever, below the bound
    monkeypatch.setattr(images, "MAX_PIXELS", 160 * 128)
    few = decode(data, 32, box=(100, 100, 300, 200))
    assert few.box == whole.box and not np.array_equal(few.x, whole.x)
    assert np.abs(few.x.astype(int) - whole.x.astype(int)).max() <= 6
    monkeypatch.setattr(images, "MAX_PIXELS", 160 * 128 - 1)  # a quarter of the scale is one too many, an eighth is not
    assert decode(data, 32).x.shape == (3, 32, 32)
    monkeypatch.setattr(images, "MAX_PIXELS", 80 * 64 - 1)
    for kept in (0, 32):
        with pytest.raises(UserError, match="pixels are more than 5119"):
            decode(data, kept)


def test_a_mask_of_too_many_pixels_is_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 64)
    with pytest.raises(UserError, match="9x9 pixels are more than 64"):
        next(decoded([Encoded("it", encoded(8, 8), 0, mask=encoded(9, 9), to_mask=archive_mask(len))], 8))


def test_one_large_image_is_decoded_at_a_time(monkeypatch):
    active, most, known = [], [], images.pixels

    def counted(*arguments):
        active.append(threading.get_ident())
        most.append(len(active))
        time.sleep(0.01)  # long enough for the other threads to begin, where they may
        active.remove(threading.get_ident())
        return known(*arguments)

    monkeypatch.setattr(images, "pixels", counted)
    monkeypatch.setattr(images, "_LARGE", 0)
    some = [Encoded("it", encoded(16, 16), 0) for _ in range(12)]
    assert len(list(decoded(some, 8))) == 12 and max(most) > 1
    most.clear()
    monkeypatch.setattr(images, "_MANY_PIXELS", 255)
    assert len(list(decoded(some, 8))) == 12 and max(most) == 1


def test_images_that_the_memory_cannot_hold_are_refused_before_it_is_taken():
    x = np.zeros((1, 1024, 1024), np.uint8)
    with pytest.raises(
        UserError, match=r"^100000000 images like it do not fit into memory: 104857.6 GB; set a smaller"
    ):
        stack([Sample("it", x, 0)], 10**8)
    with pytest.raises(UserError, match="do not fit into memory"):
        builtin.shapes(10**6)
    with pytest.raises(UserError, match="do not fit into memory"):
        images.resized(np.broadcast_to(np.zeros((1, 1, 8, 8), np.uint8), (10**8, 1, 8, 8)), 4096)


def test_images_that_turn_out_coloured_are_bounded_too(monkeypatch):
    grey, colour = np.zeros((1, 64, 64), np.uint8), np.zeros((3, 64, 64), np.uint8)
    stack([Sample("a", grey, 0), Sample("b", colour, 0)], 2)
    known = images.check_memory
    monkeypatch.setattr(
        stacking, "check_memory", lambda needed, what: known(10**18 if needed > 2**14 else needed, what)
    )
    with pytest.raises(UserError, match="2 images like b do not fit"):
        stack([Sample("a", grey, 0), Sample("b", colour, 0)], 2)
