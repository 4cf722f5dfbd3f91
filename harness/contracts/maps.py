"""What every map of `harness.explain.maps.MAPS`, or of a plug-in, promises. A function of `CONTRACT` per promise."""

import contextlib
import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.contracts.map_examples import NETS, detector, example, explain, linear_model, quick, twins
from harness.contracts.promise import Promise, require, require_close
from harness.errors import UserError
from harness.explain.maps import MAPS, for_training
from harness.models.freezing import frozen
from harness.models.relus import softened
from harness.training.binarise_maps import binarise


def it_has_the_size_of_the_image_and_is_finite_and_detached(name: str) -> None:
    for on in NETS:
        net, x, y = example(on)
        with torch.no_grad():  # as a trainer may call it
            s = explain(name, net, x, y)
        channels = x.shape[1] if for_training(name).per_channel else 1
        wanted = (2, channels, *x.shape[2:])
        require(s.shape == wanted, f"{name}: return {wanted}, not {tuple(s.shape)}, or declare `per_channel = False`")
        require(s.dtype == x.dtype, f"{name}: return the images' {x.dtype}, not {s.dtype}")
        require(s.isfinite().all(), f"{name}: has values that are not finite")
        require(not s.requires_grad and not x.requires_grad and x.grad is None, f"{name}: leaves a graph")
        if channels > 1 or net.maps(x).shape[-1] > 1:
            require(s.flatten(1).std(1).min() > 0, f"{name}: is constant")


def it_is_the_same_in_float64(name: str) -> None:
    net, x, y = example("grey")
    declared = for_training(name)
    constants = {"sigma": 0.0} if declared.random else {}
    exact = explain(name, copy.deepcopy(net).double(), x.double(), y, **constants)
    require(exact.dtype == torch.float64, f"{name}: turns float64 into {exact.dtype}; use the dtype of x throughout")
    if declared.random and "sigma" not in vars(declared):
        return  # its noise cannot be turned off, and the generator draws other numbers in float64
    rough = explain(name, net, x, y, **constants)
    differs = (rough - exact).abs() > 1e-3 * exact.abs().amax((1, 2, 3), keepdim=True)
    share = differs.double().mean()
    require(share < 0.02, f"{name}: {share:.0%} of float32 differs from float64")  # a ReLU may fall beside its kink


def it_leaves_the_model_as_it_was(name: str) -> None:
    net, x, y = copy.deepcopy(example("small on grey")[0]), *example("small on grey")[1:]
    before = None if for_training(name).random else explain(name, net, x, y)
    net.train()
    net.head.eval()
    net.head.bias.requires_grad_(False)

    def everything() -> object:
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return (
            [(m.training, sorted(vars(m)), [len(getattr(m, h)) for h in hooks]) for m in net.modules()],
            [(p.requires_grad, p.grad) for p in net.parameters()],
        )

    state, buffers = everything(), copy.deepcopy(net.state_dict())
    kept = x.clone()
    s = explain(name, net, x, y)
    require(everything() == state, f"{name}: leaves hooks, modes, flags or gradients behind")
    require(
        all(torch.equal(v, buffers[k]) for k, v in net.state_dict().items()),
        f"{name}: changes the weights or statistics",
    )
    require(torch.equal(x, kept), f"{name}: changes the images")
    if before is not None:
        require_close(s, before, f"{name}: depends on the net's former mode")

    with contextlib.suppress(Exception):  # there is no such class
        explain(name, net, x, torch.full_like(y, 99))
    require(everything() == state, f"{name}: leaves something behind after an error; use a context manager")
    require(torch.equal(F.relu(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0])), f"{name}: ReLU stays replaced")


def it_is_the_same_for_the_same_seed(name: str) -> None:
    net, x, y = example("small on grey")
    maps, random = [], for_training(name).random
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        maps.append(explain(name, net, x, y))
    require(torch.equal(*maps[:2]), f"{name}: differs between calls; draw from torch's global generator only")
    says = f"{name}: declare `random`: whether the map depends on torch's global generator"
    require(torch.equal(maps[0], maps[2]) != random, says)


