"""Pictures of a report: what is where in a composite, by which scale, in which words, and in how many bytes."""

import base64
import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from harness.explain.boxes import iou
from reports.present.pictures import galleries as pictures_galleries
from reports.present.pictures import pixels as pictures_pixels
from reports.present.pictures import webp

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven")


def arrays(n=8, side=8, channels=3, seed=0, x=None):
    """What a gallery holds of n images."""
    draws = np.random.default_rng(seed)
    x = draws.integers(0, 256, (n, side, side, channels), np.uint8) if x is None else x
    corner = np.array([1, 1, side - 3, side - 2])
    return {
        "x": x,
        "y": np.arange(n, dtype=np.int32),
        "classes": np.array(NAMES),
        "predicted": np.arange(n, dtype=np.int32),
        "gradient": draws.normal(size=x.shape).astype(np.float16),
        "integrated": draws.gamma(1, size=x.shape[:3]).astype(np.float16),
        "eps": np.float64(8 / 255),
        "attacked": (x.astype(np.int16) + draws.integers(-8, 9, x.shape)).clip(0, 255).astype(np.uint8),
        "attacked_predicted": np.roll(np.arange(n, dtype=np.int32), 1),
        "attacked_gradient": draws.normal(size=x.shape).astype(np.float16),
        "attacked_integrated": draws.gamma(1, size=x.shape[:3]).astype(np.float16),
        "moved_eps": np.float64(4 / 255),
        "moved": x[:4],
        "moved_predicted": np.arange(4, dtype=np.int32),
        "moved_integrated": draws.gamma(1, size=x[:4].shape[:3]).astype(np.float16),
        "moved_in": np.array([0.25, 0.75, np.nan, 0.5], np.float32),
        "moved_k": np.array([0.1, 0.2, np.nan, 0.3], np.float32),
        "boxes": np.tile(corner, (n, 1)),
        "located_grad": np.tile(corner + 1, (n, 1)),
        "located_cam": np.tile(corner, (n, 1)),
        "samples": x,
        "samples_y": np.arange(n, dtype=np.int32),
    }


def galleries(files):
    return {gallery.key: gallery for gallery in pictures_galleries.galleries(files)}


def decoded(picture):
    """Its pixels (h, w, 4), as a reader that is not ours sees them."""
    image = Image.open(io.BytesIO(picture.webp))
    assert image.format == "WEBP" and image.size == (picture.width, picture.height)
    return np.asarray(image.convert("RGBA"))


def tile(pixels, row, column, side=8):
    top, left = row * (side + 1), column * (side + 1)
    return pixels[top : top + side, left : left + side]


def colour(text):
    return [int(text[i : i + 2], 16) for i in (1, 3, 5)]


def test_images_stand_in_their_places_and_gaps_are_transparent():
    given = arrays()
    (picture,) = galleries({"pgd": given})["attribution"].pictures
    pixels = decoded(picture)
    assert pixels.shape == (4 * 9 - 1, 6 * 9 - 1, 4) and picture.name == "pgd"
    for column in range(6):
        for row, name in ((0, "x"), (2, "attacked")):
            assert np.array_equal(tile(pixels, row, column)[..., :3], given[name][column])
    opaque = np.ones(pixels.shape[:2], bool)
    opaque[8::9] = opaque[:, 8::9] = False
    assert np.array_equal(pixels[..., 3] == 255, opaque) and set(np.unique(pixels[..., 3])) == {0, 255}


def test_grey_images_are_shown_grey():
    given = arrays(channels=1)
    pixels = decoded(galleries({"pgd": given})["samples"].pictures[0])
    assert np.array_equal(tile(pixels, 0, 3)[..., :3], np.repeat(given["x"][3], 3, 2))
    gradients = decoded(galleries({"pgd": given})["gradient"].pictures[1])
    assert (gradients[..., 0] == gradients[..., 2])[gradients[..., 3] > 0].all()


