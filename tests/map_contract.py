"""What every map of `harness.explain.maps.MAPS` promises. Each function of `CONTRACT` checks one promise, by name."""

import copy
import dataclasses
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.errors import UserError
from harness.explain.base import Map
from harness.explain.maps import MAPS, for_training
from harness.models import nets as models_nets
from harness.models.freezing import frozen
from harness.models.relus import softened
from harness.training.binarise_maps import binarise

NETS = {
    "small on grey": ("small", 1, (8, 12)),
    "grey": ("resnet10", 1, (8, 8)),
    "rgb": ("resnet10", 3, (32, 32)),
}
QUICK = {"points": 3, "n": 2}  # fewer passes, for maps with such constants


def quick(explain: Map, **constants) -> Map:
    fields = {field.name for field in dataclasses.fields(explain)}
    return dataclasses.replace(explain, **{k: v for k, v in {**QUICK, **constants}.items() if k in fields})


def explain(name, net, x, y, **constants):
    return quick(for_training(name), **constants).detached(net, x, y)


def with_trained_norms(net):
    """The net with normalisation whose statistics, weights and biases are not those of a fresh one."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.2)
    return net


def lived_in(net, seed=0):
    """The net with the statistics and biases of one that has been trained, in evaluation mode."""
    torch.manual_seed(seed)
    with_trained_norms(net)
    nn.init.normal_(net.head.bias)
    return net.normalised_by(torch.tensor(0.3), torch.tensor(0.5)).eval()


@cache
def example(on):
    """(net, x, y) of `NETS`, two images, in float32; the activation maps of y have both signs."""
    architecture, channels, size = NETS[on]
    torch.manual_seed(0)
    net = lived_in(models_nets.build(architecture, channels, 10))
    x = torch.rand(2, channels, *size)
    with torch.no_grad():
        logits = net(x) - net.head.bias
    return net, x, logits.where(logits > 0, torch.inf).argmin(1)


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


class Linear(nn.Module):
    """Logits linear in the pixels, by a layer that torch knows how to initialise."""

    def __init__(self, pixels, classes):
        super().__init__()
        self.head = nn.Linear(pixels, classes)

    def forward(self, x):
        return self.head(x.flatten(1))


def linear_model():
    """The model, images, classes, and each class's weights as an image."""
    torch.manual_seed(1)
    model, x = Linear(18, 4).double(), torch.rand(5, 2, 3, 3, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0])
    return model, x, y, model.head.weight.detach()[y].view_as(x)


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


# The promises


def it_has_the_size_of_the_image_and_is_finite_and_detached(name):
    for on in NETS:
        net, x, y = example(on)
        with torch.no_grad():  # as a trainer may call it
            s = explain(name, net, x, y)
        channels = x.shape[1] if for_training(name).per_channel else 1
        wanted = (2, channels, *x.shape[2:])
        assert s.shape == wanted, f"{name}: return {wanted}, not {tuple(s.shape)}, or declare `per_channel = False`"
        assert s.dtype == x.dtype, f"{name}: return the images' {x.dtype}, not {s.dtype}"
        assert s.isfinite().all(), f"{name}: has values that are not finite"
        assert not s.requires_grad and not x.requires_grad and x.grad is None, f"{name}: leaves a graph"
        if channels > 1 or net.maps(x).shape[-1] > 1:
            assert s.flatten(1).std(1).min() > 0, f"{name}: is constant"


def it_is_the_same_in_float64(name):
    net, x, y = example("grey")
    declared = for_training(name)
    constants = {"sigma": 0.0} if declared.random else {}
    exact = explain(name, copy.deepcopy(net).double(), x.double(), y, **constants)
    assert exact.dtype == torch.float64, f"{name}: turns float64 into {exact.dtype}; use the dtype of x throughout"
    if declared.random and "sigma" not in {field.name for field in dataclasses.fields(declared)}:
        return  # its noise cannot be turned off, and the generator draws other numbers in float64
    rough = explain(name, net, x, y, **constants)
    differs = (rough - exact).abs() > 1e-3 * exact.abs().amax((1, 2, 3), keepdim=True)
    share = differs.double().mean()
    assert share < 0.02, f"{name}: {share:.0%} of float32 differs from float64"  # a ReLU may fall beside its kink


