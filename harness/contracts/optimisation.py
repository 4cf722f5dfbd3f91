"""What every optimiser and every schedule of the learning rate promises."""

import math

import torch

from harness.contracts.promise import Promise, require
from harness.models import nets
from harness.training.optim import OPTIMISERS, SCHEDULES
from harness.training.settings import Optim


def it_is_an_optimiser_of_all_weights_whose_steps_lower_a_loss(name: str) -> None:
    torch.manual_seed(0)
    net = nets.build("small", 1, 5)
    optimiser = OPTIMISERS.find(name)(Optim(name=name, lr=0.01), net)
    good = isinstance(optimiser, torch.optim.Optimizer)
    require(good, f"{name}: gives a {type(optimiser).__name__}, not a torch.optim.Optimizer")
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    require(held == {id(p) for p in net.parameters()}, f"{name}: does not have all weights of the net")
    x, y, losses = torch.rand(16, 1, 8, 8), torch.arange(16) % 5, []
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    require(losses[-1] < losses[0], f"{name}: ten steps do not lower a loss")
    twin = OPTIMISERS.find(name)(Optim(name=name, lr=0.01), net)
    twin.load_state_dict(optimiser.state_dict())  # as a checkpoint does


def it_is_a_factor_of_the_learning_rate(name: str) -> None:
    schedule = SCHEDULES.find(name)
    for progress in (0.0, 0.25, 0.5, 0.999):
        factor = schedule(progress)
        good = isinstance(factor, int | float) and math.isfinite(factor) and 0 <= factor <= 1
        require(good, f"{name}: is {factor} at {progress:g} of the training; its peak is 1, its least 0")
        require(schedule(progress) == factor, f"{name}: differs between calls")


OPTIMISER: tuple[Promise, ...] = (it_is_an_optimiser_of_all_weights_whose_steps_lower_a_loss,)
SCHEDULE: tuple[Promise, ...] = (it_is_a_factor_of_the_learning_rate,)
