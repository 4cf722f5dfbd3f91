"""Heat maps, boxes and masks: against squares whose boxes are known, scipy, and plain numpy."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import UserError
from harness.explain import localization
from harness.explain.localization import HIT, SHARES, THRESHOLDS
from harness.explain.maps import CAM, minmax
from harness.models import nets
from harness.models.freezing import frozen


def planted(boxes: Tensor, size: int = 12) -> Tensor:
    """Masks (B, size, size) of 1 inside the boxes, 0 outside."""
    masks = torch.zeros(len(boxes), size, size)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        mask[top : bottom + 1, left : right + 1] = 1
    return masks


def random_boxes(n: int, size: int = 12) -> Tensor:
    ends = torch.randint(size, (n, 2, 2)).sort(1).values
    return torch.cat([ends[:, 0], ends[:, 1]], 1)


@pytest.fixture
def net():
    return nets.build("small", 3, 5).eval()


# Boxes


def test_iou_by_hand():
    box = torch.tensor([2, 3, 5, 6])  # 4 x 4
    assert localization.iou(box, box) == 1
    assert localization.iou(box, torch.tensor([6, 3, 9, 6])) == 0  # beside it
    assert localization.iou(box, torch.tensor([7, 8, 9, 9])) == 0  # apart in both directions
    assert localization.iou(box, torch.tensor([5, 6, 8, 9])) == pytest.approx(1 / 31)  # a corner in common
    assert localization.iou(box, torch.tensor([2, 3, 3, 6])) == 0.5
    assert localization.iou(box, torch.tensor([2, 3, 2, 3])) == 1 / 16  # a single pixel


def test_iou_counts_pixels_and_broadcasts():
    a, b = random_boxes(20), random_boxes(30)
    first, second = planted(a).bool()[:, None], planted(b).bool()[None]
    expected = (first & second).sum((2, 3)) / (first | second).sum((2, 3))
    torch.testing.assert_close(localization.iou(a[:, None], b[None]), expected)


def test_iou_of_large_boxes_kept_as_int16():
    a = torch.tensor([0, 0, 223, 223], dtype=torch.int16)
    assert localization.iou(a, torch.tensor([0, 0, 223, 111], dtype=torch.int16)) == 0.5


def test_components_hang_together_over_corners():
    mask = np.array([[1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1]], bool)
    boxes, pixels = localization.components(mask)
    found = {(*box, n) for box, n in zip(boxes.tolist(), pixels.tolist(), strict=True)}
    assert found == {(0, 0, 1, 1, 2), (4, 0, 4, 0, 1), (4, 2, 4, 3, 2), (0, 3, 2, 3, 3)}
    none, zero = localization.components(np.zeros((3, 3), bool))
    assert none.shape == (0, 4) and zero.shape == (0,)


def test_a_map_equal_to_the_mask_gives_the_box_at_every_threshold():
    boxes = random_boxes(40)
    for overlaps in localization.box_overlaps(0.3 * planted(boxes), boxes):
        assert overlaps.shape == (40, len(THRESHOLDS)) and (overlaps == 1).all()


def test_the_largest_part_counts_and_the_best_one_is_kept_beside_it():
    small, large = torch.tensor([[1, 1, 3, 3]]), torch.tensor([[6, 4, 11, 11]])
    heat = torch.maximum(planted(small), 0.5 * planted(large))
    first, second = localization.box_overlaps(heat, small)
    high = torch.tensor(THRESHOLDS) >= 0.5  # the large one is not above
    assert (first[0, ~high] == 0).all() and (first[0, high] == 1).all()
    assert (second == 1).all()


def test_of_equal_parts_the_uppermost():
    boxes = torch.tensor([[8, 1, 9, 2], [1, 6, 2, 7]])
    heat = planted(boxes).amax(0, keepdim=True)
    assert (localization.box_overlaps(heat, boxes[:1])[0] == 1).all()
    assert (localization.box_overlaps(heat, boxes[1:])[0] == 0).all()


def test_a_pyramid_gives_a_smaller_box_at_each_threshold():
    """Height 1 - d / 6 at Chebyshev distance d from the middle: above t are the pixels with d < 6 (1 - t)."""
    offset = torch.arange(13) - 6
    heat = 1 - torch.maximum(offset.abs()[:, None], offset.abs()[None]) / 6
    boxes = torch.tensor([[6, 6, 6, 6]])
    first, _ = localization.box_overlaps(heat[None].double(), boxes, (0.0, 0.24, 0.49, 0.74, 0.95))
    assert first[0].tolist() == pytest.approx([1 / 11**2, 1 / 9**2, 1 / 7**2, 1 / 3**2, 1])


def test_a_map_without_anything_gives_the_published_box():
    for heat in (torch.zeros(1, 9, 9), torch.full((1, 9, 9), 0.0)):
        first, second = localization.box_overlaps(heat, torch.tensor([[0, 0, 1, 1]]))
        assert (first == 1).all() and torch.equal(first, second)


def test_box_overlaps_by_brute_force():
    heat, boxes = ndimage.gaussian_filter(np.random.default_rng(0).random((6, 12, 12)), (0, 1, 1)), random_boxes(6)
    heat = (heat - heat.min((1, 2), keepdims=True)) / np.ptp(heat, (1, 2), keepdims=True)
    first, second = localization.box_overlaps(torch.from_numpy(heat), boxes)
    for i, (j, threshold) in itertools.product(range(6), enumerate(THRESHOLDS)):
        labels, n = ndimage.label(heat[i] > threshold, ndimage.generate_binary_structure(2, 2))
        ious, sizes = [], []
        for part in range(1, n + 1):
            rows, columns = np.nonzero(labels == part)
            box = torch.tensor([columns.min(), rows.min(), columns.max(), rows.max()])
            ious.append(float(localization.iou(box, boxes[i])))
            sizes.append(len(rows))
        assert first[i, j] == pytest.approx(ious[int(np.argmax(sizes))])
        assert second[i, j] == pytest.approx(max(ious))
    assert (second >= first).all() and (second > first).any()


def test_centre_boxes():
    boxes = localization.centre_boxes(8, 20)
    assert boxes[-1].tolist() == [0, 0, 19, 7]
    assert boxes[SHARES.index(0.5)].tolist() == [5, 2, 14, 5]
    assert (boxes[:, 2:] >= boxes[:, :2]).all() and boxes[0].tolist() == [9, 3, 9, 3]  # 5 % of 8 is a pixel
    middle = torch.tensor([[5, 2, 14, 5]])
    assert localization.iou(boxes, middle).argmax() == SHARES.index(0.5)


# Heat maps


def published_grad_map(net: nn.Module, x: Tensor, sigma: float) -> np.ndarray:
    """The recipe step by step, of one image, by scipy, in float64."""
    z = x.double().requires_grad_(True)
    logits = net(z)
    (g,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), z)

    def stretched(m):
        return (m - m.min()) / np.ptp(m)

    m = stretched(g.abs().mean(1)[0].numpy())
    m = (m - m.mean()) / m.std(ddof=1)
    m = stretched(m.clip(*np.percentile(m, (2, 98))))
    m = ndimage.uniform_filter(m, 3, mode="constant")
    return stretched(ndimage.gaussian_filter(m, sigma))


@pytest.mark.parametrize("size", [(32, 32), (16, 40), (8, 8)])
def test_grad_map_is_the_published_recipe_of_each_image_by_itself(net, size):
    x = torch.rand(3, 3, *size)
    heat = localization.grad_map(net, x, sigma=20.0)
    double = nets.build("small", 3, 5).eval().double()
    double.load_state_dict(net.state_dict())
    for i in range(3):
        expected = published_grad_map(double, x[i : i + 1], 20.0 * min(size) / 224)
        np.testing.assert_allclose(heat[i], expected, atol=2e-4)


def test_grad_map_at_224_smooths_by_three_pixels():
    class Pixel(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 100:102, 100:102].sum((1, 2)), x.sum((1, 2, 3)) * 0], 1)

    heat = localization.grad_map(Pixel(), torch.rand(1, 1, 224, 224))[0]
    spot = np.zeros((224, 224))
    spot[100:102, 100:102] = 1
    assert (heat == 0).all()  # four pixels of fifty thousand lie beyond the 98th percentile
    heat = minmax(torch.from_numpy(spot)[None])
    rows = localization._gaussian(224, 3.0)
    np.testing.assert_allclose((rows @ heat[0] @ rows.T).numpy(), ndimage.gaussian_filter(spot, 3), atol=1e-12)


def test_grad_map_is_that_of_the_cross_entropy_also_where_that_vanishes(net):
    x = torch.rand(2, 3, 16, 16)
    heat = localization.grad_map(net, x)
    with torch.no_grad():
        net.head.weight *= 1e4
    z = x.clone().requires_grad_(True)
    logits = net(z)
    (g,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), z)
    assert (g == 0).all()
    sure = localization.grad_map(net, x)
    assert (sure.flatten(1).amax(1) == 1).all() and not torch.allclose(sure, heat)  # of two classes, no longer of five
    predicted, runner_up = logits.topk(2, 1).indices.T
    two = nets.build("small", 3, 2).eval()
    two.load_state_dict({**net.state_dict(), **{k: v[:2] for k, v in net.head.state_dict(prefix="head.").items()}})
    for i in range(2):
        two.head.weight.data = net.head.weight.data[torch.stack([predicted[i], runner_up[i]])] / 1e4
        torch.testing.assert_close(localization.grad_map(two, x[i : i + 1])[0], sure[i], atol=1e-3, rtol=0)


def test_against_predicted_is_the_log_of_the_odds():
    logits = torch.randn(7, 5, dtype=torch.float64)
    p = logits.softmax(1).amax(1)
    torch.testing.assert_close(localization.log_odds_against_prediction(logits), ((1 - p) / p).log())


def test_clipping_is_at_numpys_percentiles():
    maps = torch.rand(4, 9, 11)
    for low, high in ((0.02, 0.98), (0.0, 1.0), (0.25, 0.5)):
        clipped = localization._clipped_to_quantiles(maps, low, high)
        for m, c in zip(maps.numpy(), clipped.numpy(), strict=True):
            np.testing.assert_allclose(c, m.clip(*np.percentile(m, (100 * low, 100 * high))), rtol=1e-6)


def test_maps_leave_the_net_as_it_was_and_do_not_depend_on_the_batch(net):
    net.train()
    x, y = torch.rand(4, 3, 16, 16).to(memory_format=torch.channels_last), torch.arange(4)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for heat, alone in (
        (localization.grad_map(net, x), localization.grad_map(net, x[2:3])),
        (localization.cam_map(net, x, y), localization.cam_map(net, x[2:3], y[2:3])),
    ):
        assert heat.shape == (4, 16, 16) and not heat.requires_grad
        assert heat.amin() == 0 and (heat.flatten(1).amax(1) == 1).all()
        torch.testing.assert_close(heat[2:3], alone, atol=1e-5, rtol=0)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_a_net_that_ignores_its_input_has_a_map_of_zeros(net):
    with torch.no_grad():
        net.head.weight.zero_()
    assert (localization.grad_map(net, torch.rand(2, 3, 8, 8)) == 0).all()


def test_cam_map_finds_what_speaks_for_the_label():
    """Features that are the image itself: the map of class 0 is the image, that of class 1 its negative."""
    net = nets.Net(nn.Identity(), 1, 2, 1).eval()
    net.head.weight.data = torch.tensor([[1.0], [-1.0]])
    boxes = random_boxes(5, 10)
    x = planted(boxes, 10)[:, None]
    x[boxes.eq(torch.tensor([0, 0, 9, 9])).all(1)] = 0.5
    label = torch.zeros(5, dtype=torch.int64)
    torch.testing.assert_close(localization.cam_map(net, x, label), minmax(x[:, 0]))
    torch.testing.assert_close(localization.cam_map(net, x, 1 - label), minmax(-x[:, 0]))
    assert (CAM().detached(net, x, label)[:, 0] == x[:, 0]).all()


def test_cam_map_needs_a_net_with_a_head():
    with pytest.raises(UserError, match="Linear"):
        localization.cam_map(nn.Linear(3, 3), torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64))


# Scores


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
        **dict.fromkeys(("grad", "grad-any", "cam", "cam-any"), (4, 20)),
        "centre": (4, 20),
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
    names = ("grad", "grad-any", "cam", "cam-any", "centre")
    return {"right": (torch.rand(n) < 0.7).float(), **{name: torch.rand(n, 20) for name in names}}


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
    overlaps = torch.rand(25, 20)
    per_hit = [max(np.mean(overlaps[:, t].numpy() >= hit) for t in range(20)) for hit in (0.3, 0.5, 0.7)]
    images = localization.max_box_acc(overlaps)
    assert images.shape == (25,) and images.mean() == pytest.approx(np.mean(per_hit))


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


def test_overlap_by_hand_and_by_numpy():
    predicted = torch.rand(6, 5, 7) < 0.5
    masks = torch.tensor([0, 1, 255], dtype=torch.uint8)[torch.randint(3, (6, 5, 7))]
    scores = localization.overlap(predicted, masks)
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
    scores = localization.overlap(predicted, masks)
    for name in ("iou", "dice"):
        assert scores[name][[0, 2, 3]].tolist() == [1, 0, 1]
    assert scores["pixel"][[0, 2, 3]].tolist() == pytest.approx([1, 8 / 9, 1])
    assert all(score[1].isnan() for score in scores.values())


def test_otsu_has_the_least_variance_within_its_classes():
    rng = np.random.default_rng(0)
    heat = np.clip(np.concatenate([rng.normal(0.3, 0.08, (4, 150)), rng.normal(0.7, 0.1, (4, 90))], 1), 0, 1)
    thresholds = localization.otsu(torch.from_numpy(heat).view(4, 15, 16))
    levels = np.rint(heat * 255)
    for i in range(4):
        within = []
        for level in range(256):
            low, high = levels[i][levels[i] <= level], levels[i][levels[i] > level]
            within.append(sum(part.var() * len(part) for part in (low, high) if len(part)))
        assert within[int(thresholds[i] * 255)] == pytest.approx(min(within))
        assert 0.4 < thresholds[i] < 0.6
    constant = torch.full((1, 4, 4), 0.5)
    assert not (constant > localization.otsu(constant)).any()


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
    predicted = localization.grad_map(net, x) > 0.2
    torch.testing.assert_close(localization.at(measured["iou"], 0.2), localization.overlap(predicted, masks)["iou"])
