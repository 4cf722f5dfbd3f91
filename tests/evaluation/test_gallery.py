"""Pictures of a finished net: nets whose maps, boxes and attacked images are known, and how a trial keeps them."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from harness.config.trial import build
from harness.data.datasets import Data, Split
from harness.evaluation import gallery
from harness.evaluation.settings import Attribution, Measure
from harness.explain.boxes import largest_boxes
from harness.models import nets
from harness.trials import run as trial_run

MEASURE = Measure(eps=(2 / 255, 8 / 255, 32 / 255), steps=10)
ATTRIBUTION = Attribution(eps=8 / 255, k=10, points=5)


class Linear(nn.Module):
    """Logits w . x."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        return x.flatten(1) @ self.w.flatten(1).T


def split(n=30, classes=3, side=8, channels=3, seed=0, boxes=None):
    draws = torch.Generator().manual_seed(seed)
    x = torch.randint(64, 192, (n, channels, side, side), dtype=torch.uint8, generator=draws)
    boxes = None if boxes is None else torch.tensor(boxes, dtype=torch.int16).repeat(n, 1)
    return Split(x, torch.arange(n) % classes, boxes)


def data(train=None, **test):
    test = split(**test)
    count = int(test.y.max()) + 1
    return Data(train or test, test, test, tuple(f"class {i}" for i in range(count)), {})


def linear(classes=3, side=8, channels=3):
    return Linear(torch.randn(classes, channels, side, side, generator=torch.Generator().manual_seed(1)))


def arrays(net, of, **how):
    return gallery.gallery(net, of, how.pop("measure", MEASURE), how.pop("attribution", ATTRIBUTION), **how)


def test_shown_is_the_first_image_of_each_class_whatever_the_net():
    of = data(classes=5)
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    of = Data(of.train, of.val, of.test.at(shuffled), of.classes, {})
    found = arrays(linear(5), of, images=3)
    first = [int((of.test.y == c).nonzero()[0]) for c in range(3)]
    assert np.array_equal(found["x"], of.test.x[first].permute(0, 2, 3, 1).numpy())
    assert found["y"].tolist() == [0, 1, 2] and found["classes"].tolist() == list(of.classes)
    assert np.array_equal(arrays(nets.build("small", 3, 5), of, images=3)["x"], found["x"])


def test_a_class_without_test_images_is_passed_over():
    of = data(classes=4)
    of = Data(of.train, of.val, of.test.at(of.test.y != 1), of.classes, {})
    assert arrays(linear(4), of)["y"].tolist() == [0, 2, 3]


def test_the_maps_of_a_linear_net_are_its_weights():
    net, of = linear(), data()
    found = arrays(net, of)
    w = net.w.detach().permute(0, 2, 3, 1).numpy()
    size = np.sqrt((w**2).mean((1, 2, 3), keepdims=True))
    assert found["gradient"] == pytest.approx(w / size, abs=1 / 64 + 1e-3)
    magnitude = np.abs(w * found["x"] / 255).sum(3)
    assert found["integrated"] == pytest.approx(magnitude / magnitude.mean((1, 2), keepdims=True), abs=1 / 64 + 4e-3)
    logits = np.einsum("nhwc,khwc->nk", found["x"] / 255, w)
    assert found["predicted"].tolist() == logits.argmax(1).tolist()
    assert found["gradient"].dtype == found["integrated"].dtype == np.float16


def test_a_net_without_a_gradient_has_empty_maps():
    net = linear()
    nn.init.zeros_(net.w)
    found = arrays(net, data())
    assert not found["gradient"].any() and not found["integrated"].any()


def test_attacked_images_are_those_of_pgd_at_the_middle_eps():
    """Against two linear logits PGD ends in the corner that their difference points to."""
    net, of = linear(2), data(classes=2)
    found = arrays(net, of, measure=Measure(eps=(32 / 255, 2 / 255, 8 / 255), steps=10))
    away = (net.w[1] - net.w[0]).detach().sign().permute(1, 2, 0).numpy()
    assert found["eps"] == 8 / 255
    x = found["x"].astype(int)
    assert np.array_equal(found["attacked"].astype(int), x + 8 * np.stack([away, -away]).astype(int))
    w = net.w.detach().permute(0, 2, 3, 1).numpy()
    logits = np.einsum("nhwc,khwc->nk", found["attacked"] / 255, w)
    assert found["attacked_predicted"].tolist() == logits.argmax(1).tolist()
    assert np.array_equal(found["attacked_gradient"], found["gradient"])  # that of a linear net is the same everywhere


