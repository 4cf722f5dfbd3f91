"""What every training method promises."""

import dataclasses
import inspect
import sys
from typing import Any

import torch
from torch import Tensor, nn

import methods
from harness.config.range_checks import check_bounds, declarations, declared_types
from harness.contracts.promise import Promise, require
from harness.data.batches import Batch
from harness.models import nets

SIZES = ((6, 3, 8), (2, 1, 8))  # images, channels, side


def example(n: int = 6, channels: int = 3, side: int = 8) -> tuple[nets.Net, Batch]:
    """A net, and a batch with maps, in the middle of training."""
    torch.manual_seed(0)
    net = nets.build("small", channels, 5)
    s = torch.randint(2, (n, channels, side, side)).float() * 2 - 1
    return net, Batch(torch.rand(n, channels, side, side), torch.randint(5, (n,)), s, epoch=4.0, epochs=10)


def it_is_a_frozen_dataclass_that_says_what_it_is(name: str) -> None:
    method = methods.make(name)
    kind = type(method)
    require(isinstance(method, methods.Method), f"{name}: it has no loss(self, model, batch)")
    says = f"{name}: give {kind.__name__} a docstring: what it minimises, what its settings mean, what it costs"
    doc = kind.__doc__ or ""
    require(bool(doc) and not doc.startswith(f"{kind.__name__}("), says)
    require(hash(method) == hash(methods.make(name)), f"{name}: two of its defaults are not equal")


def its_settings_have_types_and_bounds_that_its_defaults_keep(name: str) -> None:
    method = methods.make(name)
    check_bounds(method, "method.")
    for setting, kind in declared_types(type(method)).items():
        number = type(getattr(method, setting)) in (int, float)
        says = (
            f"{name}: {setting} is a number without bounds; give it a type of harness.setting_types, such as Positive"
        )
        require(not number or bool(declarations(kind)), says)


def workers_find_it_by_its_name(name: str) -> None:
    kind = type(methods.make(name))
    found = getattr(sys.modules[kind.__module__], kind.__qualname__, None)
    require(found is kind, f"{name}: define {kind.__qualname__} at the top of its module, so that it can be pickled")
    again = methods.name(methods.make(methods.name(methods.make(name))))
    require(again == methods.name(methods.make(name)), f"{name}: its name {again} is not stable")


def its_loss_is_finite_terms_that_every_weight_learns_from(name: str) -> None:
    for size in SIZES:
        net, batch = example(*size)
        terms = methods.make(name).loss(net.train(), batch)
        require(bool(terms), f"{name}: loss returns no terms")
        for term, value in terms.items():
            is_number = isinstance(value, Tensor) and value.shape == ()
            require(is_number, f"{name}: the term {term!r} is no number; take the mean over the batch")
            require(bool(torch.isfinite(value)), f"{name}: the term {term!r} is {float(value.detach())}")
        torch.stack(list(terms.values())).sum().backward()
        for weight, p in net.named_parameters():
            learns = p.grad is not None and bool(torch.isfinite(p.grad).all())
            require(learns, f"{name}: {weight} gets no finite gradient")


def it_leaves_images_modes_and_flags_as_they_were(name: str) -> None:
    net, batch = example()
    before = batch.x.clone()
    methods.make(name).loss(net.train(), batch)
    require(torch.equal(batch.x, before) and batch.x.grad is None, f"{name}: changes the images")
    training = all(module.training for module in net.modules())
    require(training, f"{name}: leaves the net in evaluation mode; use harness.models.freezing.frozen")
    flags = all(p.requires_grad for p in net.parameters())
    require(flags, f"{name}: leaves weights frozen; use harness.models.freezing.frozen")
    hooks = [m for m in net.modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
    require(not hooks, f"{name}: leaves hooks on the net")


def it_is_the_same_for_the_same_seed(name: str) -> None:
    losses = []
    for _ in range(2):
        net, batch = example()
        torch.manual_seed(3)
        losses.append({k: float(v.detach()) for k, v in methods.make(name).loss(net.eval(), batch).items()})
    require(losses[0] == losses[1], f"{name}: differs between calls; draw from torch's global generator only")


def its_perturbed_images_stay_within_eps_and_the_box(name: str) -> None:
    method: Any = methods.make(name)  # with settings and functions of its own
    perturb, eps = getattr(method, "perturb", None), getattr(method, "eps", None)
    if perturb is None or eps is None or len(inspect.signature(perturb).parameters) != 2:
        return  # it perturbs no images, or in a way of its own
    if hasattr(method, "start"):  # the released starts may take it twice as far
        method = dataclasses.replace(method, start=False)
    net, batch = example()
    for _ in range(4):  # some perturb at random
        z = method.perturb(net, batch)
        far = float((z - batch.x).abs().max())
        require(far <= eps + 1e-6, f"{name}: perturb goes {far:.4g} far, beyond its eps of {eps:.4g}")
        require(float(z.min()) >= 0 and float(z.max()) <= 1, f"{name}: perturb leaves [0, 1]")


def it_lowers_its_loss(name: str) -> None:
    net, batch = example(n=16)
    method, optimiser = methods.make(name), torch.optim.SGD(net.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        torch.manual_seed(0)
        loss = torch.stack(list(method.loss(net.train(), batch).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    require(min(losses[1:]) < losses[0], f"{name}: eight steps do not lower its loss ({losses[0]:.3g})")


CONTRACT: tuple[Promise, ...] = (
    it_is_a_frozen_dataclass_that_says_what_it_is,
    its_settings_have_types_and_bounds_that_its_defaults_keep,
    workers_find_it_by_its_name,
    its_loss_is_finite_terms_that_every_weight_learns_from,
    it_leaves_images_modes_and_flags_as_they_were,
    it_is_the_same_for_the_same_seed,
    its_perturbed_images_stay_within_eps_and_the_box,
    it_lowers_its_loss,
)
