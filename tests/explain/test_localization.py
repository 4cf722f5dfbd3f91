"""Localisation scores and their threshold rules: against squares whose boxes are known, and plain numpy."""

import numpy as np
import pytest
import torch
from planted_boxes import planted, random_boxes
from torch import Tensor, nn

from harness.errors import UserError
from harness.explain import localization
from harness.explain.boxes import contour_overlaps, iou
from harness.explain.heat_maps import grad_map
from harness.explain.localization import HIT, SHARES, THRESHOLDS
from harness.explain.maps import minmax
from harness.explain.masks import overlap
from harness.models import nets
from harness.models.freezing import frozen


@pytest.fixture
def net():
    return nets.build("small", 3, 5).eval()


# Boxes


def test_measure_boxes_of_a_net_that_sees_one_square_only():
    """Its logits rest on one square of the image, so that is what the grad map finds, whatever the image."""
    box = torch.tensor([10, 14, 21, 25])
    mask = planted(box[None], 32)

    class Square(nets.Net):
        def maps(self, x):
            return x * mask

    net = Square(nn.Identity(), 3, 2, 3).eval()
    net.head.weight.data = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 0, 1, 1])
    measured = localization.measure_boxes(net, x, y, box.expand(4, 4).to(torch.int16))
    assert measured["right"].tolist() == [1, 1, 0, 0]
    assert {k: tuple(v.shape) for k, v in measured.items()} == {
        "right": (4,),
        **dict.fromkeys(("grad", "cam", "centre"), (4, 20)),
        **dict.fromkeys(("grad-any", "cam-any"), (4, 255)),
    }
    assert (localization.at(measured["grad"], 0.5) == 1).all()
    assert (localization.at(measured["grad"], 0.2) >= HIT).all()
    scores = localization.box_scores(measured)
    assert scores["gtknown-grad"].tolist() == [1, 1, 1, 1] and scores["top1loc-grad"].tolist() == [1, 1, 0, 0]
    assert (scores["maxboxacc-grad"] == 1).all()


def test_measure_boxes_on_shapes_is_one_number_per_image(net):
    x, y, boxes = torch.rand(5, 3, 16, 16), torch.randint(5, (5,)), random_boxes(5, 16)
    whole = localization.measure_boxes(net, x, y, boxes)
    parts = [localization.measure_boxes(net, x[i : i + 1], y[i : i + 1], boxes[i : i + 1]) for i in range(5)]
    for name, values in whole.items():
        torch.testing.assert_close(torch.cat([p[name] for p in parts]), values)
    with frozen(net), torch.no_grad():
        assert torch.equal(whole["right"].bool(), net(x).argmax(1) == y)


def swept(seed: int, n: int = 30) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    columns = {"grad": 20, "grad-any": 255, "cam": 20, "cam-any": 255, "centre": 20}
    return {"right": (torch.rand(n) < 0.7).float(), **{name: torch.rand(n, k) for name, k in columns.items()}}


def test_rules_by_numpy():
    val, test = swept(0), swept(1)
    chosen = localization.choose_boxes(val)
    scores = localization.box_scores(test, chosen)
    assert set(localization.box_scores(test)) == {name for name in scores if "transferred" not in name}
    for name, grid, published in (("grad", THRESHOLDS, 0.2), ("cam", THRESHOLDS, 0.1), ("centre", SHARES, 0.7)):
        hits = test[name].numpy() >= HIT
        columns = {
            "": list(grid).index(published),
            "-oracle": hits.mean(0).argmax(),
            "-transferred": (val[name].numpy() >= HIT).mean(0).argmax(),
        }
        for rule, column in columns.items():
            assert np.array_equal(scores[f"gtknown-{name}{rule}"].numpy(), hits[:, column])
            assert np.array_equal(scores[f"top1loc-{name}{rule}"].numpy(), hits[:, column] * test["right"].numpy())
        assert scores[f"gtknown-{name}-oracle"].mean() == hits.mean(0).max()