def test_a_map_runs_from_dark_to_bright_by_a_scale_of_its_own():
    given = arrays()
    given["integrated"][0] = np.arange(32, dtype=np.float16).repeat(2).reshape(8, 8)
    given["integrated"][1] = 0
    given["integrated"][2] = np.nan
    given["attacked_integrated"][0] = 50 * given["integrated"][0]
    pixels = decoded(galleries({"pgd": given})["attribution"].pictures[0])[..., :3]
    ramp = tile(pixels, 1, 0).reshape(64, 3)
    assert ramp[0].tolist() == colour(pictures_pixels.HEAT[0]) and ramp[63].tolist() == colour(pictures_pixels.HEAT[-1])
    assert len(np.unique(ramp, axis=0)) == 32
    for blank in (1, 2):
        assert (tile(pixels, 1, blank) == colour(pictures_pixels.HEAT[0])).all()
    assert np.array_equal(tile(pixels, 3, 0), tile(pixels, 1, 0))  # fifty times as large, and scaled alike


def test_one_outlier_does_not_blacken_a_map():
    given = arrays(side=32)
    given["integrated"][0] = 1
    given["integrated"][0, 0, 0] = 1000
    pixels = decoded(galleries({"pgd": given})["attribution"].pictures[0])[..., :3]
    assert (tile(pixels, 1, 0, 32) == colour(pictures_pixels.HEAT[-1])).all()


def lightness(rgb):
    """CIE L* of sRGB colours (..., 3) in 0 to 255."""
    share = np.asarray(rgb) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def test_lightness_alone_tells_the_order_of_a_map_in_even_steps():
    given = arrays()
    given["integrated"][0] = np.arange(32, dtype=np.float16).repeat(2).reshape(8, 8)
    ramp = tile(decoded(galleries({"pgd": given})["attribution"].pictures[0]), 1, 0)[..., :3].reshape(64, 3)[::2]
    steps = np.diff(lightness(ramp))
    assert steps.min() > 0.5 * steps.mean() and steps.max() < 1.5 * steps.mean()
    assert lightness(ramp[0]) < 10 and lightness(ramp[-1]) > 90


def test_a_gradient_is_grey_where_it_is_0_and_full_at_three_times_its_size():
    given = arrays(side=32)
    g = np.zeros((32, 32, 3))
    g[0, 0] = (30, -30, 0)
    g[1, 1] = (1, 0, 0)
    given["gradient"][0] = g
    found = galleries({"pgd": given})["gradient"]
    pixels = tile(decoded(found.pictures[1]), 0, 0, 32)
    assert pixels[0, 0, :3].tolist() == [255, 0, 128] and (pixels[2:, :, :3] == 128).all()
    size = np.sqrt((g**2).mean())
    assert pixels[1, 1, 0] == pytest.approx(127.5 * (1 + 1 / (3 * size)), abs=255 / 32 / 2 + 1)


def test_test_images_stand_once_above_the_gradients_and_anew_where_they_change():
    first, other = arrays(), arrays(seed=1)
    found = galleries({"a": first, "b": arrays(), "c": other})["gradient"].pictures
    assert [p.name for p in found] == ["Test images", "a", "b", "Test images", "c"]
    assert np.array_equal(tile(decoded(found[3]), 0, 5)[..., :3], other["x"][5])


def test_words_say_what_is_seen():
    given = arrays()
    given["predicted"][3] = 7
    found = galleries({"pgd": given})
    attribution = found["attribution"]
    assert "three as seven, attacked as two" in attribution.pictures[0].alt
    assert attribution.pictures[0].note == "5 of 6 correct, 0 under attack"
    assert "PGD at 8/255" in attribution.remark and attribution.columns == NAMES[:6]
    assert "left to right: zero, one, two, three, four, five." in attribution.remark
    moved = found["moved"]
    assert "one: IN 75, K 20; two: not attacked" in moved.pictures[0].alt and "at 4/255" in moved.remark
    assert moved.pictures[0].note == "IN 50, K 20"
    assert all("zero" in p.alt for gallery in found.values() for p in gallery.pictures)


def test_rows_attacked_by_several_eps_are_said_to_be():
    weak = {**arrays(), "eps": np.float64(2 / 255)}
    assert "PGD at 2/255 or 8/255" in galleries({"a": arrays(), "b": weak})["attribution"].remark


