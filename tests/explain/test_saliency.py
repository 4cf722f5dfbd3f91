"""Saliency maps against captum, hand computation, linear models and planted squares."""

import copy
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.errors import UserError
from harness.explain import saliency_maps
from harness.explain.saliency_maps import SALIENCY, find
from harness.models import nets as models_nets
from harness.models.freezing import frozen
from harness.training.binarise_maps import binarise

captum = pytest.importorskip("captum.attr")

BY_CAPTUM = ("captum.DeepLift", "captum.InputXGradient", "captum.Saliency", "captum.GuidedBackprop")
NAMES = (*SALIENCY, *BY_CAPTUM)
NEEDS_NET = ("cam", "gradcam", "gradcam_pp", "guided_gradcam_pp")
QUICK = {"integrated_gradients": {"points": 3}, "smoothgrad": {"n": 2}}
NETS = {
    "small on grey": ("small", 1, (8, 12)),
    "grey": ("resnet10", 1, (8, 8)),
    "rgb": ("resnet10", 3, (32, 32)),
}


def explain(name, net, x, y, **settings):
    return find(name)(net, x, y, **{**QUICK.get(name, {}), **settings})


def lived_in(net, seed=0):
    """The net with the statistics and biases of one that has been trained, in evaluation mode."""
    torch.manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.2)
    nn.init.normal_(net.head.bias)
    return net.normalised_by(torch.tensor(0.3), torch.tensor(0.5)).eval()


@pytest.fixture(scope="module")
def nets():
    """name -> (net, x, y), two images each, in float32; the activation maps of y have both signs."""
    made = {}
    for name, (architecture, channels, size) in NETS.items():
        torch.manual_seed(0)
        net = lived_in(models_nets.build(architecture, channels, 10))
        x = torch.rand(2, channels, *size)
        with torch.no_grad():
            logits = net(x) - net.head.bias
        made[name] = net, x, logits.where(logits > 0, torch.inf).argmin(1)
    return made


class Chain(nn.Module):
    """Convolutions, each followed by one of `relus`: functions or modules, which may share their weights."""

    def __init__(self, layers, relus):
        super().__init__()
        self.layers = layers
        self.relus = nn.ModuleList(relus) if isinstance(relus[0], nn.Module) else relus

    def forward(self, x):
        for layer, relu in zip(self.layers, self.relus, strict=True):
            x = relu(layer(x))
        return x


def twins(*relus, seed=0):
    """Nets on 2x6x6 images in float64 with the same weights, each with its own kind of ReLU."""
    torch.manual_seed(seed)
    layers = nn.ModuleList([nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(6, 6, 1)])
    made = [models_nets.Net(Chain(layers, r), 6, 4, 2).double() for r in relus]
    for net in made:
        net.head = made[0].head
    nn.init.normal_(made[0].head.bias)
    return made


def modules():
    return [nn.ReLU() for _ in range(3)]


@pytest.fixture
def tiny():
    """A net of three convolutions that keep the size, its images and labels, in float64."""
    (net,) = twins([F.relu] * 3)
    return net, torch.rand(3, 2, 6, 6, dtype=torch.float64), torch.tensor([1, 0, 3])


class Linear(nn.Module):
    """Logits linear in the pixels of 2x3x3 images."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(18, 4)

    def forward(self, x):
        return self.head(x.flatten(1))


@pytest.fixture
def linear():
    """The model, images, classes, and each class's weights as an image."""
    torch.manual_seed(1)
    model, x = Linear().double(), torch.rand(5, 2, 3, 3, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0])
    return model, x, y, model.head.weight.detach()[y].view_as(x)


# The contract, over every name


