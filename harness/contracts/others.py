"""What every data set of a plug-in, space, optimiser and schedule promises."""

import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from harness import spaces
from harness.config.trial import build
from harness.contracts.promise import Promise, require
from harness.data import datasets
from harness.data.readers import EMBEDDED
from harness.data.readers.common import Part, Raw
from harness.models import nets
from harness.storage.workspace import Workspace
from harness.training.optim import OPTIMISERS, SCHEDULES
from harness.training.settings import Optim


def _parts(raw: Raw) -> dict[str, Part]:
    """Its parts by name; a data set may have no test part."""
    return {"train": raw.train} | ({"test": raw.test} if raw.test else {})


def its_images_are_uint8_with_labels_of_its_classes(name: str) -> None:
    for what, part in _parts(EMBEDDED.find(name)(0)).items():
        good = part.x.dtype == np.uint8 and part.x.ndim == 4 and part.x.shape[1] in (1, 3)
        require(good, f"{name}: {what}.x is {part.x.dtype} {part.x.shape}, not uint8 (N, 1 or 3, H, W)")
        same = part.y.dtype == np.int64 and part.y.shape == (len(part.x),)
        require(same, f"{name}: {what}.y is {part.y.dtype} {part.y.shape}, not int64 ({len(part.x)},)")
        if part.boxes is not None:
            good = part.boxes.dtype == np.int16 and part.boxes.shape == (len(part.x), 4)
            require(good, f"{name}: {what}.boxes is {part.boxes.dtype} {part.boxes.shape}, not int16 (N, 4)")
        if part.masks is not None:
            good = part.masks.dtype == np.uint8 and part.masks.shape == (len(part.x), *part.x.shape[2:])
            require(good, f"{name}: {what}.masks is {part.masks.dtype} {part.masks.shape}, not uint8 (N, H, W)")


def it_is_the_same_each_time_it_is_read(name: str) -> None:
    one, two = _parts(EMBEDDED.find(name)(0)), _parts(EMBEDDED.find(name)(0))
    same = all(np.array_equal(one[w].x, two[w].x) and np.array_equal(one[w].y, two[w].y) for w in one)
    require(same, f"{name}: gives other images each time; seed what is random")


def it_is_resized_if_that_is_asked_for(name: str) -> None:
    shape = EMBEDDED.find(name)(16).train.x.shape[2:]
    require(shape == (16, 16), f"{name}: gives {shape} images where 16x16 are asked for; see readers.images.resized")


def its_defaults_make_a_trial_that_loads_it(name: str) -> None:
    trial = build({"data": name})
    with tempfile.TemporaryDirectory() as folder:
        datasets.load(trial.data, Workspace(out=Path(folder, "runs"), data=Path(folder, "data")))


def its_docstring_asks_a_question(name: str) -> None:
    summary = spaces.summary(name)
    require(bool(summary) and not summary.startswith("("), f"{name}: begin the module with a docstring, its question")


def its_cells_are_trials_with_domains(name: str) -> None:
    for cell in spaces.space(name).cells({}):
        require(cell.proposed(cell.published()) == cell.trial, f"{name}: cell {cell.name} is not its published setting")


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


DATA: tuple[Promise, ...] = (
    its_images_are_uint8_with_labels_of_its_classes,
    it_is_the_same_each_time_it_is_read,
    it_is_resized_if_that_is_asked_for,
    its_defaults_make_a_trial_that_loads_it,
)
SPACE: tuple[Promise, ...] = (its_docstring_asks_a_question, its_cells_are_trials_with_domains)
OPTIMISER: tuple[Promise, ...] = (it_is_an_optimiser_of_all_weights_whose_steps_lower_a_loss,)
SCHEDULE: tuple[Promise, ...] = (it_is_a_factor_of_the_learning_rate,)