def test_what_was_not_attacked_is_left_blank():
    given = arrays()
    pixels = decoded(galleries({"pgd": given})["moved"].pictures[0])
    assert pixels.shape == (3 * 9 - 1, 4 * 9 - 1, 4)
    for row, column, there in ((0, 2, True), (1, 2, False), (2, 2, False), (1, 3, True), (2, 3, True)):
        assert (tile(pixels, row, column)[..., 3] == 255 * there).all()
    assert np.array_equal(tile(pixels, 1, 1)[..., :3], given["moved"][1])
    given["moved_in"][:] = np.nan
    assert "moved" not in galleries({"pgd": given})


def test_boxes_are_drawn_around_their_pixels_and_told_by_their_overlap():
    given = arrays(side=32, x=np.full((8, 32, 32, 3), 90, np.uint8))
    given["boxes"][:] = (8, 8, 15, 15)
    given["located_grad"][:] = (12, 8, 19, 15)
    given["located_cam"][:] = (8, 8, 15, 23)
    found = galleries({"pgd": given})["boxes"]
    pixels = decoded(found.pictures[0])
    assert pixels.shape == (128, 4 * 132 - 4, 4)
    edges = {name: colour(edge) for name, (edge, *_) in pictures_pixels.EDGES.items()}
    assert pixels[40, 35, :3].tolist() == edges["boxes"]  # the white edge is thicker than the blue one on it
    assert pixels[32, 70, :3].tolist() == edges["located_grad"] and pixels[63, 79, :3].tolist() == edges["located_grad"]
    assert pixels[95, 63, :3].tolist() == edges["located_cam"] and pixels[32, 32, :3].tolist() == edges["located_cam"]
    assert (pixels[96:, :128, :3] == 90).all() and (pixels[:32, :128, :3] == 90).all()
    boxes = {name: torch.from_numpy(given[name][:1]) for name in edges}
    grad, cam = (round(100 * float(iou(boxes[f"located_{m}"], boxes["boxes"]))) for m in ("grad", "cam"))
    assert f"zero: gradient map {grad}, class activation map {cam};" in found.pictures[0].alt
    assert found.pictures[0].note == f"IoU: gradient map {grad}, class activation map {cam}"


def test_a_net_without_class_activation_maps_has_the_other_boxes():
    given = arrays()
    del given["located_cam"]
    (picture,) = galleries({"pgd": given})["boxes"].pictures
    assert "activation" not in picture.alt and "activation" not in picture.note


NEEDED = {
    "attribution": "x y classes predicted integrated eps attacked attacked_predicted attacked_integrated",
    "moved": "x y classes integrated moved_eps moved moved_integrated moved_in moved_k",
    "gradient": "x y classes gradient",
    "boxes": "x y classes boxes",
    "samples": "x classes samples samples_y",
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", sorted(arrays()))
def test_a_row_is_left_out_of_the_galleries_whose_arrays_it_lacks(name):
    lacking = arrays()
    del lacking[name]
    for key, gallery in galleries({"bad": lacking, "good": arrays()}).items():
        assert ("bad" in [p.name for p in gallery.pictures]) == (name not in NEEDED[key].split())


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "damage",
    [
        lambda a: a[..., None],
        lambda a: a.reshape(-1)[:1],
        lambda a: np.zeros(0, a.dtype),
        lambda a: np.array("none"),
        lambda a: np.full(a.shape, 10**6),
    ],
)
def test_what_is_broken_breaks_no_page(damage):
    whole = galleries({"good": arrays()})
    for name in arrays():
        broken = arrays()
        broken[name] = damage(broken[name])
        found = galleries({"bad": broken, "good": arrays()})
        for key, gallery in whole.items():
            assert found[key].pictures[-1] == gallery.pictures[-1]
            assert all(decoded(picture).size for picture in found[key].pictures)


def test_a_gallery_that_nobody_has_is_none():
    given = {name: a for name, a in arrays().items() if not name.startswith(("moved", "boxes", "located", "sample"))}
    assert list(galleries({"a": given, "b": given})) == ["attribution", "gradient"]
    assert galleries({}) == {} and galleries({"a": {}}) == {}