@pytest.mark.parametrize("on", NETS)
@pytest.mark.parametrize("name", NAMES)
def test_map_has_the_images_size_and_is_finite_and_detached(nets, name, on):
    net, x, y = nets[on]
    with torch.no_grad():  # as a trainer may call it
        s = explain(name, net, x, y)
    channels = 1 if name in ("cam", "gradcam", "gradcam_pp") else x.shape[1]
    assert s.shape == (2, channels, *x.shape[2:])
    assert s.dtype == x.dtype and s.isfinite().all()
    assert not s.requires_grad and not x.requires_grad and x.grad is None
    if channels > 1 or net.maps(x).shape[-1] > 1:
        assert s.flatten(1).std(1).min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_float64_is_kept_and_agrees_with_float32(nets, name):
    net, x, y = nets["grey"]
    if name == "smoothgrad":  # the generator draws other numbers in float64
        settings = {"sigma": 0.0}
    else:
        settings = {}
    exact = explain(name, copy.deepcopy(net).double(), x.double(), y, **settings)
    assert exact.dtype == torch.float64
    rough = explain(name, net, x, y, **settings)
    differs = (rough - exact).abs() > 1e-3 * exact.abs().amax((1, 2, 3), keepdim=True)
    assert differs.double().mean() < 0.02  # a ReLU at its kink may fall on the other side


@pytest.mark.parametrize("name", NAMES)
def test_model_is_left_as_it_was(nets, name):
    net, x, y = copy.deepcopy(nets["small on grey"][0]), *nets["small on grey"][1:]
    before = explain(name, net, x, y) if name != "smoothgrad" else None
    net.train()
    net.head.eval()
    net.head.bias.requires_grad_(False)

    def everything():
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return (
            [(m.training, sorted(vars(m)), [len(getattr(m, h)) for h in hooks]) for m in net.modules()],
            [(p.requires_grad, p.grad) for p in net.parameters()],
        )

    state, buffers = everything(), copy.deepcopy(net.state_dict())
    kept = x.clone()
    s = explain(name, net, x, y)
    assert everything() == state
    assert all(torch.equal(v, buffers[k]) for k, v in net.state_dict().items())
    assert torch.equal(x, kept)
    if before is not None:  # explained in evaluation mode, whatever the mode
        torch.testing.assert_close(s, before)

    with pytest.raises(Exception, match=r"index|bounds"):
        explain(name, net, x, torch.full_like(y, 99))
    assert everything() == state
    assert torch.equal(F.relu(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_map(nets, name):
    net, x, y = nets["small on grey"]
    maps = []
    for seed in (5, 5):
        torch.manual_seed(seed)
        maps.append(explain(name, net, x, y))
    assert torch.equal(*maps)


@pytest.mark.parametrize("name", NAMES)
def test_map_of_an_image_does_not_depend_on_the_others(nets, name):
    net, x, y = nets["small on grey"]
    others = torch.cat([x[:1], 1 - x[1:]]), torch.stack([y[0], (y[1] + 1) % 10])
    maps = []
    for batch, label in ((x, y), others):
        torch.manual_seed(0)  # the noise is drawn for the whole batch
        maps.append(explain(name, net, batch, label)[:1])
    torch.testing.assert_close(*maps, rtol=1e-4, atol=1e-6)
    if name != "smoothgrad":
        torch.testing.assert_close(explain(name, net, x[:1], y[:1]), maps[0], rtol=1e-4, atol=1e-6)


def detector():
    """A net whose class 1 is a bright square and class 0 its opposite; images; where their squares lie."""
    conv = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.ones_(conv.weight)
    nn.init.constant_(conv.bias, -6)
    net = models_nets.Net(Chain(nn.ModuleList([conv]), [F.relu]), 1, 2, 1)
    net.head.weight.data = torch.tensor([[-1.0], [1.0]])
    torch.manual_seed(0)
    x, inside = 0.1 * torch.rand(4, 1, 12, 12), torch.zeros(4, 1, 12, 12, dtype=torch.bool)
    for i, (top, left) in enumerate(((1, 1), (6, 2), (3, 6), (6, 6))):
        inside[i, 0, top : top + 5, left : left + 5] = True
    x[inside] = 1
    return net, x, inside


@pytest.mark.parametrize("name", NAMES)
def test_planted_square_is_found(name):
    net, x, inside = detector()
    s = explain(name, net, x, torch.ones(4, dtype=torch.long))
    peak = s.flatten(1).argmax(1, keepdim=True)
    assert inside.flatten(1).gather(1, peak).all()
    for image, there in zip(s, inside, strict=True):
        assert image[there].mean() > image[~there].mean()
    m = binarise(s, "quantile", quantile=1 - 25 / 144)
    assert ((m > 0) & inside).sum() / ((m > 0) | inside).sum() > 0.4


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "cam"])
def test_what_speaks_for_one_class_speaks_against_its_opposite(name):
    net, x, _ = detector()
    y = torch.ones(4, dtype=torch.long)
    assert torch.equal(explain(name, net, x, y), -explain(name, net, x, 1 - y))


