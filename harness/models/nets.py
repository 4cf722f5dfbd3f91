"""Network architectures: small CNN, ResNets, wide ResNets, VGG-GAP.

Each is features -> global average pooling -> linear, with input normalisation inside; inputs are in [0, 1].
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import UserError, one_line
from harness.plugins import Thing, is_reference
from harness.plugins.registry import Registry


class Net(nn.Module):
    """Classifier: features (B, C, H, W) -> (B, D, h, w), mean over (h, w), linear head (B, D) -> (B, classes).

    stages: the modules within `features` whose outputs end its stages, but for the last, in forward order. Methods that
    act on stages need them; see `stages`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: nn.Module, width: int, classes: int, channels: int, stages: Sequence[nn.Module] = ()):
        super().__init__()
        self.features = features
        self.inner_stages = tuple(stages)  # in a tuple, so that their weights are listed once
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def normalised_by(self, mean: Tensor, std: Tensor) -> "Net":
        """Set the input normalisation (x - mean) / std per channel; returns the net itself."""
        self.mean.copy_(mean)
        self.std.copy_(std)
        return self

    def maps(self, x: Tensor) -> Tensor:
        """Last convolutional feature maps (B, D, h, w) of x in [0, 1]."""
        return self.features((x - self.mean[:, None, None]) / self.std[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x).mean((2, 3)))


