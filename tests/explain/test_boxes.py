"""Boxes of heat maps: against squares whose boxes are known, and scipy."""

import itertools

import numpy as np
import pytest
import torch
from planted_boxes import planted, random_boxes
from scipy import ndimage

from harness.explain.boxes import LEVELS, box_overlaps, centre_boxes, components, contour_boxes, contour_overlaps, iou
from harness.explain.localization import SHARES, THRESHOLDS


def test_iou_by_hand():
    box = torch.tensor([2, 3, 5, 6])  # 4 x 4
    assert iou(box, box) == 1
    assert iou(box, torch.tensor([6, 3, 9, 6])) == 0  # beside it
    assert iou(box, torch.tensor([7, 8, 9, 9])) == 0  # apart in both directions
    assert iou(box, torch.tensor([5, 6, 8, 9])) == pytest.approx(1 / 31)  # a corner in common
    assert iou(box, torch.tensor([2, 3, 3, 6])) == 0.5
    assert iou(box, torch.tensor([2, 3, 2, 3])) == 1 / 16  # a single pixel


def test_iou_counts_pixels_and_broadcasts():
    a, b = random_boxes(20), random_boxes(30)
    first, second = planted(a).bool()[:, None], planted(b).bool()[None]
    expected = (first & second).sum((2, 3)) / (first | second).sum((2, 3))
    torch.testing.assert_close(iou(a[:, None], b[None]), expected)


def test_iou_of_large_boxes_kept_as_int16():
    a = torch.tensor([0, 0, 223, 223], dtype=torch.int16)
    assert iou(a, torch.tensor([0, 0, 223, 111], dtype=torch.int16)) == 0.5


def test_components_hang_together_over_corners():
    mask = np.array([[1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1]], bool)
    boxes, pixels = components(mask)
    found = {(*box, n) for box, n in zip(boxes.tolist(), pixels.tolist(), strict=True)}
    assert found == {(0, 0, 1, 1, 2), (4, 0, 4, 0, 1), (4, 2, 4, 3, 2), (0, 3, 2, 3, 3)}
    none, zero = components(np.zeros((3, 3), bool))
    assert none.shape == (0, 4) and zero.shape == (0,)


def test_a_map_equal_to_the_mask_gives_the_box_at_every_threshold():
    boxes = random_boxes(40)
    heat = 0.3 * planted(boxes)
    for overlaps, columns in ((box_overlaps(heat, boxes, THRESHOLDS), 20), (contour_overlaps(heat, boxes), 255)):
        assert overlaps.shape == (40, columns) and (overlaps == 1).all()


def test_the_largest_part_counts_and_of_contours_the_best():
    small, large = torch.tensor([[1, 1, 3, 3]]), torch.tensor([[6, 4, 11, 11]])
    heat = torch.maximum(planted(small), 0.5 * planted(large))
    overlaps = box_overlaps(heat, small, THRESHOLDS)
    high = torch.tensor(THRESHOLDS) >= 0.5  # the large one is not above
    assert (overlaps[0, ~high] == 0).all() and (overlaps[0, high] == 1).all()
    assert (contour_overlaps(heat, small) == 1).all()
    best = contour_overlaps(heat, large)
    assert (best[0, :127] == 1).all() and (best[0, 127:] == 0).all()  # its 8-bit level is 127


def test_of_equal_parts_the_uppermost():
    boxes = torch.tensor([[8, 1, 9, 2], [1, 6, 2, 7]])
    heat = planted(boxes).amax(0, keepdim=True)
    assert (box_overlaps(heat, boxes[:1], THRESHOLDS) == 1).all()
    assert (box_overlaps(heat, boxes[1:], THRESHOLDS) == 0).all()


def test_a_pyramid_gives_a_smaller_box_at_each_threshold():
    """Height 1 - d / 6 at Chebyshev distance d from the middle: above t are the pixels with d < 6 (1 - t)."""
    offset = torch.arange(13) - 6
    heat = 1 - torch.maximum(offset.abs()[:, None], offset.abs()[None]) / 6
    boxes = torch.tensor([[6, 6, 6, 6]])
    overlaps = box_overlaps(heat[None].double(), boxes, (0.0, 0.24, 0.49, 0.74, 0.95))
    assert overlaps[0].tolist() == pytest.approx([1 / 11**2, 1 / 9**2, 1 / 7**2, 1 / 3**2, 1])


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_a_map_without_anything_gives_the_published_boxes(value):
    heat = torch.full((1, 9, 9), value)
    assert (box_overlaps(heat, torch.tensor([[0, 0, 1, 1]]), THRESHOLDS) == 1).all()
    assert (contour_overlaps(heat, torch.tensor([[0, 0, 0, 0]])) == 1).all()


def test_box_overlaps_by_brute_force():
    heat, boxes = ndimage.gaussian_filter(np.random.default_rng(0).random((6, 12, 12)), (0, 1, 1)), random_boxes(6)
    heat = (heat - heat.min((1, 2), keepdims=True)) / np.ptp(heat, (1, 2), keepdims=True)
    overlaps = box_overlaps(torch.from_numpy(heat), boxes, THRESHOLDS)
    for i, (j, threshold) in itertools.product(range(6), enumerate(THRESHOLDS)):
        labels, n = ndimage.label(heat[i] > threshold, ndimage.generate_binary_structure(2, 2))
        ious, sizes = [], []
        for part in range(1, n + 1):
            rows, columns = np.nonzero(labels == part)
            box = torch.tensor([columns.min(), rows.min(), columns.max(), rows.max()])
            ious.append(float(iou(box, boxes[i])))
            sizes.append(len(rows))
        assert overlaps[i, j] == pytest.approx(ious[int(np.argmax(sizes))])


# Contours

