"""Heat maps: against scipy in float64, and maps that are known."""

import numpy as np
import pytest
import torch
from planted_boxes import planted, random_boxes
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import UserError
from harness.explain import heat_maps
from harness.explain.maps import CAM, minmax
from harness.models import nets


@pytest.fixture
def net():
    return nets.build("small", 3, 5).eval()


def published_grad_map(net: nn.Module, x: Tensor, sigma: float) -> np.ndarray:
    """The recipe step by step, of one image, by scipy, in float64."""
    z = x.double().requires_grad_(True)
    logits = net(z)
    (g,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), z)

    def stretched(m):
        return (m - m.min()) / np.ptp(m)

    m = stretched(g.abs().mean(1)[0].numpy())
    m = (m - m.mean()) / m.std(ddof=1)
    m = stretched(m.clip(*np.percentile(m, (2, 98))))
    m = ndimage.uniform_filter(m, 3, mode="constant")
    return stretched(ndimage.gaussian_filter(m, sigma))


@pytest.mark.parametrize("size", [(32, 32), (16, 40), (8, 8)])
def test_grad_map_is_the_published_recipe_of_each_image_by_itself(net, size):
    x = torch.rand(3, 3, *size)
    heat = heat_maps.grad_map(net, x, sigma=20.0)
    double = nets.build("small", 3, 5).eval().double()
    double.load_state_dict(net.state_dict())
    for i in range(3):
        expected = published_grad_map(double, x[i : i + 1], 20.0 * min(size) / 224)
        np.testing.assert_allclose(heat[i], expected, atol=2e-4)


def test_grad_map_at_224_smooths_by_three_pixels():
    class Pixel(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 100:102, 100:102].sum((1, 2)), x.sum((1, 2, 3)) * 0], 1)

    heat = heat_maps.grad_map(Pixel(), torch.rand(1, 1, 224, 224))[0]
    spot = np.zeros((224, 224))
    spot[100:102, 100:102] = 1
    assert (heat == 0).all()  # four pixels of fifty thousand lie beyond the 98th percentile
    heat = minmax(torch.from_numpy(spot)[None])
    rows = heat_maps._gaussian(224, 3.0)
    np.testing.assert_allclose((rows @ heat[0] @ rows.T).numpy(), ndimage.gaussian_filter(spot, 3), atol=1e-12)


def test_grad_map_is_that_of_the_cross_entropy_also_where_that_vanishes(net):
    x = torch.rand(2, 3, 16, 16)
    heat = heat_maps.grad_map(net, x)
    with torch.no_grad():
        net.head.weight *= 1e4
    z = x.clone().requires_grad_(True)
    logits = net(z)
    (g,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), z)
    assert (g == 0).all()
    sure = heat_maps.grad_map(net, x)
    assert (sure.flatten(1).amax(1) == 1).all() and not torch.allclose(sure, heat)  # of two classes, no longer of five
    predicted, runner_up = logits.topk(2, 1).indices.T
    two = nets.build("small", 3, 2).eval()
    two.load_state_dict({**net.state_dict(), **{k: v[:2] for k, v in net.head.state_dict(prefix="head.").items()}})
    for i in range(2):
        two.head.weight.data = net.head.weight.data[torch.stack([predicted[i], runner_up[i]])] / 1e4
        torch.testing.assert_close(heat_maps.grad_map(two, x[i : i + 1])[0], sure[i], atol=1e-3, rtol=0)


def test_against_predicted_is_the_log_of_the_odds():
    logits = torch.randn(7, 5, dtype=torch.float64)
    p = logits.softmax(1).amax(1)
    torch.testing.assert_close(heat_maps.log_odds_against_prediction(logits), ((1 - p) / p).log())


def test_clipping_is_at_numpys_percentiles():
    maps = torch.rand(4, 9, 11)
    for low, high in ((0.02, 0.98), (0.0, 1.0), (0.25, 0.5)):
        clipped = heat_maps._clipped_to_quantiles(maps, low, high)
        for m, c in zip(maps.numpy(), clipped.numpy(), strict=True):
            np.testing.assert_allclose(c, m.clip(*np.percentile(m, (100 * low, 100 * high))), rtol=1e-6)


def test_maps_leave_the_net_as_it_was_and_do_not_depend_on_the_batch(net):
    net.train()
    x, y = torch.rand(4, 3, 16, 16).to(memory_format=torch.channels_last), torch.arange(4)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for heat, alone in (
        (heat_maps.grad_map(net, x), heat_maps.grad_map(net, x[2:3])),
        (heat_maps.cam_map(net, x, y), heat_maps.cam_map(net, x[2:3], y[2:3])),
    ):
        assert heat.shape == (4, 16, 16) and not heat.requires_grad
        assert heat.amin() == 0 and (heat.flatten(1).amax(1) == 1).all()
        torch.testing.assert_close(heat[2:3], alone, atol=1e-5, rtol=0)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_a_net_that_ignores_its_input_has_a_map_of_zeros(net):
    with torch.no_grad():
        net.head.weight.zero_()
    assert (heat_maps.grad_map(net, torch.rand(2, 3, 8, 8)) == 0).all()


def test_cam_map_finds_what_speaks_for_the_label():
    """Features that are the image itself: the map of class 0 is the image, that of class 1 its negative."""
    net = nets.Net(nn.Identity(), 1, 2, 1).eval()
    net.head.weight.data = torch.tensor([[1.0], [-1.0]])
    boxes = random_boxes(5, 10)
    x = planted(boxes, 10)[:, None]
    x[boxes.eq(torch.tensor([0, 0, 9, 9])).all(1)] = 0.5
    label = torch.zeros(5, dtype=torch.int64)
    torch.testing.assert_close(heat_maps.cam_map(net, x, label), minmax(x[:, 0]))
    torch.testing.assert_close(heat_maps.cam_map(net, x, 1 - label), minmax(-x[:, 0]))
    assert (CAM().detached(net, x, label)[:, 0] == x[:, 0]).all()


def test_cam_map_needs_a_net_with_a_head():
    with pytest.raises(UserError, match="Linear"):
        heat_maps.cam_map(nn.Linear(3, 3), torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64))
