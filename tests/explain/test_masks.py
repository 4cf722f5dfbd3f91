"""Masks and Otsu's threshold: against plain numpy."""

import numpy as np
import pytest
import torch

from harness.explain.masks import otsu, overlap


def test_overlap_by_hand_and_by_numpy():
    predicted = torch.rand(6, 5, 7) < 0.5
    masks = torch.tensor([0, 1, 255], dtype=torch.uint8)[torch.randint(3, (6, 5, 7))]
    scores = overlap(predicted, masks)
    for i in range(6):
        known = masks[i].numpy() != 255
        p, t = predicted[i].numpy()[known], masks[i].numpy()[known] == 1
        assert scores["iou"][i] == pytest.approx((p & t).sum() / (p | t).sum())
        assert scores["dice"][i] == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()))
        assert scores["pixel"][i] == pytest.approx((p == t).mean())


def test_overlap_at_its_ends():
    masks = torch.zeros(4, 3, 3, dtype=torch.uint8)
    masks[1], masks[2, 0, 0], masks[3] = 255, 1, 1
    predicted = torch.zeros(4, 3, 3, dtype=torch.bool)
    predicted[3] = True
    scores = overlap(predicted, masks)
    for name in ("iou", "dice"):
        assert scores[name][[0, 2, 3]].tolist() == [1, 0, 1]
    assert scores["pixel"][[0, 2, 3]].tolist() == pytest.approx([1, 8 / 9, 1])
    assert all(score[1].isnan() for score in scores.values())


def test_otsu_has_the_least_variance_within_its_classes():
    rng = np.random.default_rng(0)
    heat = np.clip(np.concatenate([rng.normal(0.3, 0.08, (4, 150)), rng.normal(0.7, 0.1, (4, 90))], 1), 0, 1)
    thresholds = otsu(torch.from_numpy(heat).view(4, 15, 16))
    levels = np.rint(heat * 255)
    for i in range(4):
        within = []
        for level in range(256):
            low, high = levels[i][levels[i] <= level], levels[i][levels[i] > level]
            within.append(sum(part.var() * len(part) for part in (low, high) if len(part)))
        assert within[int(thresholds[i] * 255)] == pytest.approx(min(within))
        assert 0.4 < thresholds[i] < 0.6
    constant = torch.full((1, 4, 4), 0.5)
    assert not (constant > otsu(constant)).any()