@pytest.mark.parametrize(
    "eps, middle", [((1 / 255,), 1), ((1 / 255, 2 / 255), 2), ((4 / 255, 1 / 255, 3 / 255, 2 / 255), 3)]
)
def test_of_an_even_number_of_eps_the_upper_middle_one_is_shown(eps, middle):
    assert arrays(linear(), data(), measure=Measure(eps=eps, steps=1))["eps"] == pytest.approx(middle / 255)


@pytest.fixture(scope="module")
def tested(shared_workspace):
    """A trial on digits, its folder, and the arrays that it kept."""
    run = build({"epochs": 3, "measure.watch": 3, "measure.eps": "16/255", "measure.steps": 2})
    trial_run.run(run, shared_workspace, test=True)
    folder = shared_workspace.trial(run.key)
    with np.load(folder / "gallery.npz") as kept:
        return run, folder, dict(kept)


def test_an_attack_on_attributions_keeps_predictions_and_is_told_by_its_metrics(tested):
    run, _, found = tested
    k = run.attribution.k
    assert len(found["moved"]) == 4 and found["moved_eps"] == run.attribution.eps
    delta = np.abs(found["moved"].astype(int) - found["x"][:4])
    assert 0 < delta.max() <= round(255 * run.attribution.eps)
    right = found["predicted"][:4] == found["y"][:4]
    assert right.any() and np.array_equal(np.isfinite(found["moved_in"]), right)
    assert np.array_equal(found["moved_predicted"], found["predicted"][:4])
    for i in right.nonzero()[0]:
        before, after = (found[name][i].ravel().astype(float) for name in ("integrated", "moved_integrated"))
        top = [set(np.argsort(-m, kind="stable")[:k]) for m in (before, after)]
        assert found["moved_in"][i] == pytest.approx(len(top[0] & top[1]) / k, abs=0.11)  # maps are kept rounded
        assert found["moved_k"][i] == pytest.approx(stats.kendalltau(before, after).statistic, abs=0.05)
        assert found["moved_k"][i] < 0.97


def test_what_is_wrong_from_the_start_is_shown_unmoved():
    net, of = linear(2), data(classes=2)
    found = arrays(net, of)
    wrong = found["predicted"] != found["y"]
    net.w.data = net.w.data.flip(0)  # what was wrong is right now, what was right is wrong
    turned = arrays(net, of)
    for one, hidden in ((found, wrong), (turned, ~wrong)):
        assert np.array_equal(np.isnan(one["moved_in"]), hidden) and np.array_equal(np.isnan(one["moved_k"]), hidden)
        assert np.array_equal((one["moved"] != one["x"]).any((1, 2, 3)), ~hidden)


def test_fewer_pixels_than_k_are_all_of_them():
    found = arrays(linear(2), data(classes=2), attribution=Attribution(k=1000, points=2))
    assert set(found["moved_in"][np.isfinite(found["moved_in"])]) <= {1.0}


def test_the_largest_part_is_boxed_as_localisation_scores_take_it():
    heat = torch.zeros(3, 16, 16)
    heat[0, 2:5, 3:9] = 1
    heat[0, 10:12, 1:3] = 1
    heat[1, 7, 7] = 1
    heat[1] += 0.1
    found = largest_boxes(heat, 0.2)
    assert found.tolist() == [[3, 2, 8, 4], [7, 7, 7, 7], [0, 0, 1, 1]]


