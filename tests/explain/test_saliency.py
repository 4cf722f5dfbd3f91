"""Saliency maps against captum, hand computation, linear models and planted squares."""

import copy
import sys
import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.contracts import map_examples
from harness.contracts import maps as map_contract
from harness.contracts.map_examples import detector, example, explain, linear_model, twins
from harness.contracts.maps import CONTRACT
from harness.errors import UserError
from harness.explain.base import Map
from harness.explain.captum_maps import GuidedBackpropModules
from harness.explain.maps import (
    CAM,
    MAPS,
    GradCAM,
    GradCAMPlusPlus,
    Gradient,
    GuidedBackprop,
    GuidedGradCAMPlusPlus,
    SmoothGrad,
    attackable,
    explained_class,
    for_training,
    trapezoids,
)
from harness.models.freezing import frozen
from harness.training.binarise_maps import binarise

captum = pytest.importorskip("captum.attr")

BY_CAPTUM = ("captum.DeepLift", "captum.InputXGradient", "captum.Saliency", "captum.GuidedBackprop")
NAMES = (*MAPS, *BY_CAPTUM)
OF_FEATURES = [name for name in MAPS if MAPS[name].of_features]
OF_WEIGHTS = ("gradient", "guided_backprop", "guided_backprop_modules", "smoothgrad", "captum.GuidedBackprop")
OF_WEIGHTS_AND_IMAGE = ("integrated_gradients", "captum.DeepLift", "captum.InputXGradient")


@pytest.fixture(scope="module")
def nets():
    """name -> (net, x, y), two images each, in float32; the activation maps of y have both signs."""
    return {on: example(on) for on in map_examples.NETS}


def modules():
    return [nn.ReLU() for _ in range(3)]


@pytest.fixture
def tiny():
    """A net of three convolutions that keep the size, its images and labels, in float64."""
    (net,) = twins([F.relu] * 3)
    return net, torch.rand(3, 2, 6, 6, dtype=torch.float64), torch.tensor([1, 0, 3])


@pytest.fixture
def linear():
    """The model, images, classes, and each class's weights as an image."""
    return linear_model()


# The contract, over every name


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_a_map_keeps_what_it_promises(name, promise):
    promise(name)


@dataclass(frozen=True)
class Times(Map):
    """Gradient times image, made wrong in one way."""

    differentiable = True
    flaw: ClassVar[str] = ""

    def __call__(self, net, x, y):
        if self.flaw == "train":
            net.train()
        if self.flaw == "batch":
            return Gradient()(net, x, y) * x.mean(0)
        if self.flaw == "noise":
            x = x + 1e-3 * torch.randn_like(x)
        if self.flaw == "features":
            return Gradient()(net, x, y) * net.maps(x).mean()
        if self.flaw == "detached":
            return Gradient()(net, x.detach(), y) * x.detach()
        return Gradient()(net, x, y) * x


@dataclass(frozen=True)
class Size(Times):
    """Unsigned: the map over all channels."""

    signed = per_channel = False

    def __call__(self, net, x, y):
        return super().__call__(net, x, y).abs().sum(1, keepdim=True)


@dataclass(frozen=True)
class Noisy(Times):
    """At a random place nearby; the noise has no constant that turns it off."""

    random, differentiable = True, False

    def __call__(self, net, x, y):
        return super().__call__(net, x + 0.01 * torch.randn_like(x), y)


@pytest.mark.parametrize("kind", [Times, Size, Noisy])
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_a_new_map_needs_nothing_but_its_entry(kind, promise, monkeypatch):
    monkeypatch.setitem(MAPS, "made_up", kind)
    promise("made_up")
    assert for_training("made_up") == kind()
    assert attackable().get("made_up") == (kind if kind.differentiable else None)