def conv(i: int, o: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Convolution with same padding, without bias, He-initialised."""
    layer = nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class Small(nn.Module):
    """Three convolutions for 8x8 and 32x32 images; larger images are average-pooled first."""

    def __init__(self, channels: int):
        super().__init__()
        convs = [conv(channels, 24), conv(24, 48, stride=2), conv(48, 64)]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList([nn.BatchNorm2d(c.out_channels) for c in convs])
        self.ends = nn.ModuleList([nn.Identity() for _ in self.convs])  # hook points after each ReLU

    def forward(self, x: Tensor) -> Tensor:
        while x.shape[-1] > 32:
            x = F.avg_pool2d(x, 2)
        for layer, norm, end in zip(self.convs, self.norms, self.ends, strict=True):
            x = end(F.relu(norm(layer(x))))
        return x


class Basic(nn.Module):
    """Basic residual block: two 3x3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, i: int, o: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = conv(i, o, stride=stride), nn.BatchNorm2d(o)
        self.conv2, self.norm2 = conv(o, o), nn.BatchNorm2d(o)
        identity = stride == 1 and i == o
        self.shortcut = nn.Identity() if identity else nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet in CIFAR form: 3x3 stem of stride 1, no pooling, widths 64 to 512."""

    def __init__(self, channels: int, blocks: tuple[int, ...]):
        super().__init__()
        self.stem, self.norm = conv(channels, 64), nn.BatchNorm2d(64)
        layers: list[nn.Module] = []
        width = 64
        for stage, count in enumerate(blocks):
            for block in range(count):
                layers.append(Basic(width, 64 << stage, 2 if stage and not block else 1))
                width = 64 << stage
        self.blocks = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(F.relu(self.norm(self.stem(x))))


class PreActivation(nn.Module):
    """Pre-activation block of a wide ResNet, with dropout between the convolutions."""

    def __init__(self, i: int, o: int, stride: int, dropout: float):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(i), conv(i, o, stride=stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(o), conv(o, o)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = None if stride == 1 and i == o else conv(i, o, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv2(self.dropout(F.relu(self.norm2(self.conv1(out)))))
        return out + shortcut


class WideResNet(nn.Module):
    """WRN-depth-widen in CIFAR form (Zagoruyko and Komodakis, 2016)."""

    def __init__(self, channels: int, depth: int, widen: int, dropout: float):
        super().__init__()
        layers: list[nn.Module] = []
        width = 16
        self.stem = conv(channels, width)
        for stage in range(3):
            for block in range((depth - 4) // 6):
                o = (16 << stage) * widen
                layers.append(PreActivation(width, o, 2 if stage and not block else 1, dropout))
                width = o
        self.blocks, self.norm = nn.Sequential(*layers), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.blocks(self.stem(x))))


def small(channels: int, classes: int) -> Net:
    """Small CNN for tests and digits."""
    features = Small(channels)
    return Net(features, 64, classes, channels, stages=list(features.ends)[:-1])


def tiny(channels: int, classes: int) -> Net:
    """Two convolutions of stride 2, 5,000 parameters: for measurements that are too expensive with a larger net."""
    layers: list[nn.Module] = []
    for i, o in ((channels, 16), (16, 32)):
        layers += [conv(i, o, stride=2), nn.BatchNorm2d(o), nn.ReLU()]
    return Net(nn.Sequential(*layers), 32, classes, channels, stages=[layers[2]])


def _first_of_later_stages(blocks: nn.Sequential) -> list[nn.Module]:
    return [block for block in blocks if block.conv1.stride == (2, 2)]


def resnet(*blocks: int) -> Callable[[int, int], Net]:
    """Builder (channels, classes) -> Net of a CIFAR ResNet with these blocks per stage."""

    def build(channels: int, classes: int) -> Net:
        features = ResNet(channels, blocks)
        # The output of the last block is that of the features.
        inner = [block for block in _first_of_later_stages(features.blocks) if block is not features.blocks[-1]]
        return Net(features, 64 << (len(blocks) - 1), classes, channels, stages=inner)

    return build


def wide_resnet(depth: int, widen: int, dropout: float) -> Callable[[int, int], Net]:
    """Builder (channels, classes) -> Net of a wide ResNet."""

    def build(channels: int, classes: int) -> Net:
        features = WideResNet(channels, depth, widen, dropout)
        return Net(features, 64 * widen, classes, channels, stages=_first_of_later_stages(features.blocks))

    return build


def resnet50(channels: int, classes: int) -> Net:
    """torchvision's ResNet-50 with stride 1 in its last stage: 14x14 feature maps at 224 pixels, for localisation."""
    from harness.models.torchvision_import import torchvision

    net = torchvision.models.resnet50()
    if channels != 3:
        net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
    parts = (net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4)
    inner = (net.layer2[0], net.layer3[0], net.layer4[0])
    return Net(nn.Sequential(*parts), 2048, classes, channels, stages=inner)


def vgg_gap(channels: int, classes: int) -> Net:
    """VGG-16 without its last pooling, a 3x3 convolution to 1024, global average pooling (Zhou et al., 2016)."""
    from harness.models.torchvision_import import torchvision

    body = list(torchvision.models.vgg16().features[:-1])
    if channels != 3:
        body[0] = nn.Conv2d(channels, 64, 3, padding=1)
    features = nn.Sequential(*body, nn.Conv2d(512, 1024, 3, padding=1), nn.ReLU())
    return Net(features, 1024, classes, channels, stages=[m for m in body if isinstance(m, nn.MaxPool2d)])


_OWN: dict[str, Callable[[int, int], Net]] = {
    "small": small,
    "tiny": tiny,
    "resnet10": resnet(1, 1, 1, 1),
    "resnet18": resnet(2, 2, 2, 2),
    "resnet34": resnet(3, 4, 6, 3),
    "wrn28_10": wide_resnet(28, 10, 0.1),
    "wrn40_2": wide_resnet(40, 2, 0.1),
    "resnet50": resnet50,
    "vgg_gap": vgg_gap,
}


def _check(thing: Thing) -> Callable[[int, int], Net]:
    if not callable(thing):
        raise UserError("a net is a function (channels, classes) -> harness.models.nets.Net")
    return thing


NETS: Registry[Callable[[int, int], Net]] = Registry("model", "nets", _OWN, _check)


def build(name: str, channels: int, classes: int) -> Net:
    """Build network `name`, or of a plug-in, initialised by the global generator, in channels-last memory.

    Raises `UserError` for an unknown name, and for a plug-in that gives no `Net` or fails.
    """
    build_net = NETS.find(name)
    if not is_reference(name):
        net = build_net(channels, classes)
    else:
        try:
            net = build_net(channels, classes)
        except Exception as error:  # of anybody's code
            raise UserError(f"model {name!r} with {channels} channels, {classes} classes: {one_line(error)}") from error
        if not isinstance(net, Net):
            raise UserError(f"model {name!r} must give a Net of harness.models.nets, not {type(net).__name__}")
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads forget it


def stages(model: nn.Module) -> list[nn.Module]:
    """The modules whose outputs end the stages of a net, in forward order; the last is `model.features`.

    Raises `UserError` for a model that is not a `Net`, and for one that declares no stages.
    """
    if not isinstance(model, Net):
        raise UserError(f"only a Net of harness.models has stages, not {type(model).__name__}")
    if not model.inner_stages:
        raise UserError(
            f"this Net of {type(model.features).__name__} declares no stages: build it as Net(..., stages=...)"
        )
    return [*model.inner_stages, model.features]
