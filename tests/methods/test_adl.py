"""Attention-based dropout: its maps by hand, its hooks set and gone, and a trial that learns by it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import methods
from harness.config.trial import build
from harness.data.batches import Batch
from harness.errors import UserError
from harness.models import nets
from harness.trials import run as trial_run
from methods import adl

FEATURES = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[3.0, 6.0], [5.0, 6.1]]]])  # means 2, 4, 4, 5.05


@pytest.fixture
def batch():
    return Batch(torch.rand(6, 1, 8, 8), torch.randint(5, (6,)))


def tiny():
    """Two stages, of which the second is all the features: a convolution, ReLU, and as much again."""
    one = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    two = [nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()]
    return nets.Net(nn.Sequential(*one, *two), 6, 5, 1, stages=one[-1:])


def hooks(net):
    return sum(len(m._forward_hooks) for m in net.modules())


def test_maps_by_hand():
    assert adl.attention(FEATURES).tolist() == [[[[2.0, 4.0], [4.0, pytest.approx(5.05)]]]]
    assert adl.drop_mask(FEATURES, 0.9).tolist() == [[[[1, 1], [1, 0]]]]
    assert adl.drop_mask(FEATURES, 0.75).tolist() == [[[[1, 0], [0, 0]]]]
    torch.testing.assert_close(
        adl.importance_map(FEATURES)[0, 0], 1 / (1 + torch.tensor([[-2.0, -4.0], [-4.0, -5.05]]).exp())
    )


def test_each_image_has_its_own_largest_attention():
    both = torch.cat([FEATURES, 100 * FEATURES])
    mask = adl.drop_mask(both, 0.9)
    assert torch.equal(mask[0], mask[1]) and mask.shape == (2, 1, 2, 2)


def test_the_published_values_are_the_defaults():
    assert methods.make("adl") == adl.ADL(drop=0.75, gamma=0.9, at=(1, 2, 3))


def test_the_coin_falls_as_often_as_it_should():
    method, dropped = adl.ADL(drop=0.75), FEATURES * adl.drop_mask(FEATURES, 0.9)
    weighted = FEATURES * adl.importance_map(FEATURES)
    taken = [method.gate(FEATURES) for _ in range(400)]
    drops = sum(torch.equal(t, dropped) for t in taken)
    assert drops + sum(torch.equal(t, weighted) for t in taken) == 400
    assert 0.67 < drops / 400 < 0.83


def test_the_drop_mask_has_no_gradient_and_the_importance_map_has():
    features = FEATURES.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(adl.ADL(drop=1.0).gate(features).sum(), features)
    assert torch.equal(g, adl.drop_mask(FEATURES, 0.9).expand_as(FEATURES))
    (g,) = torch.autograd.grad(adl.ADL(drop=0.0).gate(features).sum(), features)
    s = adl.importance_map(FEATURES)
    own = s + FEATURES.sum(1, keepdim=True) * s * (1 - s) / 2
    torch.testing.assert_close(g, own.expand_as(FEATURES))


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_loss_is_that_of_the_gated_net_step_by_step(batch, drop):
    net, method = tiny().train(), adl.ADL(drop=drop, at=(1, 2))
    gate = (lambda f: f * adl.drop_mask(f, 0.9)) if drop else (lambda f: f * adl.importance_map(f))
    halfway = gate(net.features[:3](batch.x))
    expected = net.head(gate(net.features[3:](halfway)).mean((2, 3)))
    loss = method.loss(net, batch)["ce"]
    torch.testing.assert_close(loss, F.cross_entropy(expected, batch.y))
    last = adl.ADL(drop=drop, at=(1,)).loss(net, batch)["ce"]
    expected = net.head(gate(net.features(batch.x)).mean((2, 3)))
    torch.testing.assert_close(last, F.cross_entropy(expected, batch.y))


def test_a_net_in_evaluation_mode_is_gated_nowhere(batch):
    net = nets.build("small", 1, 5).eval()
    assert torch.equal(adl.ADL().loss(net, batch)["ce"], F.cross_entropy(net(batch.x), batch.y))
    assert not torch.equal(adl.ADL().loss(net.train(), batch)["ce"], F.cross_entropy(net(batch.x), batch.y))


def test_hooks_are_gone_afterwards_and_after_an_error(batch):
    net, method = tiny(), adl.ADL(at=(1, 2))
    method.loss(net, batch)
    assert hooks(net) == 0
    with pytest.raises(RuntimeError, match="on purpose"), method.gated(net):
        assert hooks(net) == 2
        raise RuntimeError("on purpose")
    assert hooks(net) == 0
    with pytest.raises(RuntimeError):
        method.loss(net, Batch(torch.rand(2, 7, 8, 8), batch.y[:2]))  # seven channels
    assert hooks(net) == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"drop": 1.5}, ["method.drop", "1.5"]),
        ({"gamma": -0.1}, ["method.gamma", "-0.1"]),
        ({"at": (0, 1)}, ["method.at", "(0, 1)"]),
        ({"at": ()}, ["method.at"]),
        ({"at": (2, 2)}, ["method.at", "(2, 2)"]),
    ],
)
def test_a_mistake_names_the_field(fields, words):
    with pytest.raises(UserError) as mistake:
        build({"method": "adl", **{f"method.{name}": value for name, value in fields.items()}})
    assert "\n" not in str(mistake.value) and all(word in str(mistake.value) for word in words)


def test_stages_that_a_net_does_not_have(batch):
    with pytest.raises(UserError, match="stage 3 from the end; this net has 2"):
        adl.ADL().loss(tiny(), batch)
    with pytest.raises(UserError, match="Linear"):
        adl.ADL().loss(nn.Linear(2, 2), batch)
    with pytest.raises(UserError, match="this Net of Sequential declares no stages: build it as Net"):
        adl.ADL().loss(nets.Net(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), 4, 5, 1), batch)


# Where the stages of a net lie

SIDES = {
    "small": [32, 16, 16],
    "resnet10": [16, 8, 4],
    "resnet18": [16, 8, 4, 4],
    "resnet34": [16, 8, 4, 4],
    "wrn28_10": [16, 8, 8],
    "wrn40_2": [16, 8, 8],
    "resnet50": [4, 2, 2, 2],
    "vgg_gap": [16, 8, 4, 2, 2],
}


@pytest.mark.parametrize("name", nets.NETS)
def test_stages_end_with_the_features(name):
    with torch.device("meta"):
        net, x = nets.NETS[name](3, 5), torch.rand(2, 3, 32, 32)
        found = []
        marks = [m.register_forward_hook(lambda m, i, out: found.append(out)) for m in nets.stages(net)]
        features = net.maps(x)
        for mark in marks:
            mark.remove()
    assert nets.stages(net)[-1] is net.features and found[-1].shape == features.shape
    sides = [out.shape[-1] for out in found]
    assert sides == SIDES.get(name, sides)
    assert sides == sorted(sides, reverse=True), f"{name}: declare stages in forward order: their sides are {sides}"
    again = f"{name}: two stages end with the same output; `features` is a stage without being declared"
    assert len({id(out) for out in found}) == len(found), again  # none is gated twice


def test_the_published_places_of_resnet50():
    with torch.device("meta"):
        net = nets.NETS["resnet50"](3, 5)
    third, fourth = net.features[-2], net.features[-1]
    assert nets.stages(net)[-3:] == [third[0], fourth[0], net.features]


def test_the_stages_of_small_are_behind_its_rectifiers():
    net, seen = nets.build("small", 1, 5), []
    for stage in nets.stages(net):
        stage.register_forward_hook(lambda m, i, out: seen.append(out))
    net.maps(torch.rand(2, 1, 8, 8))
    assert len(seen) == 3 and all(out.amin() == 0 for out in seen)


# As a method of a trial


def test_its_settings_survive_their_own_description():
    asked = build({"method": "adl", "method.at": "1,2", "method.drop": "1/2"})
    assert asked.method == adl.ADL(drop=0.5, at=(1, 2))
    assert build(asked.flat()) == asked


@pytest.mark.slow
def test_it_learns_digits(workspace, quick):
    run = quick(method="adl", epochs=18, data__limit=0, measure__steps=1, measure__watch=18)
    rows = trial_run.run(run, workspace).rows
    assert rows[-1]["train/ce"] < 0.6 * rows[0]["train/ce"]
    assert trial_run.run(run, workspace).score("val/clean").mean > 0.9


def test_it_goes_on_where_it_was_bit_for_bit(workspace, quick, tmp_path):
    run = quick(method="adl", epochs=3)

    def stop(row):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        trial_run.run(run, workspace, report=stop)
    net, _ = trial_run.trained_model(run, workspace)
    other, _ = trial_run.trained_model(run, type(workspace)(tmp_path / "other", workspace.data).writable())
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())