@pytest.mark.parametrize("name", NAMES)
def test_signed_says_whether_there_are_negative_values(nets, name):
    net, x, y = nets["small on grey"]
    assert (explain(name, net, x, y).min() < 0) == saliency_maps.signed(name)


# Linear models: the map is known


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NEEDS_NET])
def test_linear_model(linear, name):
    model, x, y, weight = linear
    s = explain(name, model, x, y)
    if name in ("integrated_gradients", "captum.DeepLift", "captum.InputXGradient"):
        expected = x * weight
    else:
        expected = weight.abs() if name == "captum.Saliency" else weight
    torch.testing.assert_close(s, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NEEDS_NET and saliency_maps.signed(n)])
def test_step_against_the_map_weakens_the_class_as_much_as_possible(linear, name):
    model, x, y, weight = linear
    s = explain(name, model, x, y)
    fallen = (model(x) - model(x - 0.01 * s.sign())).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(fallen, 0.01 * weight.abs().sum((1, 2, 3)))


@pytest.mark.parametrize("name", NEEDS_NET)
def test_class_activation_maps_need_a_net(linear, name):
    model, x, y, _ = linear
    with pytest.raises(UserError, match="Linear"):
        explain(name, model, x, y)


# Gradients


def test_gradient_is_captums(tiny):
    net, x, y = tiny
    expected = captum.Saliency(net).attribute(x.clone().requires_grad_(), target=y, abs=False)
    torch.testing.assert_close(saliency_maps.gradient(net, x, y), expected, rtol=1e-12, atol=1e-14)


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
        torch.testing.assert_close(saliency_maps.guided_backprop(net, x, y), expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(find("captum.GuidedBackprop")(net, x, y), expected, rtol=1e-12, atol=1e-14)

    plain = saliency_maps.gradient(functional, x, y)
    assert not torch.allclose(plain, expected)
    assert torch.equal(saliency_maps.guided_backprop_modules(functional, x, y), plain)
    assert torch.equal(saliency_maps.guided_backprop_modules(modular, x, y), expected)


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
    assert torch.equal(saliency_maps.gradient(Layers(F.relu), x, y), plain)
    assert torch.equal(saliency_maps.guided_backprop(Layers(F.relu), x, y), guided)
    assert torch.equal(saliency_maps.guided_backprop(Layers(nn.ReLU()), x, y), guided)
    assert torch.equal(saliency_maps.guided_backprop_modules(Layers(F.relu), x, y), plain)
    assert torch.equal(saliency_maps.guided_backprop_modules(Layers(nn.ReLU()), x, y), guided)


def test_warnings_other_than_captums_hooks_are_heard(tiny):
    net, x, y = tiny
    net.head.register_forward_hook(lambda *_: warnings.warn("Setting the table", stacklevel=1))
    with pytest.warns(UserWarning, match="the table"):
        saliency_maps.guided_backprop_modules(net, x, y)


# SmoothGrad


class Cubes(nn.Module):
    """One logit, the sum of x^3, whose gradient under noise of variance v has the mean 3 x^2 + 3 v."""

    def forward(self, x):
        return (x**3).sum((1, 2, 3))[:, None]


def test_smoothgrad_adds_noise_in_proportion_to_each_images_range():
    torch.manual_seed(0)
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64) * torch.tensor([1.0, 0.4]).view(2, 1, 1, 1)
    s = saliency_maps.smoothgrad(Cubes(), x, torch.zeros(2, dtype=torch.long), n=1500)
    ranges = x.amax((1, 2, 3)) - x.amin((1, 2, 3))
    excess = (s - 3 * x**2).mean((1, 2, 3)) / (3 * (0.15 * ranges) ** 2)
    torch.testing.assert_close(excess, torch.ones_like(excess), rtol=0, atol=0.12)  # about 4 standard errors