def it_leaves_the_model_as_it_was(name):
    net, x, y = copy.deepcopy(example("small on grey")[0]), *example("small on grey")[1:]
    before = None if for_training(name).random else explain(name, net, x, y)
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
    assert everything() == state, f"{name}: leaves hooks, modes, flags or gradients behind"
    assert all(torch.equal(v, buffers[k]) for k, v in net.state_dict().items()), (
        f"{name}: changes the weights or statistics"
    )
    assert torch.equal(x, kept), f"{name}: changes the images"
    if before is not None:
        torch.testing.assert_close(s, before, msg=lambda m: f"{name}: depends on the net's former mode\n{m}")

    with pytest.raises(Exception, match=r"index|bounds"):
        explain(name, net, x, torch.full_like(y, 99))
    assert everything() == state, f"{name}: leaves something behind after an error; use a context manager"
    assert torch.equal(F.relu(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0])), f"{name}: ReLU stays replaced"


def it_is_the_same_for_the_same_seed(name):
    net, x, y = example("small on grey")
    maps, random = [], for_training(name).random
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        maps.append(explain(name, net, x, y))
    assert torch.equal(*maps[:2]), f"{name}: differs between calls; draw from torch's global generator only"
    says = f"{name}: declare `random`: whether the map depends on torch's global generator"
    assert torch.equal(maps[0], maps[2]) != random, says


def it_does_not_depend_on_other_images(name):
    net, x, y = example("small on grey")
    others = torch.cat([x[:1], 1 - x[1:]]), torch.stack([y[0], (y[1] + 1) % 10])
    maps = []
    for batch, label in ((x, y), others):
        torch.manual_seed(0)  # the noise is drawn for the whole batch
        maps.append(explain(name, net, batch, label)[:1])
    close = {"rtol": 1e-4, "atol": 1e-6, "msg": lambda m: f"{name}: depends on the other images of the batch\n{m}"}
    torch.testing.assert_close(*maps, **close)
    if not for_training(name).random:
        torch.testing.assert_close(explain(name, net, x[:1], y[:1]), maps[0], **close)
        backwards = explain(name, net, x.flip(0), y.flip(0)).flip(0)
        torch.testing.assert_close(backwards[:1], maps[0], **close)


def it_finds_a_planted_square(name):
    net, x, inside = detector()
    s = explain(name, net, x, torch.ones(4, dtype=torch.long))
    peak = s.flatten(1).argmax(1, keepdim=True)
    assert inside.flatten(1).gather(1, peak).all(), f"{name}: its largest value is not on the object"
    for image, there in zip(s, inside, strict=True):
        assert image[there].mean() > image[~there].mean(), f"{name}: is no larger on the object than off it"
    m = binarise(s, "quantile", quantile=1 - 25 / 144)
    assert ((m > 0) & inside).sum() / ((m > 0) | inside).sum() > 0.4, f"{name}: misses the object"


def its_sign_is_as_declared(name):
    net, x, y = example("small on grey")
    signed = for_training(name).signed
    negative = bool(explain(name, net, x, y).min() < 0)
    has = "has negative values" if negative else "has none"
    assert negative == signed, f"{name}: declares `signed = {signed}`, but {has}"


def a_step_against_it_weakens_the_class(name):
    declared = for_training(name)
    if declared.signed and not declared.of_features:
        model, x, y, _ = linear_model()
        fallen = (model(x) - model(x - 0.01 * explain(name, model, x, y).sign())).gather(1, y[:, None])
        assert (fallen > 0).all(), f"{name}: positive values must be evidence for the class, not against it"


