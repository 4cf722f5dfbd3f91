"""Images of one's own are read as they are seen: upright, on white where they are transparent, or they are refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from small_data import both_parts, encoded, noise, write

from harness.data import readers
from harness.data.datasets import load
from harness.data.settings import DataSource
from harness.errors import Notice, UserError

# What a picture that is stored with this EXIF orientation looks like: (H, W, 3) -> (H, W, 3).
SEEN = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda x: np.rot90(x, 1),
}
EXACT = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def turned(image, orientation, kind="PNG", **options):
    exif = Image.Exif()
    exif[0x112] = orientation
    return encoded(image, kind, exif=exif, **options)


def read(root, images, size=0, **more):
    """The images (N, C, H, W) of a data set of these encoded ones."""
    both_parts(root / "mine", images, **more)
    return readers.find("mine", root).read(size).train


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("orientation", SEEN)
def test_an_image_is_turned_as_exif_says(tmp_path, kind, orientation):
    stored = noise(2, 6, 9)
    x = read(tmp_path, [turned(image, orientation, kind, **EXACT[kind]) for image in stored]).x
    for image, seen in zip(x, stored, strict=True):
        np.testing.assert_array_equal(image.transpose(1, 2, 0), SEEN[orientation](seen))


MALFORMED = {
    "no TIFF": b"Exif\0\0garbage garbage",
    "cut": b"Exif\0\0MM",
    "entries beyond the end": b"Exif\0\0MM\0*\0\0\xff\xff",
    "a value beyond the end": b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\xff\xff\xff\xff\x06\0\0\0",
    "an unknown orientation": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("case", MALFORMED)
def test_an_image_whose_exif_is_malformed_is_read_as_it_is_stored(tmp_path, case, kind):
    stored = noise(2, 6, 9)
    part = read(tmp_path, [encoded(image, kind, exif=MALFORMED[case], **EXACT[kind]) for image in stored])
    np.testing.assert_array_equal(part.x.transpose(0, 2, 3, 1), stored)


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("size", [0, 30])
def test_a_box_on_the_upright_picture_holds_the_object(tmp_path, orientation, size):
    """A camera's JPEG: the object lies at rows 5 to 14, columns 5 to 24 of what is stored."""
    stored = np.full((40, 60, 3), 20, np.uint8)
    stored[5:15, 5:25, 1] = 255
    rows, cols = np.nonzero(SEEN[orientation](stored)[..., 1] > 100)
    box = [int(n) for n in (cols.min(), rows.min(), cols.max(), rows.max())]
    image = turned(stored, orientation, "JPEG", quality=95)
    part = read(tmp_path, [image, turned(255 - stored, orientation, "JPEG")], size, bbox=[box] * 2)
    height, width = part.x.shape[2:]
    assert (height, width) == ((size, size) if size else SEEN[orientation](stored).shape[:2])
    rows, cols = np.nonzero(part.x[0, 1] > 150)
    x1, y1, x2, y2 = part.boxes[0].tolist()
    assert (rows.min(), cols.min(), rows.max(), cols.max()) == pytest.approx((y1, x1, y2, x2), abs=1)


def test_a_published_archive_is_read_as_it_is_stored(tmp_path):
    """Its boxes were drawn before viewers knew of EXIF, and its arrays are those of others."""
    where, stored = tmp_path / "tiny", noise(1, 6, 9)[0]
    for folder in ("train/n01/images", "val/images"):
        (where / folder).mkdir(parents=True)
        (where / folder / "a.png").write_bytes(turned(stored, 6))
    (where / "wnids.txt").write_text("n01\n")
    (where / "val/val_annotations.txt").write_text("a.png\tn01\n")
    x = readers.find("tiny", tmp_path).read(0).train.x
    np.testing.assert_array_equal(x[0].transpose(1, 2, 0), stored)


def on_white(colour, alpha):
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def palette_image(colours, indices):
    image = Image.fromarray(indices, "L").copy()
    image = Image.frombytes("P", image.size, indices.tobytes())
    image.putpalette(colours.ravel().tolist())
    return image