def test_smoothgrad_is_captums_noise_tunnel(tiny):
    net, x, y = tiny
    x, y, n = x[:1], y[:1], 200
    sigma = 0.15 * (x.max() - x.min()).item()
    torch.manual_seed(0)
    ours = saliency_maps.smoothgrad(net, x, y, n=n)
    theirs = captum.NoiseTunnel(captum.Saliency(net)).attribute(
        x.clone().requires_grad_(), nt_type="smoothgrad", nt_samples=n, stdevs=sigma, target=y, abs=False
    )
    copies = torch.stack([saliency_maps.smoothgrad(net, x, y, n=1) for _ in range(50)])
    error = copies.std(0) * (2 / n) ** 0.5
    assert ((ours - theirs).abs() <= 5 * error + 1e-12).all()
    assert not torch.allclose(ours, saliency_maps.gradient(net, x, y), rtol=1e-3)


def test_smoothgrad_of_a_constant_image_is_the_gradient(tiny):
    net, x, y = tiny
    flat = torch.full_like(x, 0.5)
    torch.testing.assert_close(saliency_maps.smoothgrad(net, flat, y), saliency_maps.gradient(net, flat, y))


# Integrated gradients


def test_integrated_gradients_are_captums(tiny):
    """captum counts nodes, we count intervals; its weights sum to (nodes - 1) / nodes, ours to 1."""
    net, x, y = tiny
    ours = saliency_maps.integrated_gradients(net, x, y, points=20)
    theirs = captum.IntegratedGradients(net).attribute(x, target=y, n_steps=21, method="riemann_trapezoid")
    torch.testing.assert_close(ours, theirs * 21 / 20, rtol=1e-7, atol=1e-10)  # its weights are float32


def test_integrated_gradients_sum_to_the_difference_of_the_logits(tiny):
    net, x, y = tiny
    with torch.no_grad():
        rise = (net(x) - net(torch.zeros_like(x))).gather(1, y[:, None])[:, 0]
    errors = []
    for points in (10, 100, 1000):
        s = saliency_maps.integrated_gradients(net, x, y, points=points)
        errors.append((s.sum((1, 2, 3)) - rise).abs().max() / rise.abs().max())
    assert errors[1] < 0.01 and errors[2] < 0.001 and errors[2] < errors[0]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
def test_integrated_gradients_are_computed_a_chunk_at_a_time(tiny, chunk):
    net, x, y = tiny
    passed = []
    net.register_forward_pre_hook(lambda _, inputs: passed.append(len(inputs[0])))
    s = saliency_maps.integrated_gradients(net, x, y, points=5, chunk=chunk)
    assert max(passed) <= chunk and sum(passed) == 6 * len(x)
    whole = saliency_maps.integrated_gradients(net, x, y, points=5)
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
    torch.testing.assert_close(saliency_maps.gradcam(net, x, y), enlarged(small, x), rtol=1e-10, atol=1e-14)


def test_cam_averages_to_the_logit_and_gradcam_is_its_positive_part(tiny):
    net, x, y = tiny
    cam = saliency_maps.cam(net, x, y)
    logit = (net(x) - net.head.bias).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(cam.mean((1, 2, 3)), logit.detach())
    torch.testing.assert_close(saliency_maps.gradcam(net, x, y), cam.relu() / 36)


