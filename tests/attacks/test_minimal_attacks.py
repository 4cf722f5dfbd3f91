"""Carlini-Wagner and stAdv against borders whose distance is known, and the contract that both keep."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.attacks.minimum_perturbation import cw, roughness, stadv, stadv_flow, warped
from harness.models.freezing import frozen
from harness.models.nets import build

ATTACKS = {
    "cw": lambda model, x, y, **how: cw(model, x, y, **{"steps": 40, "searches": 5, "lr": 0.05, "initial": 0.1} | how),
    "stadv": lambda model, x, y, **how: stadv(model, x, y, **{"tau": 0.001, "steps": 60} | how),
}


class Linear(nn.Module):
    """Two classes of 1x4x4 images, logits 0 and w x + b."""

    def __init__(self, b=None):
        super().__init__()
        torch.manual_seed(3)
        self.w = nn.Parameter(torch.randn(16, dtype=torch.float64))
        self.b = nn.Parameter(-0.5 * self.w.detach().sum() if b is None else torch.tensor(b, dtype=torch.float64))

    def f(self, x):
        return x.flatten(1) @ self.w + self.b

    def forward(self, x):
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), self.f(x)], 1)


class Place(nn.Module):
    """Class 1 where the pixel in row 3, column 4 is brighter than 0.5."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0, dtype=torch.float64))

    def forward(self, x):
        f = self.scale * (x[:, 0, 3, 4] - 0.5)
        return torch.stack([torch.zeros_like(f), f], 1)


@pytest.fixture
def net():
    """A net with BatchNorm and steep logits in float64, images and their predicted classes."""
    torch.manual_seed(0)
    net = build("small", 1, 5)
    x = torch.rand(6, 1, 8, 8)
    for _ in range(3):
        net(x)
    net = net.double().eval()
    net.head.weight.data *= 50
    x = x.double()
    with torch.no_grad():
        net.head.bias -= net(x).mean(0)  # so that not all are of one class
        return net, x, net(x).argmax(1)


def length(delta):
    return delta.flatten(1).norm(dim=1)