def rgba(rng):
    colour, alpha = rng.integers(0, 256, (2, 6, 9, 4), dtype=np.uint8)[0][..., :3], rng.integers(0, 256, (6, 9))
    alpha = alpha.astype(np.uint8)
    return encoded(np.dstack([colour, alpha])), on_white(colour, alpha)


def grey_with_alpha(rng):
    grey, alpha = rng.integers(0, 256, (2, 6, 9), dtype=np.uint8)
    return encoded(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])), on_white(grey[..., None], alpha)


def palette_with_one_colour_left_out(rng):
    colours, indices = rng.integers(0, 256, (8, 3), dtype=np.uint8), rng.integers(0, 8, (6, 9), dtype=np.uint8)
    seen = np.where((indices == 3)[..., None], 255, colours[indices])
    return encoded(palette_image(colours, indices), transparency=3), seen


def palette_with_alpha(rng):
    colours, indices = rng.integers(0, 256, (8, 3), dtype=np.uint8), rng.integers(0, 8, (6, 9), dtype=np.uint8)
    alphas = rng.integers(0, 256, 8, dtype=np.uint8)
    return encoded(palette_image(colours, indices), transparency=alphas.tobytes()), on_white(
        colours[indices], alphas[indices]
    )


def gif(rng):
    colours, indices = rng.integers(0, 256, (8, 3), dtype=np.uint8), rng.integers(0, 8, (6, 9), dtype=np.uint8)
    seen = np.where((indices == 5)[..., None], 255, colours[indices])
    return encoded(palette_image(colours, indices), "GIF", transparency=5), seen


def colour_key(rng):
    image = rng.integers(1, 256, (6, 9, 3), dtype=np.uint8)
    image[2:4, 3:5] = 0
    return encoded(image, transparency=(0, 0, 0)), np.where(image.any(2)[..., None], image, 255)


def webp(rng):
    image = np.dstack([rng.integers(0, 256, (6, 9, 3)), rng.integers(1, 256, (6, 9))]).astype(np.uint8)
    return encoded(image, "WEBP", lossless=True), on_white(image[..., :3], image[..., 3])


def black_ink(rng):
    alpha = rng.integers(0, 2, (6, 9), dtype=np.uint8) * 255
    return encoded(np.dstack([np.zeros((6, 9, 3), np.uint8), alpha])), 255 - np.repeat(alpha[..., None], 3, 2)


TRANSPARENT = [
    rgba,
    grey_with_alpha,
    palette_with_one_colour_left_out,
    palette_with_alpha,
    gif,
    colour_key,
    webp,
    black_ink,
]


@pytest.mark.parametrize("make", TRANSPARENT)
def test_a_transparent_image_lies_on_white(tmp_path, make):
    rng = np.random.default_rng(0)
    made = [make(rng), make(rng)]
    x = read(tmp_path, [data for data, _ in made]).x
    for image, (_, seen) in zip(x, made, strict=True):
        np.testing.assert_allclose(image.transpose(1, 2, 0), np.broadcast_to(seen, (6, 9, 3)), atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_an_alpha_channel_that_is_opaque_is_nothing_to_say(tmp_path, mode):
    images = [Image.fromarray(image).convert(mode) for image in noise(2)]
    options = {"transparency": bytes([255] * 256)} if mode == "P" else {}
    part = read(tmp_path, [encoded(image, **options) for image in images])
    assert part.laid == 0
    for image, x in zip(images, part.x, strict=True):
        np.testing.assert_array_equal(x.transpose(1, 2, 0), np.asarray(image.convert("RGB")))


def test_a_grey_image_stays_grey_on_white(tmp_path):
    grey = noise(2)[..., 0] | 1
    grey[:, 2] = 0
    x = read(tmp_path, [encoded(image, transparency=0) for image in grey]).x
    np.testing.assert_array_equal(x, np.where(grey, grey, 255)[:, None])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "YCbCr"])