@pytest.mark.parametrize(
    ("wrong", "promise", "advice"),
    [
        ({"per_channel": False}, map_contract.it_has_the_size_of_the_image_and_is_finite_and_detached, "return"),
        ({"flaw": "train"}, map_contract.it_leaves_the_model_as_it_was, "changes the weights"),
        ({"flaw": "noise"}, map_contract.it_is_the_same_for_the_same_seed, "declare `random`"),
        ({"random": True}, map_contract.it_is_the_same_for_the_same_seed, "declare `random`"),
        ({"flaw": "batch"}, map_contract.it_does_not_depend_on_other_images, "depends on the other images"),
        ({"signed": False}, map_contract.its_sign_is_as_declared, "declares `signed = False`, but has negative"),
        ({"complete": True}, map_contract.it_sums_to_the_logit_if_it_says_so, "declares `complete`, but"),
        ({"of_features": True}, map_contract.it_needs_a_net_if_it_says_so, "declares `of_features`, but"),
        ({"flaw": "detached"}, map_contract.its_derivative_is_right_if_it_is_differentiable, "do not detach x"),
    ],
)
def test_a_promise_that_is_broken_is_said(wrong, promise, advice, monkeypatch):
    monkeypatch.setitem(MAPS, "made_up", type("Wrong", (Times,), wrong))
    with pytest.raises(AssertionError, match=f"^made_up: .*{advice}"):
        promise("made_up")


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "cam"])
def test_what_speaks_for_one_class_speaks_against_its_opposite(name):
    net, x, _ = detector()
    y = torch.ones(4, dtype=torch.long)
    assert torch.equal(explain(name, net, x, y), -explain(name, net, x, 1 - y))


# Linear models: the map is known


@pytest.mark.parametrize("name", [*OF_WEIGHTS, *OF_WEIGHTS_AND_IMAGE, "captum.Saliency"])
def test_linear_model(linear, name):
    model, x, y, weight = linear
    s = explain(name, model, x, y)
    if name in OF_WEIGHTS_AND_IMAGE:
        expected = x * weight
    else:
        expected = weight.abs() if name == "captum.Saliency" else weight
    torch.testing.assert_close(s, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [*OF_WEIGHTS, *OF_WEIGHTS_AND_IMAGE])
def test_step_against_the_map_weakens_the_class_as_much_as_possible(linear, name):
    model, x, y, weight = linear
    s = explain(name, model, x, y)
    fallen = (model(x) - model(x - 0.01 * s.sign())).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(fallen, 0.01 * weight.abs().sum((1, 2, 3)))


# Gradients


def test_gradient_is_captums(tiny):
    net, x, y = tiny
    expected = captum.Saliency(net).attribute(x.clone().requires_grad_(), target=y, abs=False)
    torch.testing.assert_close(Gradient().detached(net, x, y), expected, rtol=1e-12, atol=1e-14)


