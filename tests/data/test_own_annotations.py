"""Boxes and masks of one's own are read as they were meant, or one line says what they may mean."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from small_data import IMAGE, both_parts, column, encoded, noise, write

from harness.data import datasets, readers
from harness.data.settings import DataSource
from harness.errors import Notice, UserError

WIDTH, HEIGHT = 64, 48
X, Y, W, H = 10, 6, 20, 12  # the object: columns 10 to 29, rows 6 to 17
INCLUSIVE = [X, Y, X + W - 1, Y + H - 1]


def read(root, size=0, **more):
    """The training part of two images with these further columns."""
    both_parts(root / "mine", [encoded(image) for image in noise(2, HEIGHT, WIDTH)], **more)
    return readers.find("mine", root).read(size).train


def boxes(*numbers, of=None):
    return pa.array(
        [list(numbers), list(numbers)], pa.list_(of or (pa.int64() if isinstance(numbers[0], int) else pa.float64()))
    )


def structs(**fields):
    return pa.array([fields, fields])


SHARES = (X / WIDTH, Y / HEIGHT, (X + W) / WIDTH, (Y + H) / HEIGHT)
CENTRE = ((X + W / 2) / WIDTH, (Y + H / 2) / HEIGHT, W / WIDTH, H / HEIGHT)

MEANT = {
    "inclusive": {"bbox": boxes(*INCLUSIVE)},
    "inclusive floats": {"bbox": boxes(*map(float, INCLUSIVE))},
    "inclusive, of fixed length": {"bbox": pa.array([INCLUSIVE] * 2, pa.list_(pa.int32(), 4))},
    "corners": {"bbox_xyxy": boxes(X, Y, X + W, Y + H)},
    "corners, fractional": {"bbox_xyxy": boxes(X + 0.4, Y + 0.2, X + W - 0.5, Y + H - 0.9)},
    "sides": {"bbox_xywh": boxes(X, Y, W, H)},
    "COCO": {"bbox_coco": boxes(float(X), float(Y), float(W), float(H))},
    "centre": {"bbox_cxcywh": boxes(X + W / 2, Y + H / 2, float(W), float(H))},
    "shares": {"bbox_xyxy_shares": boxes(*SHARES)},
    "shares of single precision": {"bbox_xyxy_shares": boxes(*SHARES, of=pa.float32())},
    "Albumentations": {"bbox_albumentations": boxes(*SHARES)},
    "sides in shares": {"bbox_xywh_shares": boxes(*SHARES[:2], *CENTRE[2:])},
    "YOLO": {"bbox_yolo": boxes(*CENTRE)},
    "YOLO of single precision": {"bbox_yolo": boxes(*CENTRE, of=pa.float32())},
    "named corners": {"bbox": structs(xmin=X, ymin=Y, xmax=X + W - 1, ymax=Y + H - 1)},
    "named sides": {"bbox": structs(x=X, y=Y, width=W, height=H)},
    "named sides in another order": {"bbox": structs(height=H, width=W, y=Y, x=X)},
}


@pytest.mark.parametrize("kind", MEANT)
def test_a_box_is_what_its_column_says(tmp_path, kind):
    assert read(tmp_path, **MEANT[kind]).boxes.tolist() == [INCLUSIVE] * 2


@pytest.mark.parametrize("kind", MEANT)
def test_a_box_is_resized_with_its_image(tmp_path, kind):
    """Every pixel that it overlaps, by the exact quotients."""
    side = 32
    expected = [
        X * side // WIDTH,
        Y * side // HEIGHT,
        -(-(X + W) * side // WIDTH) - 1,
        -(-(Y + H) * side // HEIGHT) - 1,
    ]
    assert read(tmp_path, side, **MEANT[kind]).boxes.tolist() == [expected] * 2


def test_a_box_of_the_whole_image_and_one_at_its_edge(tmp_path):
    whole = [0, 0, WIDTH - 1, HEIGHT - 1]
    assert read(tmp_path, bbox=boxes(*whole)).boxes[0].tolist() == whole
    assert read(tmp_path, bbox_xyxy=boxes(0, 0, WIDTH, HEIGHT)).boxes[0].tolist() == whole
    assert read(tmp_path, bbox_yolo=boxes(0.5, 0.5, 1.0, 1.0)).boxes[0].tolist() == whole
    assert read(tmp_path, bbox_xywh=boxes(-0.5, 40.0, 20.0, 8.5)).boxes[0].tolist() == [0, 40, 19, HEIGHT - 1]


DOUBTFUL = {
    "shares in the column of pixels": (
        {"bbox": boxes(*SHARES)},
        "lies in [0, 1], as shares of the image's sides do; name the column bbox_xyxy_shares, or bbox_xywh_shares",
    ),
    "a whole image in shares": ({"bbox": boxes(0.0, 0.0, 1.0, 1.0)}, "as shares of the image's sides do"),
    "YOLO's in the column of pixels": ({"bbox": boxes(*CENTRE)}, "as shares of the image's sides do"),
    "shares as sides in pixels": ({"bbox_xywh": boxes(0.1, 0.2, 0.3, 0.4)}, "as shares of the image's sides do"),
    "pixels as shares": ({"bbox_yolo": boxes(20.0, 12.0, 20.0, 12.0)}, "is not in shares of the image's sides"),
    "sides in the column of corners": (
        {"bbox": boxes(40, 20, 16, 10)},
        "box (40, 20, 16, 10) ends before it begins, in the 64x48 image; name the column bbox_xywh",
    ),
    "x1 above x2": ({"bbox_xyxy": boxes(30, 6, 10, 18)}, "box (30, 6, 10, 18) is empty"),
    "y1 above y2": ({"bbox": boxes(10, 17, 29, 6)}, "ends before it begins"),
    "an end that is not included": (
        {"bbox": boxes(44, 6, WIDTH, 18)},
        "ends one pixel outside the 64x48 image, whose pixels count from 0; name the column bbox_xyxy",
    ),
    "a lower end that is not included": ({"bbox": boxes(4, 6, 18, HEIGHT)}, "name the column bbox_xyxy"),
    "a box of a larger image": ({"bbox": boxes(20, 12, 100, 40)}, "(20, 12, 100, 40) lies outside the 64x48 image"),
    "sides of a larger image": ({"bbox_xywh": boxes(40, 12, 40, 20)}, "lies outside the 64x48 image"),
    "a negative corner": ({"bbox": boxes(-3, 5, 20, 20)}, "(-3, 5, 20, 20) lies outside the 64x48 image"),
    "no width": ({"bbox_xywh": boxes(4, 5, 0, 6)}, "is empty"),
    "five numbers": ({"bbox": boxes(1, 2, 3, 4, 5)}, "row 0 of "),
    "not a number": ({"bbox_xywh": boxes(1.0, float("nan"), 3.0, 4.0)}, "has no box of four numbers"),
    "an unknown format": ({"bbox_xyhw": boxes(1, 2, 3, 4)}, "'bbox_xyhw' is not known; did you mean 'bbox_xy"),
    "two columns": ({"bbox": boxes(1, 2, 3, 4), "bbox_xywh": boxes(1, 2, 3, 4)}, "several columns of boxes, 'bbox', '"),
}


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_a_doubtful_box_is_refused_in_one_line(tmp_path, kind):
    more, said = DOUBTFUL[kind]
    with pytest.raises(UserError) as error:
        read(tmp_path, **more)
    assert said in str(error.value) and "\n" not in str(error.value) and "mine" in str(error.value)


def test_other_columns_about_boxes_are_left_alone(tmp_path):
    part = read(tmp_path, bbox=boxes(*INCLUSIVE), bbox_area=pa.array([W * H] * 2), bbox_of_another=boxes(1, 2, 3, 4))
    assert part.boxes.tolist() == [INCLUSIVE] * 2


# Masks: all of these mark one rectangle, and some its border as unknown.

BORDER = np.zeros((HEIGHT, WIDTH), bool)
BORDER[Y - 1 : Y + H + 1, X - 1 : X + W + 1] = True
OBJECT = np.zeros((HEIGHT, WIDTH), bool)
OBJECT[Y : Y + H, X : X + W] = True
BORDER &= ~OBJECT

VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, *[0] * (252 * 3)]
VOC[765:] = [224, 224, 192]


def coded(background, object_, border=None):
    mask = np.where(OBJECT, object_, background).astype(np.uint8)
    return np.where(BORDER, border, mask).astype(np.uint8) if border is not None else mask


def with_palette(indices, palette):
    mask = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    mask.putpalette(palette)
    return mask


def with_alpha(colour, alpha, kind="PNG", **options):
    colour = np.broadcast_to(np.asarray(colour, np.uint8), (HEIGHT, WIDTH, 3))
    return encoded(np.dstack([colour, alpha]), kind, **options)


def soft(mask, factor=4):
    """Drawn larger and made smaller, so that its edges are grey."""
    large = Image.fromarray(mask).resize((WIDTH * factor + 1, HEIGHT * factor + 1), Image.Resampling.NEAREST)
    return large.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)


PAINTED = np.where(OBJECT[..., None], np.uint8([255, 0, 0]), np.uint8(0))
VOTES = np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
PHOTO = noise(1, HEIGHT, WIDTH, seed=5)[0]
WEB_PALETTE = Image.fromarray(coded(0, 255)).convert("RGB").convert("P")

CODES = {
    "black and white": encoded(coded(0, 255)),
    "0 and 1": encoded(coded(0, 1)),
    "two levels": encoded(coded(0, 100)),
    "one bit": encoded(Image.fromarray(coded(0, 255)).convert("1")),
    "colour channels": encoded(coded(0, 255)[..., None].repeat(3, 2)),
    "red on black": encoded(PAINTED),
    "JPEG": encoded(coded(0, 255), "JPEG", quality=75),
    "coarse JPEG": encoded(coded(0, 255), "JPEG", quality=30),
    "JPEG of colour channels": encoded(coded(0, 255)[..., None].repeat(3, 2), "JPEG", quality=60),
    "soft edges": encoded(soft(coded(0, 255))),
    "alpha on white": with_alpha(255, coded(0, 255)),
    "alpha on black": with_alpha(0, coded(0, 255)),
    "cut-out of a photo": with_alpha(PHOTO, coded(0, 255)),
    "cut-out as WebP": with_alpha(PHOTO, coded(0, 255), "WEBP", lossless=True),
    "soft alpha": with_alpha(0, np.asarray(soft(coded(0, 255)))),
    "grey with alpha": encoded(Image.merge("LA", [Image.fromarray(coded(9, 9)), Image.fromarray(coded(0, 255))])),
    "transparent colour of a palette": encoded(with_palette(coded(2, 1), VOC), transparency=2),
    "palette, black and white": encoded(with_palette(coded(1, 0), [255, 255, 255, 0, 0, 0])),
    "palette of the web": encoded(WEB_PALETTE),
    "palette, two colours": encoded(with_palette(coded(0, 1), VOC)),
    "WebP": encoded(coded(0, 255), "WEBP", quality=80),
    "GIF": encoded(coded(0, 255), "GIF"),
    "share of annotators": encoded(np.where(OBJECT, 3 + VOTES % 3, VOTES % 3 * BORDER).astype(np.uint8) * 51),
}
WITH_UNKNOWN = {
    "trimap 1 2 3": encoded(coded(2, 1, 3)),
    "VOC, palette": encoded(with_palette(coded(0, 1, 255), VOC)),
    "VOC, another class": encoded(with_palette(coded(0, 8, 255), VOC)),
    "VOC, grey": encoded(coded(0, 1, 255)),
    "VOC class, grey": encoded(coded(0, 15, 255)),
    "matting 0 128 255": encoded(coded(0, 255, 128)),
    "matting 0 127 255": encoded(coded(0, 255, 127)),
}


def masked(mask, other=None):
    """A column of two masks."""
    return {"mask": column([mask, other or mask])}


@pytest.mark.parametrize("kind", CODES)
def test_a_mask_of_two_values_marks_its_object(tmp_path, kind):
    masks = read(tmp_path, **masked(CODES[kind])).masks
    if "annotators" not in kind and ("soft" in kind or "JPEG" in kind or kind == "WebP"):  # at an edge it may be either
        assert (masks[0][~BORDER] == OBJECT[~BORDER]).mean() > 0.995
        assert masks[0].mean() == pytest.approx(OBJECT.mean(), rel=0.05)
    else:
        np.testing.assert_array_equal(masks[0], OBJECT)


@pytest.mark.parametrize("kind", WITH_UNKNOWN)
@pytest.mark.parametrize("size", [0, 32])
def test_a_border_or_void_is_unknown(tmp_path, kind, size):
    expected = np.where(BORDER, 255, OBJECT).astype(np.uint8)
    if size:
        expected = np.asarray(Image.fromarray(expected).resize((size, size), Image.Resampling.NEAREST))
    masks = read(tmp_path, size, **masked(WITH_UNKNOWN[kind])).masks
    np.testing.assert_array_equal(masks[1], expected)


SAID = {
    "black and white": "",
    "two levels": "",
    "JPEG": "have noise or soft edges: what is lighter than half is the object",
    "alpha on black": "are in the alpha channel",
    "trimap 1 2 3": "are trimaps: 1 is the object, 2 background, 3 unknown",
    "VOC, palette": "have ids of classes, as Pascal VOC's: 0 is background, 255 unknown",
    "matting 0 127 255": "have three levels: 0 is background, 127 unknown, 255 the object",
}


@pytest.mark.parametrize("kind", SAID)
def test_it_is_said_how_masks_are_interpreted(tmp_path, kind):
    read(tmp_path, **masked((CODES | WITH_UNKNOWN)[kind]))
    notes = readers.find("mine", tmp_path).read(0).notes
    assert notes == ((f"the masks {SAID[kind]}",) if SAID[kind] else ())


def test_what_255_means_is_the_same_for_all_masks(tmp_path):
    """A mask of a VOC column that has only background and void is not one of black and white."""
    void_only = encoded(with_palette(np.where(BORDER, 255, 0).astype(np.uint8), VOC))
    masks = read(tmp_path, **masked(void_only, WITH_UNKNOWN["VOC, palette"])).masks
    np.testing.assert_array_equal(masks[0], np.where(BORDER, 255, 0))


def test_a_mask_that_is_opaque_throughout_is_of_a_column_in_alpha(tmp_path):
    """It covers its image, since it is opaque, and is not empty, since it is black."""
    masks = read(
        tmp_path, **masked(with_alpha(0, np.full((HEIGHT, WIDTH), 255, np.uint8)), CODES["alpha on black"])
    ).masks
    assert masks[0].all() and np.array_equal(masks[1], OBJECT)


def test_the_parts_of_a_data_set_have_one_code(tmp_path):
    """Without any void in the test part, its 255 would be the object."""
    images = [encoded(image) for image in noise(2, HEIGHT, WIDTH)]
    write(tmp_path / "mine/train-0.parquet", images, **masked(encoded(coded(0, 1, 255))))
    write(tmp_path / "mine/test-0.parquet", images, **masked(encoded(np.where(BORDER, 255, 0).astype(np.uint8))))
    raw = readers.find("mine", tmp_path).read(0)
    np.testing.assert_array_equal(raw.test.masks[0], np.where(BORDER, 255, 0))
    np.testing.assert_array_equal(raw.train.masks[0], np.where(BORDER, 255, OBJECT))


def test_a_mask_is_turned_with_its_image_or_by_its_own_orientation(tmp_path):
    """Drawn on the upright picture, or stored lying as the picture is."""
    exif = Image.Exif()
    exif[0x112] = 6
    stored = noise(2, WIDTH, HEIGHT)  # of pictures that are WIDTH wide
    images = [encoded(image, "JPEG", exif=exif) for image in stored]
    lying = encoded(np.rot90(coded(0, 255)).copy(), exif=exif)
    both_parts(tmp_path / "mine", images, **masked(CODES["black and white"], lying))
    part = readers.find("mine", tmp_path).read(0).train
    assert part.x.shape[2:] == (HEIGHT, WIDTH)
    for mask in part.masks:
        np.testing.assert_array_equal(mask, OBJECT)


SLOPE = np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint8)
TWO_KINDS = coded(0, 1)
TWO_KINDS[30:40, 30:50] = 7
UNSURE = {
    "1 and 2": (encoded(coded(1, 2)), "masks have the values 1, 2, which may mean several things"),
    "trimap 0 1 2": (encoded(coded(0, 1, 2)), "the classes 1, 2; write 1 for the object, 0 for all others"),
    "several classes": (encoded(with_palette(TWO_KINDS, VOC)), "its mask has the classes 1, 7"),
    "a trimap as JPEG": (encoded(coded(2, 1, 3), "JPEG"), "which may mean several things"),
    "three levels as JPEG": (encoded(coded(0, 255, 128), "JPEG", quality=95), "which may mean several things"),
    "ids of instances": (encoded(coded(0, 40, 90)), "masks have the values 0, 40, 90, which may mean several things"),
    "VOC as colours": (encoded(with_palette(coded(0, 1, 255), VOC).convert("RGB")), "its mask has 3 colours"),
    "a photo": (encoded(PHOTO), "colours; write 0 for background"),
    "a heat map": (encoded(SLOPE), "which may mean several things"),
    "16 bits": (encoded(coded(0, 1).astype(np.uint16) * 65535), "I;16, of more than 8 bits a pixel"),
    "white throughout": (encoded(np.full((HEIGHT, WIDTH), 255, np.uint8)), "all masks have one value, 255, throughout"),
    "black throughout": (encoded(np.zeros((HEIGHT, WIDTH), np.uint8)), "all masks have one value, 0, throughout"),
    "black, white and transparent": (
        with_alpha(coded(0, 255)[..., None], np.where(BORDER, 0, 255).astype(np.uint8)),
        "a mask has black, white and transparent pixels",
    ),
    "another shape": (encoded(coded(0, 255).T.copy()), "its mask is 48x64, the image 64x48"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSURE)
@pytest.mark.parametrize("size", [0, 32])
def test_a_mask_that_may_mean_several_things_is_refused_in_one_line(tmp_path, kind, size):
    mask, said = UNSURE[kind]
    with pytest.raises(UserError) as error:
        read(tmp_path, size, **masked(mask))
    assert said in str(error.value) and "\n" not in str(error.value) and "mine" in str(error.value)


MIXED = {
    "alpha and black and white": ("alpha on black", "black and white", "some masks are in the alpha channel, others"),
    "alpha of a photo, and a JPEG": ("cut-out of a photo", "JPEG", "some masks are in the alpha channel, others"),
    "0 and 1, 0 and 255": ("0 and 1", "black and white", "no mask has an object beside 255, which may be"),
    "one bit, a palette": ("one bit", "palette, two colours", "no mask has an object beside 255, which may be"),
}


@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.parametrize("turned", [False, True])
def test_masks_written_in_two_ways_are_refused_in_one_line(tmp_path, kind, turned):
    """Each alone is read; together one of the two would be misread."""
    *names, said = MIXED[kind]
    with pytest.raises(UserError) as error:
        read(tmp_path, **masked(*(CODES[name] for name in (names[::-1] if turned else names))))
    assert said in str(error.value) and "\n" not in str(error.value) and "mine" in str(error.value)


def test_an_image_without_a_mask_is_unknown_and_said(tmp_path):
    masks = read(tmp_path, mask=pa.array([{"bytes": CODES["0 and 1"], "path": None}, None], IMAGE)).masks
    np.testing.assert_array_equal(masks, [OBJECT, np.full(OBJECT.shape, 255)])
    assert readers.find("mine", tmp_path).read(0).notes == ("2 images have no mask, or one that is unknown throughout",)


@pytest.mark.parametrize("masks", [[None, None], [{"bytes": b"no", "path": None}] * 2])
def test_a_column_without_any_mask_is_refused(tmp_path, masks):
    with pytest.raises(UserError, match="mine': none of the masks can be decoded"):
        read(tmp_path, mask=pa.array(masks, IMAGE))


def test_a_mask_of_codes_is_taken_as_it_is(tmp_path):
    """Void alone, which as `mask` would be black and white."""
    void = np.where(BORDER, 255, 0).astype(np.uint8)
    masks = read(tmp_path, mask_coded=column([encoded(void), encoded(coded(0, 1, 255))])).masks
    np.testing.assert_array_equal(masks, [void, np.where(BORDER, 255, OBJECT)])
    with pytest.raises(UserError, match="its mask has the value 2; there are 0 background, 1 object, 255 unknown"):
        read(tmp_path, mask_coded=column([encoded(coded(2, 1, 3))] * 2))
    images = [encoded(image) for image in noise(2, HEIGHT, WIDTH)]
    write(tmp_path / "mine/test-00000-of-00001.parquet", images, **masked(encoded(void)))
    with pytest.raises(UserError, match="masks are 'mask' in one part, 'mask_coded' in the other"):
        readers.find("mine", tmp_path).read(0)


def full_and(masks):
    full = np.ones((HEIGHT, WIDTH), np.uint8)
    return {"mask": column([encoded(full)] * (8 - len(masks)) + [encoded(mask) for mask in masks])}


def test_masks_that_cover_their_images_are_said_or_refused(workspace):
    images = [encoded(image) for image in noise(8, HEIGHT, WIDTH)]
    unknown = np.where(OBJECT, 1, 255).astype(np.uint8)
    unknown[0, 0] = 0
    both_parts(workspace.data / "some", images, **full_and([coded(0, 1)] * 5))
    with pytest.warns(Notice, match="^data 'some': the masks of 3 of 8 .* cover the whole image$") as said:
        datasets.load(DataSource("some"), workspace)
    assert len(said) == 2, "of the training and of the test images"
    write(workspace.data / "all/train-0.parquet", images, **full_and([]))
    write(workspace.data / "all/test-0.parquet", images, **full_and([unknown] * 4))
    with pytest.raises(UserError, match=r"^data 'all' has masks that all cover their whole image: there is nothing to"):
        datasets.load(DataSource("all"), workspace)
