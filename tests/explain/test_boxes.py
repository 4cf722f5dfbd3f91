"""Boxes of heat maps: against squares whose boxes are known, and scipy."""

import itertools

import numpy as np
import pytest
import torch
from planted_boxes import planted, random_boxes
from scipy import ndimage

from harness.explain.boxes import box_overlaps, centre_boxes, components, iou
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
    for overlaps in box_overlaps(0.3 * planted(boxes), boxes, THRESHOLDS):
        assert overlaps.shape == (40, len(THRESHOLDS)) and (overlaps == 1).all()


def test_the_largest_part_counts_and_the_best_one_is_kept_beside_it():
    small, large = torch.tensor([[1, 1, 3, 3]]), torch.tensor([[6, 4, 11, 11]])
    heat = torch.maximum(planted(small), 0.5 * planted(large))
    first, second = box_overlaps(heat, small, THRESHOLDS)
    high = torch.tensor(THRESHOLDS) >= 0.5  # the large one is not above
    assert (first[0, ~high] == 0).all() and (first[0, high] == 1).all()
    assert (second == 1).all()


def test_of_equal_parts_the_uppermost():
    boxes = torch.tensor([[8, 1, 9, 2], [1, 6, 2, 7]])
    heat = planted(boxes).amax(0, keepdim=True)
    assert (box_overlaps(heat, boxes[:1], THRESHOLDS)[0] == 1).all()
    assert (box_overlaps(heat, boxes[1:], THRESHOLDS)[0] == 0).all()


def test_a_pyramid_gives_a_smaller_box_at_each_threshold():
    """Height 1 - d / 6 at Chebyshev distance d from the middle: above t are the pixels with d < 6 (1 - t)."""
    offset = torch.arange(13) - 6
    heat = 1 - torch.maximum(offset.abs()[:, None], offset.abs()[None]) / 6
    boxes = torch.tensor([[6, 6, 6, 6]])
    first, _ = box_overlaps(heat[None].double(), boxes, (0.0, 0.24, 0.49, 0.74, 0.95))
    assert first[0].tolist() == pytest.approx([1 / 11**2, 1 / 9**2, 1 / 7**2, 1 / 3**2, 1])


def test_a_map_without_anything_gives_the_published_box():
    for heat in (torch.zeros(1, 9, 9), torch.full((1, 9, 9), 0.0)):
        first, second = box_overlaps(heat, torch.tensor([[0, 0, 1, 1]]), THRESHOLDS)
        assert (first == 1).all() and torch.equal(first, second)


def test_box_overlaps_by_brute_force():
    heat, boxes = ndimage.gaussian_filter(np.random.default_rng(0).random((6, 12, 12)), (0, 1, 1)), random_boxes(6)
    heat = (heat - heat.min((1, 2), keepdims=True)) / np.ptp(heat, (1, 2), keepdims=True)
    first, second = box_overlaps(torch.from_numpy(heat), boxes, THRESHOLDS)
    for i, (j, threshold) in itertools.product(range(6), enumerate(THRESHOLDS)):
        labels, n = ndimage.label(heat[i] > threshold, ndimage.generate_binary_structure(2, 2))
        ious, sizes = [], []
        for part in range(1, n + 1):
            rows, columns = np.nonzero(labels == part)
            box = torch.tensor([columns.min(), rows.min(), columns.max(), rows.max()])
            ious.append(float(iou(box, boxes[i])))
            sizes.append(len(rows))
        assert first[i, j] == pytest.approx(ious[int(np.argmax(sizes))])
        assert second[i, j] == pytest.approx(max(ious))
    assert (second >= first).all() and (second > first).any()


def test_centre_boxes():
    boxes = centre_boxes(8, 20, SHARES)
    assert boxes[-1].tolist() == [0, 0, 19, 7]
    assert boxes[SHARES.index(0.5)].tolist() == [5, 2, 14, 5]
    assert (boxes[:, 2:] >= boxes[:, :2]).all() and boxes[0].tolist() == [9, 3, 9, 3]  # 5 % of 8 is a pixel
    middle = torch.tensor([[5, 2, 14, 5]])
    assert iou(boxes, middle).argmax() == SHARES.index(0.5)
