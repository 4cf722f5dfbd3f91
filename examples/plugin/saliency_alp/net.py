"""A net of two convolutions: features, a global average and a linear head, as every `Net` is."""

from torch import nn

from harness.models.nets import Net, conv


def thin(channels: int, classes: int) -> Net:
    """Two convolutions of 8 and 16 channels, the second at half the resolution."""
    first = nn.Sequential(conv(channels, 8), nn.BatchNorm2d(8), nn.ReLU())
    features = nn.Sequential(first, conv(8, 16, stride=2), nn.BatchNorm2d(16), nn.ReLU())
    return Net(features, width=16, classes=classes, channels=channels, stages=[first])