def test_max_box_acc_by_brute_force():
    overlaps = torch.rand(25, 255)
    per_hit = [max(np.mean(overlaps[:, t].numpy() >= hit) for t in range(255)) for hit in (0.3, 0.5, 0.7)]
    images = localization.max_box_acc(overlaps)
    assert images.shape == (25,) and images.mean() == pytest.approx(np.mean(per_hit))


def test_max_box_acc_counts_the_boxes_of_holes():
    """Class activation of all but the object: the hole of the map is the object, less a pixel on each side."""
    boxes = torch.tensor([[4, 3, 9, 8], [5, 5, 8, 10], [2, 2, 8, 8]])
    inner = boxes + torch.tensor([1, 1, -1, -1])
    heat = 1 - planted(inner)
    assert localization.max_box_acc(contour_overlaps(heat, boxes)).tolist() == [1, 1, 1]
    whole = iou(torch.tensor([0, 0, 11, 11]), boxes)  # what the outer contours give
    assert (whole < 0.5).all()
    missed = localization.max_box_acc(contour_overlaps(planted(torch.tensor([[0, 0, 11, 11]] * 3)), boxes))
    assert missed.tolist() == pytest.approx([0, 0, 1 / 3])  # 49 of 144 pixels: above 0.3 only


def test_a_threshold_that_was_not_swept_is_a_mistake():
    with pytest.raises(UserError, match=r"0\.22.* 0\.2$"):
        localization.at(torch.rand(3, 20), 0.22)
    assert torch.equal(localization.at(torch.arange(40.0).view(2, 20), 0.15), torch.tensor([3.0, 23.0]))


def test_best_leaves_out_what_is_not_counted():
    values = torch.tensor([[0.9, 0.2], [0.8, torch.nan]])
    assert localization.best(values, (0.1, 0.2)) == 0.1
    assert localization.best(values.flip(1), (0.1, 0.2)) == 0.2
    assert localization.best(torch.ones(3, 2), (0.1, 0.2)) == 0.1


# Masks


def test_a_map_equal_to_the_mask_scores_one():
    boxes = random_boxes(20)
    masks = planted(boxes)
    measured = localization.mask_overlaps(masks, masks.to(torch.uint8))
    whole = masks.flatten(1).amin(1) == 1  # a map without a border has no threshold to be found
    for name, values in measured.items():
        assert values.shape == ((20,) if name.endswith("-otsu") else (20, 20))
        assert (values[~whole] == 1).all()


def test_mask_scores_by_their_rules():
    heat, masks = torch.rand(9, 10, 10), torch.randint(2, (9, 10, 10), dtype=torch.uint8)
    masks[4] = 255
    measured = localization.mask_overlaps(minmax(heat), masks)
    scores = localization.mask_scores(measured, chosen=0.55)
    rules = ("", "-oracle", "-transferred", "-otsu")
    assert set(scores) == {name + rule for name in ("iou", "dice", "pixel") for rule in rules}
    assert all(score.isnan().tolist() == [False] * 4 + [True] + [False] * 4 for score in scores.values())
    assert torch.equal(scores["dice-transferred"].nan_to_num(), measured["dice"][:, 11].nan_to_num())
    assert torch.equal(scores["pixel"].nan_to_num(), measured["pixel"][:, 4].nan_to_num())
    assert scores["iou-oracle"].nanmean() == pytest.approx(measured["iou"].nanmean(0).max().item())
    torch.testing.assert_close(scores["dice"], 2 * scores["iou"] / (1 + scores["iou"]), equal_nan=True)


def test_measure_masks_is_of_the_grad_map(net):
    x, masks = torch.rand(3, 3, 16, 16), torch.randint(2, (3, 16, 16), dtype=torch.uint8)
    measured = localization.measure_masks(net, x, masks)
    predicted = grad_map(net, x) > 0.2
    torch.testing.assert_close(localization.at(measured["iou"], 0.2), overlap(predicted, masks)["iou"])