@pytest.mark.parametrize("height, width", [(96, 96), (224, 160)])
def test_large_images_are_shrunk(height, width):
    x = np.random.default_rng(0).integers(0, 256, (8, height, width, 3), np.uint8)
    x[0] = 77
    given = {**arrays(side=16), **arrays(x=x)}
    given["boxes"] = given["located_grad"] = np.tile([4, 4, width - 5, height - 5], (8, 1))
    found = galleries({"pgd": given})
    pixels = decoded(found["attribution"].pictures[0])
    high, wide = (round(64 * side / max(height, width)) for side in (height, width))
    assert pixels.shape == (4 * (high + 1) - 1, 4 * (wide + 1) - 1, 4)
    assert (pixels[:high, :wide, :3] == 77).all()
    assert max(decoded(found["boxes"].pictures[0]).shape[:1]) <= 128


def test_ten_rows_are_shown_the_first_ones():
    found = galleries({str(i): arrays(seed=i) for i in range(12)})
    assert [p.name for p in found["attribution"].pictures] == [str(i) for i in range(10)]


def textured(n=8, side=32):
    """Images about as rough as photographs."""
    draws = np.random.default_rng(0)
    coarse = torch.from_numpy(draws.normal(size=(n, 3, 8, 8)))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").permute(0, 2, 3, 1).numpy()
    return (128 + 60 * smooth + 6 * draws.normal(size=smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.slow
def test_ten_rows_of_all_galleries_take_less_than_a_megabyte():
    x = textured()
    rows = {
        f"row {seed}": {**arrays(side=32, seed=seed, x=x), "moved_in": np.ones(4), "moved_k": np.ones(4)}
        for seed in range(10)
    }
    found = galleries(rows)
    assert sum(len(p.webp) for gallery in found.values() for p in gallery.pictures) < 1e6
    assert sum(len(gallery.pictures) for gallery in found.values()) == 51


def test_equal_arrays_give_equal_bytes_with_nothing_but_pixels_in_them():
    first, again = galleries({"pgd": arrays()}), galleries({"pgd": arrays()})
    assert first == again
    for gallery in first.values():
        for picture in gallery.pictures:
            riff, size, kind, chunk, pixels = struct.unpack("<4sI4s4sI", picture.webp[:20])
            assert (riff, kind, chunk) == (b"RIFF", b"WEBP", b"VP8L")  # without loss
            assert len(picture.webp) == 8 + size == 20 + pixels + pixels % 2  # and no other chunk


def test_every_colour_survives():
    """Colours that touch both ends, and black beside the transparent gap."""
    x = np.stack(
        [np.full((8, 8, 3), v, np.uint8) for v in (0, 255)]
        + [np.eye(8, dtype=np.uint8)[..., None] * 255 * [1, 0, 1]] * 2
    )
    x = x.astype(np.uint8)
    pixels = decoded(galleries({"pgd": arrays(n=4, x=x)})["attribution"].pictures[0])
    for column in range(4):
        assert (
            np.array_equal(tile(pixels, 0, column)[..., :3], x[column])
            and (tile(pixels, 0, column)[..., 3] == 255).all()
        )


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 97)])
@pytest.mark.parametrize("colours", [1, 2, 32, 256, 2**24])
def test_every_pixel_is_read_back_as_it_was(shape, colours):
    draws = np.random.default_rng(colours)
    table = draws.integers(0, 256, (min(colours, 10_000), 3), np.uint8)
    pixels, drawn = table[draws.integers(0, len(table), shape)], draws.random(shape) < 0.8
    read = np.asarray(Image.open(io.BytesIO(webp.encode_webp(pixels, drawn))).convert("RGBA"))
    assert np.array_equal(read[..., 3], 255 * drawn) and np.array_equal(read[drawn][:, :3], pixels[drawn])


def test_an_address_holds_the_file():
    (picture,) = galleries({"pgd": arrays()})["samples"].pictures
    kind, _, data = webp.data_uri(picture.webp).partition(",")
    assert kind == "data:image/webp;base64" and base64.b64decode(data) == picture.webp


def test_torch_is_not_needed():
    code = "import sys; import reports.present.pictures.galleries; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
