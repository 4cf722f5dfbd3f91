"""Class activation maps of nets with a named feature layer, against captum and a twin of this project."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.contracts.map_examples import example
from harness.errors import UserError
from harness.explain.localization import measure_boxes
from harness.explain.maps import MAPS, GradCAM
from harness.models.feature_layer import WithFeatureLayer
from harness.models.freezing import frozen
from harness.models.relus import softened

OF_FEATURES = [name for name in MAPS if MAPS[name].of_features]


class Net(nn.Module):
    """Feature maps that are flattened, not averaged, and a head of two layers: the gradient differs by position."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 3, padding=1)
        )
        self.unused = nn.Conv2d(5, 4, 1)
        self.head = nn.Sequential(nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.trunk(x), inplace=True).flatten(1))


@pytest.fixture
def named():
    return (
        WithFeatureLayer(Net().double().eval(), "trunk"),
        torch.rand(3, 2, 6, 6, dtype=torch.float64),
        torch.arange(3),
    )


def twin():
    """A net of this project, and the same one known by the name of its layer only."""
    net, x, y = example("grey")
    return net, WithFeatureLayer(net, "features"), x, y


@pytest.mark.parametrize("name", OF_FEATURES)
def test_a_net_with_global_average_pooling_has_the_maps_of_its_twin(name):
    net, named, x, y = twin()
    explain = MAPS[name]()
    torch.testing.assert_close(explain.detached(named, x, y), explain.detached(net, x, y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in OF_FEATURES if MAPS[name].differentiable])
def test_so_has_its_smooth_surrogate_with_the_same_derivative(name):
    net, named, x, y = twin()
    explain, found = MAPS[name](), []
    for model in (net, named):
        z = x.clone().requires_grad_(True)
        s = explain(softened(model), z, y)
        found += [(s.detach(), torch.autograd.grad(s.square().sum(), z)[0])]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * theirs.abs().max().item())


def test_cam_and_gradcam_of_any_head_are_captums_layer_gradcam(named):
    captum = pytest.importorskip("captum.attr")
    net, x, y = named
    grad_cam = captum.LayerGradCam(net.model, net.model.trunk)
    for name, positive in (("cam", False), ("gradcam", True)):
        expected = grad_cam.attribute(x, target=y, relu_attributions=positive).detach() * (1 if positive else 9)
        expected = F.interpolate(expected, (6, 6), mode="bilinear", align_corners=False)
        found = MAPS[name]().detached(net, x, y)
        assert expected.any()
        torch.testing.assert_close(found, expected)


def test_gradcam_pp_of_any_head_is_its_formula(named):
    net, x, y = named
    features = net.model.trunk(x).detach().requires_grad_(True)
    logits = net.model.head(F.relu(features).flatten(1))
    (g,) = torch.autograd.grad(logits[range(3), y].sum(), features)
    alpha = g**2 / (2 * g**2 + features.sum((2, 3), keepdim=True) * g**3 + 1e-7)
    expected = ((alpha * g.relu()).sum((2, 3), keepdim=True) * features).sum(1, keepdim=True).detach()
    expected = F.interpolate(expected, (6, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(MAPS["gradcam_pp"]().detached(net, x, y), expected)


def test_the_net_is_as_before_and_a_map_leaves_no_hook_or_graph(named):
    net, x, y = named
    with torch.no_grad():
        s = GradCAM()(net, x, y)
    assert not s.requires_grad and not x.requires_grad
    assert not any(m._forward_hooks for m in net.modules())
    assert torch.equal(net(x), net.model(x))
    assert [p.data_ptr() for p in net.parameters()] == [p.data_ptr() for p in net.model.parameters()]


def test_boxes_are_located_by_both_maps(named):
    net, x, y = named
    boxes = torch.tensor([[1, 1, 3, 3]] * 3)
    assert {"cam", "grad", "cam-any"} <= measure_boxes(net.float(), x.float(), y, boxes).keys()


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("trank", "--features 'trank' is not known; did you mean 'trunk'?"),
        ("", "--features '' is not known; there are: head, "),
        ("unused", "--features unused is not called in the forward pass of Net"),
        ("head", "--features head gives (3, 3) for 3 images, not feature maps (3, D, h, w)"),
    ],
)
def test_another_layer_is_refused_in_one_line(layer, said, named):
    with pytest.raises(UserError) as error, frozen(named[0]):
        WithFeatureLayer(named[0].model, layer).features_and_logits(named[1])
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
