"""The comparison with the released rules: the protocols agree image by image, and a later run continues."""

import numpy as np
import pytest
import torch

from harness.bench import attribution
from harness.data.datasets import Split
from harness.errors import UserError
from harness.evaluation.settings import Attribution
from harness.models import nets

BRIEF = Attribution(eps=16 / 255, k=10, steps=4, points=3)


@pytest.fixture
def subject():
    """A random net that needs no training to be right: its predictions are the labels."""
    torch.manual_seed(0)
    net = nets.build("tiny", 1, 10).eval()
    x = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    return net, Split(x, net(x.float() / 255).argmax(1))


def test_the_protocols_are_the_released_rules_image_by_image_and_cheaper_ones_are_not(subject, tmp_path):
    names = ("art", "fast", "art-few", "rar", "rar-few")
    found = attribution.compare_attribution(*subject, BRIEF, 2, 2, tmp_path / "rounds.jsonl", names)
    assert list(found) == ["released art", "released rar", *names]
    for name in names:
        of = found[attribution.reference(name)]
        assert found[name].values.shape == of.values.shape == (4, 2) and len(found[name].seconds) == 2
        same = np.allclose(found[name].values, of.values, atol=1e-3, equal_nan=True)
        assert same is (name in ("art", "rar")), name
        gap = found[name].compared(of)
        assert gap.shape == (2, 3) and (gap[:, 1] <= gap[:, 0]).all() and (gap[:, 0] <= gap[:, 2]).all()
    assert not np.allclose(found["released art"].values, found["released rar"].values, equal_nan=True)


def test_a_finished_round_is_not_measured_again(subject, tmp_path):
    stored = tmp_path / "rounds.jsonl"
    one = attribution.compare_attribution(*subject, BRIEF, 2, 1, stored, ("fast",))
    lines = stored.read_text().splitlines()
    assert len(lines) == 2
    two = attribution.compare_attribution(*subject, BRIEF, 2, 2, stored, ("fast",))
    assert stored.read_text().splitlines()[:2] == lines and len(stored.read_text().splitlines()) == 4
    assert two["fast"].seconds[:1] == one["fast"].seconds and np.array_equal(two["fast"].values[:2], one["fast"].values)
    again = attribution.compare_attribution(*subject, BRIEF, 2, 1, stored, ("fast",))
    assert again["fast"].seconds == one["fast"].seconds


def test_a_net_that_is_right_too_rarely_is_refused(subject, tmp_path):
    with pytest.raises(UserError, match="classifies 5 images correctly, less than one round of 6"):
        attribution.compare_attribution(*subject, BRIEF, 6, 1, tmp_path / "rounds.jsonl", ("fast",))


def test_the_interval_is_paired_and_leaves_dropped_images_out():
    values = np.array([[0.5, 0.4], [0.7, 0.2], [np.nan, np.nan], [0.1, 0.9]])
    of = attribution.Measured([1.0], values - 0.1)
    gap = attribution.Measured([1.0], values).compared(of)
    np.testing.assert_allclose(gap, 0.1)
