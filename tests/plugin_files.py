"""Plug-ins in files, as a user writes them, for tests of all that takes a name."""

FILES = {
    "alp.py": '''
"""Adversarial logit pairing (Kannan et al., 2018)."""

from dataclasses import dataclass

from pairing import squared
from torch.nn import functional as F

from harness.setting_types import NonNegative, Strength


@dataclass(frozen=True)
class ALP:
    """Cross-entropy, and the squared difference of the logits of an image and a neighbour."""

    eps: Strength = 8 / 255
    weight: NonNegative = 0.5

    def loss(self, model, batch):
        near = (batch.x + self.eps * (batch.x > 0.5)).clamp(0, 1)
        clean, moved = model(batch.x), model(near)
        return {"ce": F.cross_entropy(clean, batch.y), "pair": self.weight * squared(clean, moved)}
''',
    "pairing.py": """
def squared(a, b):
    return (a - b).pow(2).mean()
""",
    "things.py": """
import numpy as np
import torch
from dataclasses import dataclass
from torch import nn

from harness.data.corruptions import filters
from harness.data.readers import Part, Raw
from harness.data.readers.images import resized
from harness.evaluation.measurements import Measurement
from harness.explain.base import Map
from harness.explain.maps import Gradient
from harness.models.nets import Net, conv


def thin(channels, classes):
    first = nn.Sequential(conv(channels, 4, stride=2), nn.BatchNorm2d(4), nn.ReLU())
    return Net(first, 4, classes, channels)


def squares(size):
    x = np.zeros((60, 1, 8, 8), np.uint8)
    y = np.arange(60) % 2
    x[y == 1, :, 2:6, 2:6] = 255
    x = resized(x, size)
    return Raw(Part(x[:40], y[:40]), Part(x[40:], y[40:]), ("empty", "full"))


squares.defaults = {"model": "tiny", "epochs": 1, "batch": 16, "optim.lr": 0.05, "measure.eps": (8 / 255,)}


@dataclass(frozen=True)
class Doubled(Map):
    differentiable = True

    def __call__(self, net, x, y):
        return 2 * Gradient()(net, x, y)


def darker(x, severity, draws):
    lost = draws.uniform(1, *x.shape[2:]) < 0.05 * severity
    return filters.truncated(filters.unit(x) * ~lost)


def confidence(context):
    return {"confidence": Measurement(lambda model, batch: model(batch.x).softmax(1).amax(1))}


def momentum(optim, model):
    return torch.optim.SGD(model.parameters(), lr=optim.lr, momentum=0.5)


def halving(progress):
    return 0.5 ** (4 * progress)


number = 3
""",
    "study.py": '''
"""Does pairing help?"""

from harness.config.search_domains import choice, uniform
from harness.config.space import Space

SPACE = Space(
    base={"epochs": 1, "data": "things.py:squares"},
    compare={"standard": {"method": "standard"}, "alp": {"method": "alp.py:ALP"}},
    search={"method.weight": uniform(0, 1), "model": choice("tiny", "things.py:thin")},
    controls=("standard",),
    trials=1,
    seeds=1,
)
''',
}


def write(folder):
    """Write them all to a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_text(text.lstrip())
    return folder