@pytest.mark.parametrize("side, kept, box", [(32, 32, (8, 12, 19, 23)), (192, 96, (48, 72, 119, 143))])
def test_boxes_lie_where_the_net_looks_in_pixels_of_the_images_kept(side, kept, box):
    left, top, right, bottom = box
    net = linear(2, side)
    seen = torch.zeros_like(net.w)
    seen[:, :, top : bottom + 1, left : right + 1] = net.w.data[:, :, top : bottom + 1, left : right + 1].sign()
    net.w.data = seen
    found = arrays(net, data(n=4, classes=2, side=side, boxes=box), images=2)
    assert found["x"].shape == (2, kept, kept, 3) and found["gradient"].shape == (2, kept, kept, 3)
    assert found["attacked_integrated"].shape == found["moved_integrated"].shape == (2, kept, kept)
    expected = np.array(box) * kept / side
    assert found["boxes"] == pytest.approx(np.tile(np.where([1, 1, 0, 0], expected, np.floor(expected)), (2, 1)))
    assert np.abs(found["located_grad"] - found["boxes"]).max() <= 2  # a gradient map is smoothed
    assert "located_cam" not in found
    assert ("samples" in found) == (side <= 64)


def test_a_net_of_ours_has_class_activation_maps():
    net = nets.build("small", 3, 2)
    found = arrays(net, data(n=8, classes=2, boxes=(1, 1, 4, 4)))
    assert found["located_cam"].shape == (2, 4)
    assert not {"boxes", "located_grad", "located_cam"} & set(arrays(net, data(n=8, classes=2)))


def test_samples_are_drawn_from_training_images_of_the_size_of_the_test_images():
    train = split(n=40, classes=3, side=12)
    train = train.at(train.y != 1)
    found = arrays(linear(3), data(train=train, classes=3))
    assert found["samples"].shape == (2, 8, 8, 3) and found["samples"].dtype == np.uint8
    assert found["samples_y"].tolist() == [0, 2]


def test_the_same_net_and_data_give_the_same_file_and_nothing_moves(tmp_path):
    net, of = nets.build("small", 1, 3).train(), data(channels=1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    files = []
    for name in ("a.npz", "b.npz"):
        torch.manual_seed(len(files))
        state = torch.get_rng_state()
        gallery.store_gallery(tmp_path / name, net, of, MEASURE, ATTRIBUTION)
        assert torch.equal(torch.get_rng_state(), state)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.slow
def test_a_file_of_32_pixels_is_small(tmp_path):
    of = data(n=20, classes=10, side=32, boxes=(8, 8, 20, 20))
    gallery.store_gallery(tmp_path / "a.npz", nets.build("small", 3, 10), of, MEASURE, ATTRIBUTION)
    assert (tmp_path / "a.npz").stat().st_size < 200_000


# Beside a trial


def test_pictures_are_kept_of_tested_trials_only_and_once(workspace, quick):
    run = quick(method="standard")
    trial_run.run(run, workspace)
    file = workspace.trial(run.key) / "gallery.npz"
    assert not file.exists()
    trial_run.run(run, workspace, test=True)
    stamp = file.stat().st_mtime_ns
    trial_run.run(run, workspace, test=True)
    assert file.stat().st_mtime_ns == stamp


def test_pictures_that_a_killed_trial_did_not_come_to_are_made_later(workspace, quick):
    run = quick(method="standard")
    first = trial_run.run(run, workspace, test=True)
    file = workspace.trial(run.key) / "gallery.npz"
    content = file.read_bytes()
    file.unlink()
    assert trial_run.run(run, workspace, test=True) == first  # not measured again, nor one touch more
    assert file.read_bytes() == content


def test_a_trial_that_cannot_be_pictured_keeps_its_scores(workspace, quick, monkeypatch):
    run = quick(method="standard")

    def fail(*_, **__):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(gallery, "gallery", fail)
    with pytest.warns(UserWarning, match=f"no gallery of trial {run.key}: .*no memory left"):
        result = trial_run.run(run, workspace, test=True)
    assert result.score("test/clean").n == 96
    monkeypatch.undo()
    assert trial_run.run(run, workspace, test=True) == result
    assert (workspace.trial(run.key) / "gallery.npz").exists()


def test_pictures_of_other_weights_are_replaced(workspace, quick):
    run = quick(method="standard")
    file = workspace.trial(run.key) / "gallery.npz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"of other weights")
    trial_run.run(run, workspace, test=True)
    with np.load(file) as kept:
        assert kept["x"].shape == (8, 8, 8, 1)