def it_does_not_depend_on_other_images(name: str) -> None:
    net, x, y = example("small on grey")
    others = torch.cat([x[:1], 1 - x[1:]]), torch.stack([y[0], (y[1] + 1) % 10])
    maps = []
    for batch, label in ((x, y), others):
        torch.manual_seed(0)  # the noise is drawn for the whole batch
        maps.append(explain(name, net, batch, label)[:1])
    says = f"{name}: depends on the other images of the batch"
    require_close(maps[0], maps[1], says, rtol=1e-4)
    if not for_training(name).random:
        require_close(explain(name, net, x[:1], y[:1]), maps[0], says, rtol=1e-4)
        backwards = explain(name, net, x.flip(0), y.flip(0)).flip(0)
        require_close(backwards[:1], maps[0], says, rtol=1e-4)


def it_finds_a_planted_square(name: str) -> None:
    net, x, inside = detector()
    s = explain(name, net, x, torch.ones(4, dtype=torch.long))
    peak = s.flatten(1).argmax(1, keepdim=True)
    require(inside.flatten(1).gather(1, peak).all(), f"{name}: its largest value is not on the object")
    for image, there in zip(s, inside, strict=True):
        require(image[there].mean() > image[~there].mean(), f"{name}: is no larger on the object than off it")
    m = binarise(s, "quantile", quantile=1 - 25 / 144)
    require(((m > 0) & inside).sum() / ((m > 0) | inside).sum() > 0.4, f"{name}: misses the object")


def its_sign_is_as_declared(name: str) -> None:
    net, x, y = example("small on grey")
    signed = for_training(name).signed
    negative = bool(explain(name, net, x, y).min() < 0)
    has = "has negative values" if negative else "has none"
    require(negative == signed, f"{name}: declares `signed = {signed}`, but {has}")


def a_step_against_it_weakens_the_class(name: str) -> None:
    declared = for_training(name)
    if declared.signed and not declared.of_features:
        model, x, y, _ = linear_model()
        fallen = (model(x) - model(x - 0.01 * explain(name, model, x, y).sign())).gather(1, y[:, None])
        require((fallen > 0).all(), f"{name}: positive values must be evidence for the class, not against it")


def it_needs_a_net_if_it_says_so(name: str) -> None:
    model, x, y, _ = linear_model()
    of_features, refusal = for_training(name).of_features, None
    try:
        explain(name, model, x, y)
    except UserError as error:
        refusal = str(error)
    require(bool(refusal) or not of_features, f"{name}: declares `of_features`, but explains a {type(model).__name__}")
    require(of_features or not refusal, f"{name}: declare `of_features = True`, or explain any model: {refusal}")
    require(not refusal or "Linear" in refusal, f"{name}: the error must name the kind of model: {refusal}")


def it_sums_to_the_logit_if_it_says_so(name: str) -> None:
    if for_training(name).complete:
        (net,) = twins([F.relu] * 3)
        x, y = torch.rand(3, 2, 6, 6, dtype=torch.float64), torch.tensor([1, 0, 3])
        with torch.no_grad():
            rise = (net(x) - net(torch.zeros_like(x))).gather(1, y[:, None])[:, 0]
        error = (for_training(name).detached(net, x, y).sum((1, 2, 3)) - rise).abs().max() / rise.abs().max()
        require(error < 0.01, f"{name}: declares `complete`, but its sum is off by {error:.1%}")


def it_can_be_binarised(name: str) -> None:
    net, x, y = example("small on grey")
    s = explain(name, net, x, y)
    for how in ("sign", "median", "quantile", "minmax"):
        m = binarise(s, how, signed=for_training(name).signed)
        require(m.shape == s.shape and m.dtype == s.dtype, f"{name}: {how} changes shape or dtype")
        if how == "minmax":
            require(m.min() == 0 and m.max() == 1, f"{name}: minmax does not fill [0, 1]")
        else:
            require({-1.0, 1.0} <= set(m.unique().tolist()) <= {-1.0, 0.0, 1.0}, f"{name}: {how} is not -1, 0 and 1")


def its_derivative_is_right_if_it_is_differentiable(name: str) -> None:
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

        def value(at: Tensor) -> Tensor:
            return (method(soft, at, y) * v).sum((1, 2, 3))

        z = x.clone().requires_grad_(True)
        total = value(z).sum()
        require(total.requires_grad, says + "do not detach x")
        (g,) = torch.autograd.grad(total, z)
        slope, h = (g * u).sum((1, 2, 3)), 1e-6
        numeric = (value(x + h * u) - value(x - h * u)) / (2 * h)
        require_close(slope, numeric, f"{says}its derivative is wrong", rtol=1e-4, atol=1e-5)
        require(numeric.abs().max() > 1e-3, says + "it does not depend on x")


CONTRACT: tuple[Promise, ...] = (
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