def predicted(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


# The contract


@pytest.mark.parametrize("name", ATTACKS)
def test_every_result_is_an_image_and_most_change_the_prediction(net, name):
    model, x, y = net
    kept = x.clone()
    with torch.no_grad(), frozen(model):  # as an evaluation may call it
        z = ATTACKS[name](model, x, y)
    assert z.shape == x.shape and z.dtype == x.dtype and torch.equal(x, kept)
    assert z.min() >= 0 and z.max() <= 1
    changed = (z != x).flatten(1).any(1)
    assert changed.sum() >= 4
    assert torch.equal(predicted(model, z) != y, changed)  # what is not found is the image itself


@pytest.mark.sample("cw")
@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_is_attacked_by_itself(net, name):
    model, x, y = net
    together = ATTACKS[name](model, x, y)
    alone = torch.cat([ATTACKS[name](model, a, b) for a, b in zip(x.split(1), y.split(1), strict=True)])
    backwards = ATTACKS[name](model, x.flip(0), y.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    torch.testing.assert_close(backwards, together, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
def test_memory_layout_and_global_generator_do_not_matter(net, name):
    model, x, y = net
    before = torch.random.get_rng_state()
    z = ATTACKS[name](model, x, y)
    assert torch.equal(torch.random.get_rng_state(), before)
    last = ATTACKS[name](model, x.contiguous(memory_format=torch.channels_last), y)
    torch.testing.assert_close(last, z, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_model_stays_as_it_was(net, name):
    model, x, y = net
    x.requires_grad_(True)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    z = ATTACKS[name](model, x, y)
    assert not z.requires_grad and x.grad is None
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("name", ATTACKS)
def test_a_wrong_prediction_needs_no_change(net, name):
    model, x, y = net
    wrong = (y + 1) % 5
    z = ATTACKS[name](model, x, wrong)
    assert torch.equal(z, x) and z.data_ptr() != x.data_ptr()
    mixed = torch.cat([wrong[:3], y[3:]])
    torch.testing.assert_close(ATTACKS[name](model, x, mixed)[3:], ATTACKS[name](model, x, y)[3:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_cannot_be_found_is_the_image(name):
    model = Linear(b=1000.0)
    x, y = torch.rand(3, 1, 4, 4, dtype=torch.float64), torch.ones(3, dtype=torch.long)
    assert torch.equal(ATTACKS[name](model, x, y), x)


@pytest.mark.parametrize("name", ATTACKS)
def test_confidence_is_reached(net, name):
    model, x, y = net
    z = ATTACKS[name](model, x, y, confidence=0.3)
    changed = (z != x).flatten(1).any(1)
    assert changed.sum() >= 3
    with torch.no_grad():
        logits = model(z)
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    assert (others - logits[torch.arange(6), y] > 0.3)[changed].all()


# Carlini-Wagner


@pytest.fixture
def linear():
    """The model, images well inside [0, 1], their predicted classes, and how far f is from 0."""
    model = Linear()
    x = 0.3 + 0.4 * torch.rand(50, 1, 4, 4, dtype=torch.float64)
    f = model.f(x).detach()
    return model, x, (f > 0).long(), f.abs()


@pytest.mark.sample("0.0")
@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_cw_finds_the_distance_to_the_border_of_a_linear_model(linear, confidence):
    model, x, y, f = linear
    known = (f + confidence) / model.w.detach().norm()
    found = length(cw(model, x, y, steps=300, confidence=confidence) - x)
    assert (found >= known).all()
    assert (found <= 1.03 * known + 1e-3).all()


@pytest.mark.slow
def test_cw_finds_the_nearest_image_where_the_box_is_in_the_way():
    """The nearest point of the border within the box is clip(x - t w) for one t, found here by halving."""
    model = Linear()
    w = model.w.detach().view(1, 4, 4)
    x = (0.1 + 0.8 * torch.rand(40, 1, 4, 4, dtype=torch.float64).round() + 0.02 * torch.rand(40, 1, 4, 4)).double()
    f = model.f(x).detach()
    low, high = torch.zeros(40, dtype=torch.float64), torch.full((40,), 10.0, dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        at = (x - (middle * f.sign()).view(-1, 1, 1, 1) * w).clamp(0, 1)
        beyond = model.f(at).detach() * f.sign() < 0
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    known = length((x - (high * f.sign()).view(-1, 1, 1, 1) * w).clamp(0, 1) - x)
    assert (known > 1.02 * f.abs() / w.norm()).sum() > 5  # the box is in the way
    found = length(cw(model, x, (f > 0).long(), steps=500, lr=0.02) - x)
    assert (found >= known - 1e-9).all()
    assert (found <= 1.05 * known + 1e-3).all()


def test_cw_searches_the_constant_from_either_side(linear):
    model, x, y, f = linear
    known = f / model.w.detach().norm()
    means = []
    for searches in (1, 10):
        found = length(cw(model, x, y, steps=200, searches=searches, initial=100.0) - x)
        assert (found >= known).all()
        means.append(found.mean() / known.mean())
    assert means[1] < 1.02 < means[0]


def test_cw_with_too_small_a_constant_finds_nothing(linear):
    model, x, y, f = linear
    z = cw(model, x, y, steps=50, searches=2, initial=1e-6)
    assert torch.equal(z[f > 0.1], x[f > 0.1])


def test_cw_from_black_and_white_pixels_is_finite():
    model = Linear()
    x = torch.rand(8, 1, 4, 4, dtype=torch.float64).round().float()
    model = model.float()
    z = cw(model, x, predicted(model, x), steps=200, searches=4, lr=0.1, initial=1.0)
    assert z.isfinite().all() and z.min() >= 0 and z.max() <= 1
    assert (predicted(model, z) != predicted(model, x)).sum() >= 6


# stAdv


def test_warping_by_whole_pixels_moves_the_image():
    x = torch.rand(2, 3, 5, 6)
    flow = torch.zeros(2, 5, 6, 2)
    assert torch.equal(warped(x, flow), x)
    flow[..., 0], flow[..., 1] = 1, -2
    rows, columns = (torch.arange(5) + 1).clamp(0, 4), (torch.arange(6) - 2).clamp(0, 5)
    assert torch.equal(warped(x, flow), x[:, :, rows][:, :, :, columns])


def test_warping_is_bilinear_sampling():
    """torch's own sampling takes the places in [-1, 1], columns first."""
    torch.manual_seed(0)
    x = torch.rand(3, 2, 5, 7, dtype=torch.float64)
    flow = (2 * torch.randn(3, 5, 7, 2, dtype=torch.float64)).requires_grad_(True)
    rows, columns = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    places = torch.stack([(columns + flow[..., 1]) / 3 - 1, (rows + flow[..., 0]) / 2 - 1], -1)
    expected = F.grid_sample(x, places, align_corners=True, padding_mode="border")
    ours = warped(x, flow)
    torch.testing.assert_close(ours, expected)
    weight = torch.rand_like(x)
    gradients = [torch.autograd.grad((weight * image).sum(), flow)[0] for image in (ours, expected)]
    torch.testing.assert_close(*gradients)


def test_warping_an_image_of_one_row():
    x = torch.rand(1, 1, 1, 4)
    flow = torch.full((1, 1, 4, 2), 0.5)
    halfway = (x[..., 1:] + x[..., :-1]) / 2
    torch.testing.assert_close(warped(x, flow)[..., :3], halfway)


def test_roughness_of_known_flows():
    flow = torch.zeros(3, 6, 6, 2, dtype=torch.float64)
    flow[0] = torch.tensor([2.0, -1.0])  # all move alike
    flow[1, 2, 3] = torch.tensor([3.0, 4.0])  # one moves by 5, four neighbours do not
    flow[2, :, 3:] = torch.tensor([0.0, 1.0])  # one half against the other: six pairs
    expected = torch.tensor([0.0, 2 * 4 * 5, 2 * 6 * 1], dtype=torch.float64)
    torch.testing.assert_close(roughness(flow), expected, rtol=1e-3, atol=1e-6)


@pytest.fixture
def ramp():
    """The model, images that grow brighter by 0.07 a column, their predicted classes, and the columns left to 0.5."""
    at = torch.tensor([0.32, 0.44, 0.55, 0.63], dtype=torch.float64)  # brightness of the pixel that decides
    x = at.view(4, 1, 1, 1) + 0.07 * (torch.arange(8) - 4).expand(1, 1, 8, 8)
    assert x.min() >= 0 and x.max() <= 1
    return Place(), x, (at > 0.5).long(), (at - 0.5).abs() / 0.07


def test_stadv_finds_the_flow_that_is_needed(ramp):
    model, x, y, needed = ramp
    flow = stadv_flow(model, x, y, tau=0.005)
    assert (predicted(model, warped(x, flow)) != y).all()
    decisive = flow[:, 3, 4, 1].abs()
    assert (decisive >= needed - 1e-9).all()
    assert (decisive <= needed + 0.15).all()
    assert torch.equal(flow[:, 3, 4, 1] > 0, y == 0)  # to the right, where it is brighter


@pytest.mark.sample("0.95-False")
@pytest.mark.parametrize(("share", "found"), [(0.95, False), (1.1, True)])
def test_stadv_keeps_its_limit(ramp, share, found):
    model, x, y, needed = ramp
    for i in (1, 2):
        image, label, limit = x[i : i + 1], y[i : i + 1], share * needed[i].item()
        flow = stadv_flow(model, image, label, tau=0.005, steps=100, limit=limit)
        assert flow.abs().max() <= limit
        assert flow.any().item() is found
        z = stadv(model, image, label, tau=0.005, steps=100, limit=limit)
        assert (predicted(model, z) != label).item() is found and torch.equal(z, image) is not found


@pytest.mark.slow
def test_stadv_spreads_the_flow_to_make_it_smooth(ramp):
    model, x, y, _ = ramp
    rough = [roughness(stadv_flow(model, x, y, tau=tau)) for tau in (0.0, 0.01)]
    assert (rough[1] < 0.8 * rough[0]).all()


def test_stadv_shows_no_value_that_is_not_in_the_image(net):
    model, x, y = net
    z = stadv(model, x, y, steps=60, tau=0.001)
    assert (z != x).any()
    for image, moved in zip(x, z, strict=True):
        assert image.min() - 1e-9 <= moved.min() and moved.max() <= image.max() + 1e-9