def test_an_opaque_image_of_any_mode_is_what_pillow_sees(tmp_path, mode):
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    images = [Image.fromarray(image).convert(mode) for image in noise(2)]
    x = read(tmp_path, [encoded(image, kind) for image in images]).x
    assert x.shape[1] == (1 if mode in ("1", "L") else 3)
    for image, array in zip(images, x, strict=True):
        np.testing.assert_array_equal(array[0], np.asarray(image.convert("RGB"))[..., 0])


def png16(pixels):
    """A PNG of 16 bits a channel, which Pillow does not write in colour."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff16(pixels):
    """An uncompressed TIFF of 16 bits a channel."""
    height, width, channels = pixels.shape
    data = pixels.astype("<u2").tobytes()
    entries = [(256, 3, 1, width), (257, 3, 1, height), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8)]
    entries += [(277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data))]
    bits = 8 + len(data)
    entries.append((258, 3, channels, bits))
    after = data + struct.pack("<3H", 16, 16, 16)
    table = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return struct.pack("<2sHI", b"II", 42, 8 + len(after)) + after + struct.pack("<H", len(entries)) + table + bytes(4)


DEEP = {
    "colour PNG": png16(np.full((8, 8, 3), 4095)),
    "colour PNG with alpha": png16(np.full((8, 8, 4), 65535)),
    "grey PNG": png16(np.full((8, 8, 1), 4095)),
    "grey PNG with alpha": png16(np.full((8, 8, 2), 4095)),
    "colour TIFF": tiff16(np.full((8, 8, 3), 4095)),
    "grey TIFF": encoded(Image.fromarray(np.full((8, 8), 4095, np.uint16)), "TIFF"),
    "float TIFF": encoded(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_an_image_of_more_than_8_bits_is_refused(tmp_path, kind):
    with pytest.raises(UserError, match=r"row 1 of .* has more than 8 bits a channel; save it with 8$"):
        read(tmp_path, [encoded(noise(1)[0]), DEEP[kind]])


@pytest.mark.parametrize("flat", [0, 255, 7])
def test_images_that_are_all_equal_are_refused(workspace, flat):
    both_parts(workspace.data / "mine", [encoded(np.full((8, 8, 3), flat, np.uint8))] * 8)
    with pytest.raises(UserError, match=r"^data 'mine' has training images that are all equal$"):
        load(DataSource("mine"), workspace)


def test_black_ink_of_different_shapes_is_not_all_equal(workspace):
    """The smallest of it: four places of a square, all of them black on nothing."""
    ink = np.zeros((4, 32, 32, 4), np.uint8)
    for i in range(4):
        ink[i, i // 2 * 16 + 3 :, i % 2 * 16 + 3 :, 3][:10, :10] = 255
    both_parts(workspace.data / "ink", [encoded(image) for image in ink] * 5, [0, 1, 2, 3] * 5)
    with pytest.warns(Notice, match="20 of 20 (training|test) images are transparent in places: they are laid"):
        data = load(DataSource("ink"), workspace)
    assert data.train.x.float().mean((1, 2, 3)).tolist() == pytest.approx([255 * (1 - 100 / 1024)] * 16)
    assert len({image.numpy().tobytes() for image in data.train.x}) == 4


def test_the_same_in_a_folder_of_images(tmp_path):
    stored = noise(2, 6, 9)
    for part in ("train", "test"):
        for name, image in zip("ab", stored, strict=True):
            path = tmp_path / "mine" / part / name / "1.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(turned(image, 6))
    x = readers.find("mine", tmp_path).read(0).test.x
    np.testing.assert_array_equal(x[1].transpose(1, 2, 0), np.rot90(stored[1], -1))


def test_a_wrong_reading_that_is_cached_is_read_anew(tmp_path):
    write(tmp_path / "mine/train-0.parquet", [encoded(noise(1)[0])] * 2)
    write(tmp_path / "mine/test-0.parquet", [encoded(noise(1)[0])] * 2)
    assert readers.find("mine", tmp_path).stamp().startswith("parquet-2-")