def captums_guided_backprop(net, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return captum.GuidedBackprop(net).attribute(x.clone().requires_grad_(), target=y)


def test_guided_backprop_is_captums_on_modules_and_the_same_on_functions():
    kinds = [F.relu] * 3, modules(), [nn.ReLU(inplace=True)] * 3, [torch.relu_] * 3
    functional, modular, reused, in_place = twins(*kinds)
    x, y = torch.rand(3, 2, 6, 6, dtype=torch.float64), torch.tensor([1, 0, 3])
    expected = captums_guided_backprop(modular, x, y)
    for net in (functional, modular, reused, in_place):
        torch.testing.assert_close(GuidedBackprop().detached(net, x, y), expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(
            for_training("captum.GuidedBackprop").detached(net, x, y), expected, rtol=1e-12, atol=1e-14
        )

    plain = Gradient().detached(functional, x, y)
    assert not torch.allclose(plain, expected)
    assert torch.equal(GuidedBackpropModules().detached(functional, x, y), plain)
    assert torch.equal(GuidedBackpropModules().detached(modular, x, y), expected)


def test_guided_backprop_by_hand():
    """Hidden inputs (-1, 3, 1), their gradients (1, 1, -1): the first is off, the third is negative."""

    class Layers(nn.Module):
        def __init__(self, relu):
            super().__init__()
            self.relu = relu
            self.one = torch.tensor([[1.0, -1.0], [1.0, 1.0], [2.0, -0.5]])
            self.two = torch.tensor([[1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])

        def forward(self, x):
            return self.relu(x.flatten(1) @ self.one.T) @ self.two.T

    x, y = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), torch.tensor([0])
    plain, guided = torch.tensor([-1.0, 1.5]).view_as(x), torch.tensor([1.0, 1.0]).view_as(x)
    assert torch.equal(Gradient().detached(Layers(F.relu), x, y), plain)
    assert torch.equal(GuidedBackprop().detached(Layers(F.relu), x, y), guided)
    assert torch.equal(GuidedBackprop().detached(Layers(nn.ReLU()), x, y), guided)
    assert torch.equal(GuidedBackpropModules().detached(Layers(F.relu), x, y), plain)
    assert torch.equal(GuidedBackpropModules().detached(Layers(nn.ReLU()), x, y), guided)


def test_warnings_other_than_captums_hooks_are_heard(tiny):
    net, x, y = tiny
    net.head.register_forward_hook(lambda *_: warnings.warn("Setting the table", stacklevel=1))
    with pytest.warns(UserWarning, match="the table"):
        GuidedBackpropModules().detached(net, x, y)


# SmoothGrad


class Cubes(nn.Module):
    """One logit, the sum of x^3, whose gradient under noise of variance v has the mean 3 x^2 + 3 v."""

    def forward(self, x):
        return (x**3).sum((1, 2, 3))[:, None]


def test_smoothgrad_adds_noise_in_proportion_to_each_images_range():
    torch.manual_seed(0)
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64) * torch.tensor([1.0, 0.4]).view(2, 1, 1, 1)
    s = SmoothGrad(1500, noise="fresh").detached(Cubes(), x, torch.zeros(2, dtype=torch.long))
    ranges = x.amax((1, 2, 3)) - x.amin((1, 2, 3))
    excess = (s - 3 * x**2).mean((1, 2, 3)) / (3 * (0.15 * ranges) ** 2)
    torch.testing.assert_close(excess, torch.ones_like(excess), rtol=0, atol=0.12)  # about 4 standard errors


def test_smoothgrad_is_captums_noise_tunnel(tiny):
    net, x, y = tiny
    x, y, n = x[:1], y[:1], 200
    sigma = 0.15 * (x.max() - x.min()).item()
    torch.manual_seed(0)
    ours = SmoothGrad(n, noise="fresh").detached(net, x, y)
    theirs = captum.NoiseTunnel(captum.Saliency(net)).attribute(
        x.clone().requires_grad_(), nt_type="smoothgrad", nt_samples=n, stdevs=sigma, target=y, abs=False
    )
    copies = torch.stack([SmoothGrad(1, noise="fresh").detached(net, x, y) for _ in range(50)])
    error = copies.std(0) * (2 / n) ** 0.5
    assert ((ours - theirs).abs() <= 5 * error + 1e-12).all()
    assert not torch.allclose(ours, Gradient().detached(net, x, y), rtol=1e-3)


def test_smoothgrad_of_a_constant_image_is_the_gradient(tiny):
    net, x, y = tiny
    flat = torch.full_like(x, 0.5)
    torch.testing.assert_close(for_training("smoothgrad").detached(net, flat, y), Gradient().detached(net, flat, y))


# Integrated gradients


def test_integrated_gradients_are_captums(tiny):
    """captum counts nodes, we count intervals; its weights sum to (nodes - 1) / nodes, ours to 1."""
    net, x, y = tiny
    ours = trapezoids(20, 128).detached(net, x, y)
    theirs = captum.IntegratedGradients(net).attribute(x, target=y, n_steps=21, method="riemann_trapezoid")
    torch.testing.assert_close(ours, theirs * 21 / 20, rtol=1e-7, atol=1e-10)  # its weights are float32


def test_integrated_gradients_sum_to_the_difference_of_the_logits(tiny):
    net, x, y = tiny
    with torch.no_grad():
        rise = (net(x) - net(torch.zeros_like(x))).gather(1, y[:, None])[:, 0]
    errors = []
    for points in (10, 100, 1000):
        s = trapezoids(points, 128).detached(net, x, y)
        errors.append((s.sum((1, 2, 3)) - rise).abs().max() / rise.abs().max())
    assert errors[1] < 0.01 and errors[2] < 0.001 and errors[2] < errors[0]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
def test_integrated_gradients_are_computed_a_chunk_at_a_time(tiny, chunk):
    net, x, y = tiny
    passed = []
    net.register_forward_pre_hook(lambda _, inputs: passed.append(len(inputs[0])))
    s = trapezoids(5, chunk).detached(net, x, y)
    assert max(passed) <= chunk and sum(passed) == 6 * len(x)
    whole = trapezoids(5, 128).detached(net, x, y)
    torch.testing.assert_close(s, whole, rtol=1e-12, atol=1e-14)


# Class activation maps


def enlarged(m, x):
    return F.interpolate(m, x.shape[-2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("on", ["grey", "rgb"])
def test_gradcam_is_captums(nets, on):
    net, x, y = nets[on]
    net, x = copy.deepcopy(net).double(), x.double()
    small = captum.LayerGradCam(net, net.features).attribute(x, target=y, relu_attributions=True)
    assert small.shape[-1] < x.shape[-1]
    torch.testing.assert_close(GradCAM().detached(net, x, y), enlarged(small, x), rtol=1e-10, atol=1e-14)


def test_cam_averages_to_the_logit_and_gradcam_is_its_positive_part(tiny):
    net, x, y = tiny
    cam = CAM().detached(net, x, y)
    logit = (net(x) - net.head.bias).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(cam.mean((1, 2, 3)), logit.detach())
    torch.testing.assert_close(GradCAM().detached(net, x, y), cam.relu() / 36)


@pytest.mark.parametrize("name", [name for name in OF_FEATURES if not MAPS[name].per_channel])
def test_class_activation_map_of_a_single_place_is_exactly_constant(nets, name):
    net, x, y = nets["grey"]
    assert net.maps(x).shape[-2:] == (1, 1)
    s = explain(name, net, x, y)
    assert torch.equal(s, s[:, :, :1, :1].expand_as(s)) and s.min() > 0


def released_gradcam_pp(net, x, y):
    """The published formula, word for word, with exp(S); and exp(S)."""
    features = net.maps(x).detach().requires_grad_()
    score = net.head(features.mean((2, 3))).gather(1, y[:, None])
    (g,) = torch.autograd.grad(score.sum(), features)
    raised = score.detach().exp()[:, :, None, None]
    alpha = g**2 / (2 * g**2 + (features * g**3).sum((2, 3), keepdim=True) + 1e-7)
    weight = (alpha * (raised * g).relu()).sum((2, 3), keepdim=True)
    return enlarged((weight * features).sum(1, keepdim=True).detach(), x), raised


def test_gradcam_pp_is_the_released_formula_without_its_factor(nets):
    net, x, y = nets["rgb"]
    net, x = copy.deepcopy(net).double(), x.double()
    ours, (released, raised) = GradCAMPlusPlus().detached(net, x, y), released_gradcam_pp(net, x, y)
    torch.testing.assert_close(ours * raised, released, rtol=1e-10, atol=1e-14)
    assert torch.equal(binarise(ours, "median"), binarise(released, "median"))
    torch.testing.assert_close(binarise(ours, "minmax"), binarise(released, "minmax"), rtol=1e-8, atol=1e-10)


def test_gradcam_pp_of_a_large_logit_is_finite_where_the_released_formula_is_not(nets):
    net, x, y = copy.deepcopy(nets["rgb"][0]), *nets["rgb"][1:]
    net.head.bias.data += 200
    assert not released_gradcam_pp(net, x, y)[0].isfinite().all()
    assert torch.equal(GradCAMPlusPlus().detached(net, x, y), GradCAMPlusPlus().detached(nets["rgb"][0], x, y))


def test_guided_gradcam_pp_is_the_map_where_guided_backprop_is_positive(tiny):
    net, x, y = tiny
    x = x.clone()
    x[0] = 0
    s = GuidedGradCAMPlusPlus().detached(net, x, y)
    g = GuidedBackprop().detached(net, x, y)
    m = binarise(GradCAMPlusPlus().detached(net, x, y), "minmax").expand_as(g)
    torch.testing.assert_close(s[g > 0], m[g > 0])
    assert (s[g < 0] == -1).all()
    torch.testing.assert_close(s[g == 0], (m[g == 0] - 1) / 2)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_empty_class_activation_map_has_no_nan(tiny, name):
    net, x, y = tiny
    net.features.layers[-1].weight.data.zero_()
    net.features.layers[-1].bias.data.fill_(-1)
    s = explain(name, net, x, y)
    assert s.isfinite().all()
    if name in ("cam", "gradcam", "gradcam_pp"):
        assert (s == 0).all()
        for how in ("sign", "median", "quantile", "minmax"):
            assert (binarise(s, how, signed=for_training(name).signed) == 0).all()


# captum's own


def test_deeplift_obeys_its_rule_on_functions_and_on_a_module_used_twice():
    functional, modular, reused = twins([F.relu] * 3, modules(), [nn.ReLU(inplace=True)] * 3)
    x, y = torch.rand(3, 2, 6, 6, dtype=torch.float64), torch.tensor([1, 0, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = captum.DeepLift(modular).attribute(x.clone().requires_grad_(), target=y)
    assert not torch.allclose(expected, for_training("captum.InputXGradient").detached(modular, x, y))
    for net in (functional, modular, reused):
        ours = for_training("captum.DeepLift").detached(net, x, y)
        torch.testing.assert_close(ours, expected.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gradent", "did you mean 'gradient'"),
        ("captum.Deeplift", "did you mean 'captum.DeepLift'"),
        ("captum.Occlusion", "does not work by gradients of x and y alone; these do: .*captum.DeepLift"),
        ("captum.GuidedGradCam", "does not work by gradients"),
        ("captum.LRP", "does not work by gradients"),
        ("captum.GradientAttribution", "does not work by gradients"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UserError, match=message):
        for_training(name)


def test_only_captums_names_need_captum(monkeypatch, tiny):
    net, x, y = tiny
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match="package captum"):
        for_training("captum.DeepLift")
    for name in MAPS:
        if name == "guided_backprop_modules":
            with pytest.raises(UserError, match="package captum"):
                explain(name, net, x, y)
        else:
            explain(name, net, x, y)


# The class explained, and binary maps


def test_explained_class(tiny):
    net, x, y = tiny
    with frozen(net):
        predicted = net(x).argmax(1)
    assert torch.equal(explained_class(net, x, y, "label"), y)
    assert torch.equal(explained_class(net, x, y, "predicted"), predicted)
    with pytest.raises(UserError, match="did you mean 'predicted'"):
        explained_class(net, x, y, "prediction")


def test_sign_keeps_zero_and_is_the_median_of_maps_without_sign():
    s = torch.tensor([[-2.0, 0.0, 0.5, 3.0], [0.0, 1.0, 2.0, 3.0]]).view(2, 1, 2, 2)
    assert binarise(s, "sign").flatten().tolist() == [-1, 0, 1, 1, 0, 1, 1, 1]
    unsigned = binarise(s, "sign", signed=False)
    assert unsigned.flatten().tolist() == [-1, 1, 1, 1, -1, 1, 1, 1]
    assert torch.equal(unsigned, binarise(s, "median"))


def test_median_and_quantile_are_taken_of_each_image_over_channels_and_pixels():
    torch.manual_seed(0)
    s = torch.rand(3, 3, 10, 10) * torch.tensor([1.0, 100.0, 1e-20]).view(3, 1, 1, 1)
    assert ((binarise(s, "median") > 0).flatten(1).sum(1) - 150).abs().max() <= 1
    for quantile in (0.1, 0.5, 0.9):
        m = binarise(s, "quantile", quantile=quantile)
        assert set(m.unique().tolist()) == {-1.0, 1.0}
        assert ((m > 0).flatten(1).sum(1) - 300 * (1 - quantile)).abs().max() <= 1
        assert torch.equal(m[1:2], binarise(s[1:2], "quantile", quantile=quantile))
    assert torch.equal(binarise(s, "quantile", quantile=0.5), binarise(s, "median"))
    assert ((binarise(s, "quantile", quantile=1) > 0).flatten(1).sum(1) == 1).all()


def test_median_of_a_map_that_is_mostly_zero_marks_what_is_not():
    s = torch.zeros(1, 1, 4, 4)
    s[0, 0, 1, 1:3] = torch.tensor([1.0, 2.0])
    assert torch.equal(binarise(s, "median"), torch.where(s > 0, 1.0, -1.0))
    full = 2 - s  # ties at the other end need no care: all but two lie from the median upwards
    assert (binarise(full, "median") > 0).sum() == 14


@pytest.mark.parametrize("value", [0.0, -3.0, 0.1])
def test_constant_map_says_nothing(value):
    s = torch.full((2, 1, 3, 3), value)
    for how in ("median", "quantile", "minmax"):
        assert (binarise(s, how) == 0).all()
    assert torch.equal(binarise(s, "sign"), s.sign())


def test_minmax_fills_the_unit_interval():
    torch.manual_seed(0)
    m = binarise(torch.randn(4, 3, 5, 5) * 1e-3, "minmax")
    assert torch.equal(m.amin((1, 2, 3)), torch.zeros(4)) and torch.equal(m.amax((1, 2, 3)), torch.ones(4))


def test_maps_larger_than_torchs_quantile_takes():
    m = binarise(torch.rand(1, 1, 2, 2**23 + 1), "quantile", quantile=0.75)
    assert ((m > 0).float().mean() - 0.25).abs() < 1e-5


def test_binarise_refuses_what_it_does_not_know():
    with pytest.raises(UserError, match="did you mean 'median'"):
        binarise(torch.rand(1, 1, 2, 2), "medan")
    with pytest.raises(UserError, match=r"\[0, 1\], not 1.5"):
        binarise(torch.rand(1, 1, 2, 2), "quantile", quantile=1.5)
