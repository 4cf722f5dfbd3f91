"""Batches and augmentation: every image once, one draw for image and map."""

from itertools import chain

import torch

from harness.data import augment
from harness.data.batches import MAP_UNIT, Batches
from harness.data.settings import Augment


def numbered(n=10, size=6):
    """Images whose pixels all differ, so that a map made of them shows where each went."""
    x = torch.arange(n * size * size, dtype=torch.int64).reshape(n, 1, size, size) % 251 + 1
    return x.to(torch.uint8), torch.arange(n)


def test_an_epoch_shows_every_image_once_in_a_new_order():
    x, y = numbered()
    batches = Batches(x, y, batch=4)
    first = [batch.y.tolist() for batch in batches.epoch(0, 1)]
    second = [batch.y.tolist() for batch in batches.epoch(1, 2)]
    assert [len(b) for b in first] == [4, 4, 2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second


def test_a_last_image_alone_is_left_out():
    x, y = numbered(9)
    assert [len(b) for b in Batches(x, y, batch=4).epoch(0, 1)] == [4, 4]


def test_epoch_grows_within_the_epoch():
    x, y = numbered(8)
    assert [b.epoch for b in Batches(x, y, batch=2).epoch(3, 5)] == [3.0, 3.25, 3.5, 3.75]


def test_images_are_bytes_over_255():
    x, y = numbered()
    for batch in Batches(x, y, batch=5).epoch(0, 1):
        assert torch.equal(batch.x, x[batch.y].float() / 255)


def test_image_and_map_take_the_same_crop_and_mirror():
    x, y = numbered(50)
    maps = (x.to(torch.int16) % 127 + 1).to(torch.int8)
    batches = Batches(x, y, (maps,), batch=50, augment=Augment(pad=2, flip=True))
    (batch,) = batches.epoch(0, 1)
    pixels = (batch.x * 255).round().to(torch.int16)
    expected = torch.where(pixels == 0, 0, pixels % 127 + 1)  # what lies outside is 0 in both
    assert torch.equal((batch.s * MAP_UNIT).round().to(torch.int16), expected)
    assert (pixels != x[batch.y].to(torch.int16)).flatten(1).any(1).sum() > 40  # and it did change


def test_identity_draw_changes_nothing_and_crops_are_within_the_border():
    x, _ = numbered(20)
    same = augment.apply(Augment(), augment.identity(20, 6, 6, x.device), x)
    assert torch.equal(same, x)
    rows, cols = augment.draw(Augment(pad=3), 1000, 6, 6, x.device)
    assert rows.min() == 0 and rows.max() == 6 + 5 and cols.min() == 0 and cols.max() == 6 + 5
    assert not torch.equal(rows[:, 0], cols[:, 0])


def test_flip_mirrors_about_half_exactly():
    x, _ = numbered(400)
    out = augment.apply(Augment(flip=True), augment.draw(Augment(flip=True), 400, 6, 6, x.device), x)
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    same = (out == x).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert 160 < mirrored.sum() < 240


def test_random_squares_are_cut_from_image_and_map_alike():
    x, y = numbered(300, size=8)
    maps = (x.to(torch.int16) % 127 + 1).to(torch.int8)
    for settings in (Augment(), Augment(flip=True), Augment(pad=1, flip=True)):
        (batch,) = Batches(x, y, (maps,), batch=300, augment=settings, crop=5).epoch(0, 1)
        pixels = (batch.x * 255).round().to(torch.int16)
        assert pixels.shape == batch.s.shape == (300, 1, 5, 5)
        expected = torch.where(pixels == 0, 0, pixels % 127 + 1)
        assert torch.equal((batch.s * MAP_UNIT).round().to(torch.int16), expected)
        border = torch.nn.functional.pad(x, [settings.pad] * 4)
        windows = border.unfold(2, 5, 1).unfold(3, 5, 1)[batch.y]  # (N, 1, places, places, 5, 5)
        found = (windows == pixels.to(torch.uint8)[:, :, None, None]).all((4, 5))
        found |= (windows.flip(5) == pixels.to(torch.uint8)[:, :, None, None]).all((4, 5)) & settings.flip
        assert found.any((1, 2, 3)).all(), "each is a window of its own image"
        assert found.any(0).all(), "every place is taken"


def test_a_crop_as_large_as_the_image_is_the_image():
    x, y = numbered()
    (batch,) = Batches(x, y, batch=10, crop=6).epoch(0, 1)
    assert torch.equal(batch.x, x[batch.y].float() / 255)


def test_without_a_crop_the_draws_are_those_of_crop_and_mirror_alone():
    torch.manual_seed(3)
    rows, cols = augment.draw(Augment(pad=2, flip=True), 50, 6, 7, torch.device("cpu"))
    torch.manual_seed(3)
    mirrored = torch.rand(50, 1) < 0.5
    down, right = torch.randint(5, (50, 1)), torch.randint(5, (50, 1))
    assert torch.equal(rows, torch.arange(6) + down)
    assert torch.equal(cols, torch.where(mirrored, 6 - torch.arange(7), torch.arange(7)) + right)


def test_two_maps_take_turns_by_epoch_and_live_maps_see_the_augmented_batch():
    x, y = numbered()
    ones, minus = (torch.full_like(x, v, dtype=torch.int8) for v in (MAP_UNIT, -MAP_UNIT))
    batches = Batches(x, y, (ones, minus), batch=5)
    seen = [{float(b.s.mean()) for b in batches.epoch(e, 40)} for e in range(40)]
    assert all(len(s) == 1 for s in seen)
    assert 8 < sum(s == {1.0} for s in seen) < 32
    live = Batches(x, y, (lambda x, y: -x,), batch=5, augment=Augment(pad=1))
    assert all(torch.equal(b.s, -b.x) for b in live.epoch(0, 1))