AROUND = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # clockwise, as rows run downwards


def border_following(mask):
    """Boxes of all contours by the border following of Suzuki and Abe (1985), algorithm 1, which OpenCV runs."""
    f, number, boxes = np.pad(mask.astype(int), 1), 1, []
    for i, j in itertools.product(range(1, f.shape[0] - 1), range(1, f.shape[1] - 1)):
        if f[i, j] == 1 and f[i, j - 1] == 0:
            start = (0, -1)
        elif f[i, j] >= 1 and f[i, j + 1] == 0:
            start = (0, 1)
        else:
            continue
        number += 1
        border = followed(f, (i, j), start, number)
        rows, columns = np.array(border).T - 1
        boxes.append((columns.min(), rows.min(), columns.max(), rows.max()))
    return sorted(boxes)


def followed(f, first, start, number):
    """The pixels of one border from `first`, which are marked in f; start: towards the background."""

    def neighbours(pixel, direction, turn):
        """The eight, beginning after this direction; turn: 1 clockwise, -1 counterclockwise."""
        at = AROUND.index(direction)
        return [(d, (pixel[0] + d[0], pixel[1] + d[1])) for d in (AROUND[(at + turn * k) % 8] for k in range(1, 9))]

    last = next((p for _, p in neighbours(first, start, 1) if f[p]), None)
    if last is None:
        f[first] = -number
        return [first]
    border, pixel, before = [], first, last
    while True:
        border.append(pixel)
        direction, following = (before[0] - pixel[0], before[1] - pixel[1]), None
        right_is_empty = False
        for d, p in neighbours(pixel, direction, -1):
            if f[p]:
                following = p
                break
            right_is_empty |= d == (0, 1)
        if right_is_empty:
            f[pixel] = -number
        elif f[pixel] == 1:
            f[pixel] = number
        if following == first and pixel == last:
            return border
        before, pixel = pixel, following


def opencv(mask):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
    return sorted((x, y, x + w - 1, y + h - 1) for x, y, w, h in map(cv2.boundingRect, contours))


def of(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


RING = of(".....", ".###.", ".#.#.", ".###.", ".....")
CONTOURS = {
    "nothing": (of("...", "..."), []),
    "a pixel in a corner": (of("#..", "..."), [(0, 0, 0, 0)]),
    "a ring, whose hole has the same box": (RING, [(1, 1, 3, 3), (1, 1, 3, 3)]),
    "a diamond: a hole is not open over corners": (of(".#.", "#.#", ".#."), [(0, 0, 2, 2), (0, 0, 2, 2)]),
    "what touches the border is no hole": (of("###", "#.#", "#.#"), [(0, 0, 2, 2)]),
    "nor what has no pixels around it": (of("...", ".#.", "..."), [(1, 1, 1, 1)]),
    "two holes that meet at a corner": (
        of("####.", "#.###", "##.##", "#####"),
        [(0, 0, 2, 2), (0, 0, 4, 3), (1, 1, 3, 3)],
    ),
    "an island in a hole, which belongs to it": (
        of("#######", "#.....#", "#..#..#", "#.....#", "#######"),
        [(0, 0, 6, 4), (0, 0, 6, 4), (3, 2, 3, 2)],
    ),
}


@pytest.mark.parametrize("case", CONTOURS)
def test_contours_by_hand(case):
    mask, expected = CONTOURS[case]
    assert border_following(mask) == expected
    assert sorted(map(tuple, contour_boxes(mask[None])[0].tolist())) == expected


@pytest.mark.parametrize("rule", [border_following, opencv], ids=["border_following", "opencv"])
def test_contours_are_those_of_border_following(rule):
    rng = np.random.default_rng(0)
    masks = [rng.random((9, 11)) < share for share in np.linspace(0, 1, 60)]
    masks += [ndimage.gaussian_filter(rng.random((9, 11)), 0.8) > 0.5 for _ in range(20)]
    found, which = contour_boxes(np.stack(masks))
    for t, mask in enumerate(masks):
        assert sorted(map(tuple, found[which == t].tolist())) == rule(mask)


def test_contour_overlaps_are_the_best_of_each_published_foreground():
    """Of the 1000 published fractions of the maximum, by border following, on maps that do not all reach 1."""
    rng = np.random.default_rng(1)
    heat = ndimage.gaussian_filter(rng.random((4, 9, 11)), (0, 1, 1))
    heat = (
        (heat - heat.min((1, 2), keepdims=True))
        / np.ptp(heat, (1, 2), keepdims=True)
        * [[[1.0]], [[1]], [[0.5]], [[0.02]]]
    )
    boxes = random_boxes(4, 9)
    overlaps = contour_overlaps(torch.from_numpy(heat), boxes)
    for image, box, row in zip((heat * 255).astype(np.uint8), boxes, overlaps, strict=True):
        seen = set()
        for threshold in {int(t * image.max()) for t in np.arange(0, 1, 0.001)}:
            contours = border_following(image > threshold) or [(0, 0, 0, 0)]
            seen.add(float(iou(torch.tensor(contours), box).max()))
        assert set(row.tolist()) == seen
    assert {int(t * 255) for t in np.arange(0, 1, 0.001)} == set(range(LEVELS))


def test_centre_boxes():
    boxes = centre_boxes(8, 20, SHARES)
    assert boxes[-1].tolist() == [0, 0, 19, 7]
    assert boxes[SHARES.index(0.5)].tolist() == [5, 2, 14, 5]
    assert (boxes[:, 2:] >= boxes[:, :2]).all() and boxes[0].tolist() == [9, 3, 9, 3]  # 5 % of 8 is a pixel
    middle = torch.tensor([[5, 2, 14, 5]])
    assert iou(boxes, middle).argmax() == SHARES.index(0.5)