@pytest.mark.parametrize("name", ["cam", "gradcam", "gradcam_pp"])
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
    ours, (released, raised) = saliency_maps.gradcam_pp(net, x, y), released_gradcam_pp(net, x, y)
    torch.testing.assert_close(ours * raised, released, rtol=1e-10, atol=1e-14)
    assert torch.equal(binarise(ours, "median"), binarise(released, "median"))
    torch.testing.assert_close(binarise(ours, "minmax"), binarise(released, "minmax"), rtol=1e-8, atol=1e-10)


def test_gradcam_pp_of_a_large_logit_is_finite_where_the_released_formula_is_not(nets):
    net, x, y = copy.deepcopy(nets["rgb"][0]), *nets["rgb"][1:]
    net.head.bias.data += 200
    assert not released_gradcam_pp(net, x, y)[0].isfinite().all()
    assert torch.equal(saliency_maps.gradcam_pp(net, x, y), saliency_maps.gradcam_pp(nets["rgb"][0], x, y))


def test_guided_gradcam_pp_is_the_map_where_guided_backprop_is_positive(tiny):
    net, x, y = tiny
    x = x.clone()
    x[0] = 0
    s = saliency_maps.guided_gradcam_pp(net, x, y)
    g = saliency_maps.guided_backprop(net, x, y)
    m = binarise(saliency_maps.gradcam_pp(net, x, y), "minmax").expand_as(g)
    torch.testing.assert_close(s[g > 0], m[g > 0])
    assert (s[g < 0] == -1).all()
    torch.testing.assert_close(s[g == 0], (m[g == 0] - 1) / 2)


@pytest.mark.parametrize("name", NEEDS_NET)
def test_empty_class_activation_map_has_no_nan(tiny, name):
    net, x, y = tiny
    net.features.layers[-1].weight.data.zero_()
    net.features.layers[-1].bias.data.fill_(-1)
    s = explain(name, net, x, y)
    assert s.isfinite().all()
    if name != "guided_gradcam_pp":
        assert (s == 0).all()
        for how in ("sign", "median", "quantile", "minmax"):
            assert (binarise(s, how, signed=saliency_maps.signed(name)) == 0).all()


# captum's own


def test_deeplift_obeys_its_rule_on_functions_and_on_a_module_used_twice():
    functional, modular, reused = twins([F.relu] * 3, modules(), [nn.ReLU(inplace=True)] * 3)
    x, y = torch.rand(3, 2, 6, 6, dtype=torch.float64), torch.tensor([1, 0, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = captum.DeepLift(modular).attribute(x.clone().requires_grad_(), target=y)
    assert not torch.allclose(expected, find("captum.InputXGradient")(modular, x, y))
    for net in (functional, modular, reused):
        ours = find("captum.DeepLift")(net, x, y)
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
        find(name)


def test_only_captums_names_need_captum(monkeypatch, tiny):
    net, x, y = tiny
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match="package captum"):
        find("captum.DeepLift")
    for name in SALIENCY:
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
    assert torch.equal(saliency_maps.explained(net, x, y, "label"), y)
    assert torch.equal(saliency_maps.explained(net, x, y, "predicted"), predicted)
    with pytest.raises(UserError, match="did you mean 'predicted'"):
        saliency_maps.explained(net, x, y, "prediction")


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


@pytest.mark.parametrize("name", NAMES)
def test_every_map_can_be_binarised(nets, name):
    net, x, y = nets["small on grey"]
    s = explain(name, net, x, y)
    for how in ("sign", "median", "quantile", "minmax"):
        m = binarise(s, how, signed=saliency_maps.signed(name))
        assert m.shape == s.shape and m.dtype == s.dtype
        if how == "minmax":
            assert m.min() == 0 and m.max() == 1
        else:
            assert {-1.0, 1.0} <= set(m.unique().tolist()) <= {-1.0, 0.0, 1.0}
