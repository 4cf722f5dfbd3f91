"""Maps as a column of the data: cached, shared, checked."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from harness import cli
from harness.data import datasets
from harness.data.batches import MAP_UNIT
from harness.data.datasets import Split
from harness.errors import UserError
from harness.explain.maps import Gradient
from harness.training import training_maps
from harness.training.teacher_maps import Teacher
from harness.trials import run as trial_run
from harness.trials import teachers


def prepare(run, workspace, train_teacher=None, data=None):
    data = data or datasets.load(run.data, workspace)

    def trained(teacher_spec):
        return trial_run.trained_model(teacher_spec, workspace)[0], 1.5

    def teacher(method):
        spec = teachers.teacher_trial(run, method)
        return Teacher(spec.key, lambda: (train_teacher or trained)(spec))

    training_maps.check(run.maps, data, run.data.name)
    return training_maps.prepare_maps(run.maps, data, workspace, teacher, seed=run.seed), data


def test_maps_are_those_of_the_teacher_image_by_image(shared_workspace, quick):
    run = quick(method="sat", maps__saliency="gradient", maps__teacher="standard")
    prepared, data = prepare(run, shared_workspace)
    teacher, _ = trial_run.trained_model(teachers.teacher_trial(run, "standard"), shared_workspace)
    x = data.train.x.float() / 255
    expected = Gradient().detached(teacher, x, data.train.y).sign()
    (column,) = prepared.maps
    assert column.dtype == torch.int8 and column.shape == data.train.x.shape
    says = expected != 0
    assert torch.equal(column[says].float() / MAP_UNIT, expected[says])
    assert set(column.unique().tolist()) == {-MAP_UNIT, MAP_UNIT}  # where it says nothing a random sign stands
    assert prepared.seconds["teacher"] == 1.5 and prepared.seconds["maps"] > 0


def test_maps_are_made_once(shared_workspace, quick):
    run = quick(method="sat", maps__saliency="integrated_gradients")
    first, _ = prepare(run, shared_workspace)

    def never(teacher_spec):
        raise AssertionError("the teacher was asked again")

    again, _ = prepare(quick(method="pgd_sat", maps__saliency="integrated_gradients"), shared_workspace, never)
    assert torch.equal(first.maps[0], again.maps[0])
    assert first.seconds == again.seconds  # the cost is stated whoever bore it


def test_a_teacher_is_shared_by_all_tuned_trials(quick):
    one = quick(method="sat", optim__lr=0.1, method__eps=0.2, maps__binarise="median")
    other = quick(method="trades_sat", optim__lr=0.01)
    assert teachers.teacher_trial(one, "pgd") == teachers.teacher_trial(other, "pgd")
    assert teachers.teacher_trial(one, "pgd").key != teachers.teacher_trial(one, "standard").key


def test_a_teacher_follows_the_seed_unless_it_is_fixed(quick):
    lessons = [teachers.teacher_trial(quick(method="sat", seed=seed), "standard") for seed in (1, 2)]
    assert [teacher_spec.seed for teacher_spec in lessons] == [1, 2]
    fixed = [teachers.teacher_trial(quick(method="sat", seed=s, maps__teacher_seed=7), "standard") for s in (1, 2)]
    assert fixed[0] == fixed[1] and fixed[0].seed == 7


def test_no_two_cells_of_the_sat_space_train_on_the_same_maps(shared_workspace):
    columns = {}
    for cell in cli.space("sat").cells({"epochs": 2, "data.limit": 96}):
        if "standard teacher" in cell.name:
            (columns[cell.name],) = prepare(cell.trial, shared_workspace)[0].maps
    assert len(columns) == 4
    for (a, x), (b, y) in combinations(columns.items(), 2):
        assert float((x != y).float().mean()) > 0.05, (a, b)


def test_maps_of_other_images_are_not_reused(workspace, quick):
    def run(limit):
        return quick(method="sat", maps__saliency="gradient", data__limit=limit)

    data = datasets.load(run(96).data, workspace)
    first, _ = prepare(run(96), workspace, data=data)
    other = replace(data, checksums={**data.checksums, "train": "f" * 16})
    asked = []
    again, _ = prepare(
        run(96),
        workspace,
        lambda teacher_spec: asked.append(1) or (trial_run.trained_model(teacher_spec, workspace)[0], 0.0),
        other,
    )
    assert asked and torch.equal(first.maps[0], again.maps[0])


def test_minmax_maps_keep_their_shades(shared_workspace, quick):
    prepared, _ = prepare(quick(method="sat", maps__saliency="gradcam", maps__binarise="minmax"), shared_workspace)
    values = prepared.maps[0].float() / MAP_UNIT
    assert values.min() == 0 and values.max() == 1 and len(values.unique()) > 10


def test_boxes_and_masks_become_maps():
    boxes = torch.tensor([[1, 0, 2, 3]], dtype=torch.int16)
    masks = torch.zeros(1, 4, 5, dtype=torch.uint8)
    masks[0, 2:, 1:3] = 1
    split = Split(torch.zeros(1, 3, 4, 5, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), boxes, masks)
    box = training_maps._maps_from_data("box", split)[0, 0] / MAP_UNIT
    assert torch.equal(box, torch.tensor([[-1.0, 1, 1, -1, -1]] * 4))
    mask = training_maps._maps_from_data("mask", split)[0, 0] / MAP_UNIT
    assert torch.equal(mask, masks[0].float() * 2 - 1)
    masks[0, 1] = 255
    unknown = training_maps._maps_from_data("mask", split)[0, 0]
    assert not unknown[1].any() and torch.equal(unknown[[0, 2, 3]], mask[[0, 2, 3]].to(torch.int8) * MAP_UNIT)
    random = training_maps._maps_from_data("random", split)
    assert random.shape == split.x.shape and set(random.unique().tolist()) == {-MAP_UNIT, MAP_UNIT}
    assert torch.equal(random, training_maps._maps_from_data("random", split))


def test_live_maps_explain_the_batch_they_are_given(shared_workspace, quick):
    run = quick(method="sat", maps__saliency="gradient", maps__live=True)
    prepared, data = prepare(run, shared_workspace)
    teacher, _ = trial_run.trained_model(teachers.teacher_trial(run, "standard"), shared_workspace)
    x, y = data.val.x[:5].float() / 255, data.val.y[:5]
    expected = Gradient().detached(teacher, x, y).sign()
    says = expected != 0
    assert torch.equal(prepared.maps[0](x, y)[says], expected[says])


def test_two_sources(shared_workspace, quick):
    run = quick(method="sat", maps__saliency="gradient+random")
    prepared, _ = prepare(run, shared_workspace)
    assert len(prepared.maps) == 2
    assert training_maps.map_sources(quick(method="sat", maps__teacher="standard+pgd").maps) == [
        ("smoothgrad", "standard"),
        ("smoothgrad", "pgd"),
    ]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"maps__saliency": "smoothgard"}, ["smoothgard", "smoothgrad"]),
        ({"maps__teacher": "standrad"}, ["standrad", "standard"]),
        ({"maps__teacher": "sat"}, ["sat"]),
        ({"maps__saliency": "box"}, ["box", "digits"]),
        ({"maps__saliency": "mask"}, ["mask", "digits"]),
        ({"maps__saliency": "random", "maps__live": True}, ["live", "random"]),
        ({"maps__saliency": "gradient+gradcam+cam"}, ["two"]),
    ],
)
def test_what_cannot_be_made_is_said(shared_workspace, quick, settings, words):
    with pytest.raises(UserError) as mistake:
        prepare(quick(method="sat", **settings), shared_workspace)
    assert "\n" not in str(mistake.value) and all(word in str(mistake.value) for word in words)


def test_a_lost_map_file_is_made_again(workspace, quick):
    run = quick(method="sat", maps__saliency="gradient")
    first, _ = prepare(run, workspace)
    before = first.maps[0].clone()
    for file in workspace.cache("maps").glob("*/*.npy"):
        file.unlink()
    again, _ = prepare(run, workspace)
    assert torch.equal(before, again.maps[0])