def it_needs_a_net_if_it_says_so(name):
    model, x, y, _ = linear_model()
    of_features, refusal = for_training(name).of_features, None
    try:
        explain(name, model, x, y)
    except UserError as error:
        refusal = str(error)
    assert refusal or not of_features, f"{name}: declares `of_features`, but explains a {type(model).__name__}"
    assert of_features or not refusal, f"{name}: declare `of_features = True`, or explain any model: {refusal}"
    assert not refusal or "Linear" in refusal, f"{name}: the error must name the kind of model: {refusal}"


def it_sums_to_the_logit_if_it_says_so(name):
    if for_training(name).complete:
        (net,) = twins([F.relu] * 3)
        x, y = torch.rand(3, 2, 6, 6, dtype=torch.float64), torch.tensor([1, 0, 3])
        with torch.no_grad():
            rise = (net(x) - net(torch.zeros_like(x))).gather(1, y[:, None])[:, 0]
        error = (for_training(name).detached(net, x, y).sum((1, 2, 3)) - rise).abs().max() / rise.abs().max()
        assert error < 0.01, f"{name}: declares `complete`, but its sum is off by {error:.1%}"


def it_can_be_binarised(name):
    net, x, y = example("small on grey")
    s = explain(name, net, x, y)
    for how in ("sign", "median", "quantile", "minmax"):
        m = binarise(s, how, signed=for_training(name).signed)
        assert m.shape == s.shape and m.dtype == s.dtype, f"{name}: {how} changes shape or dtype"
        if how == "minmax":
            assert m.min() == 0 and m.max() == 1, f"{name}: minmax does not fill [0, 1]"
        else:
            assert {-1.0, 1.0} <= set(m.unique().tolist()) <= {-1.0, 0.0, 1.0}, f"{name}: {how} is not -1, 0 and 1"


def its_derivative_is_right_if_it_is_differentiable(name):
    """By finite differences, with each image's extremes fixed, as noise may be in units of its range."""
    if not for_training(name).differentiable:
        return
    (net,), kind = twins([F.relu] * 3), MAPS[name]
    says = f"{name}: declares `differentiable`, so `{kind.__name__}()` without constants must work with a graph: "
    x, y = 0.1 + torch.rand(3, 2, 6, 6, dtype=torch.float64), torch.tensor([1, 0, 3])
    extremes = torch.stack([x.flatten(1).argmax(1), x.flatten(1).argmin(1)], 1)
    u = torch.randn(3, 72).scatter(1, extremes, 0).view_as(x).double()
    with frozen(net):
        soft, method = softened(net, 5.0), quick(kind())
        plain = method(soft, x, y)
        v = torch.randn_like(plain) / plain.abs().max().clamp_min(1e-30)  # whatever the map's unit

        def value(at):
            return (method(soft, at, y) * v).sum((1, 2, 3))

        z = x.clone().requires_grad_(True)
        total = value(z).sum()
        assert total.requires_grad, says + "do not detach x"
        (g,) = torch.autograd.grad(total, z)
        slope, h = (g * u).sum((1, 2, 3)), 1e-6
        numeric = (value(x + h * u) - value(x - h * u)) / (2 * h)
        torch.testing.assert_close(
            slope, numeric, rtol=1e-4, atol=1e-5, msg=lambda m: f"{says}its derivative is wrong\n{m}"
        )
        assert numeric.abs().max() > 1e-3, says + "it does not depend on x"


CONTRACT = (
    it_has_the_size_of_the_image_and_is_finite_and_detached,
    it_is_the_same_in_float64,
    it_leaves_the_model_as_it_was,
    it_is_the_same_for_the_same_seed,
    it_does_not_depend_on_other_images,
    it_finds_a_planted_square,
    its_sign_is_as_declared,
    a_step_against_it_weakens_the_class,
    it_needs_a_net_if_it_says_so,
    it_sums_to_the_logit_if_it_says_so,
    it_can_be_binarised,
    its_derivative_is_right_if_it_is_differentiable,
)
