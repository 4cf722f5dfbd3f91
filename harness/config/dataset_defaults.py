"""Default settings per data set: net, epochs, optimiser, attack strengths, with their sources.

They override the dataclasses' own defaults in every trial on that data set, by dotted path. A path that a trial's
method does not have (`method.step` for `standard`) is ignored. Strengths are on the [0, 1] scale of pixels.
"""

from harness import plugins
from harness.data.readers import EMBEDDED
from methods import Setting

Settings = dict[str, Setting]

PIXEL = 1 / 255

_COMMON: Settings = {"optim.name": "sgd", "optim.momentum": 0.9, "optim.schedule": "cosine"}

# Interpolation points of integrated gradients in training: below the published 50, so that a trial takes a minute.
_COARSE: Settings = {"method.points": 5, "method.coarse": 5}

# Mangla et al. (2020): Adam with torch's defaults, no schedule, 100 epochs; evaluated by PGD with 5 steps of 2/255.
_SAT: Settings = {
    "model": "resnet10",
    "epochs": 100,
    "batch": 128,
    "optim.name": "adam",
    "optim.lr": 1e-3,
    "optim.schedule": "constant",
    "measure.steps": 5,
    "measure.step": 2 * PIXEL,
    "measure.watch": 5,
    "measure.images": 1000,
}

# Mangla et al. on Flower-17. Size, no augmentation, and the attack on attributions are Chen et al.'s (2019).
_FLOWERS: Settings = {
    **_SAT,
    "data.size": 128,
    "batch": 64,
    "maps.saliency": "mask",
    "measure.eps": tuple(e * PIXEL for e in (1, 2, 3)),
    "attribution.k": 1000,
    "attribution.steps": 100,
}

DATASET_DEFAULTS: dict[str, Settings] = {
    "digits": {
        **_COMMON,
        "model": "small",
        "epochs": 18,
        "batch": 64,
        "optim.lr": 0.05,
        "measure.eps": tuple(e * PIXEL for e in (16, 32, 48)),
        "measure.watch": 6,
        "method.eps": 48 * PIXEL,
        "method.step": 16 * PIXEL,
        **_COARSE,
        "attribution.eps": 16 * PIXEL,
        "attribution.k": 10,
    },
    "shapes": {
        **_COMMON,
        "model": "small",
        "epochs": 12,
        "batch": 64,
        "optim.lr": 0.05,
        "augment.flip": True,
        "augment.pad": 2,
        "measure.eps": tuple(e * PIXEL for e in (2, 4, 8)),
        "measure.watch": 4,
        "maps.saliency": "mask",
        **_COARSE,
    },
    "cifar10": {
        **_SAT,
        "augment.pad": 4,
        "augment.flip": True,
        "measure.eps": tuple(e * PIXEL for e in (1, 2, 3, 4, 8)),
    },
    "cifar100": {
        **_SAT,
        "augment.pad": 4,
        "augment.flip": True,
        "measure.eps": tuple(e * PIXEL for e in (1, 2, 3, 4)),
    },
    "svhn": {**_SAT, "augment.pad": 4, "measure.eps": tuple(e * PIXEL for e in (1, 2, 3, 4, 8))},
    "gtsrb": {**_SAT, "data.size": 32, "measure.eps": tuple(e * PIXEL for e in (2, 4, 8))},
    "tiny-imagenet": {
        **_SAT,
        "data.size": 32,
        "augment.flip": True,
        "maps.saliency": "box",
        "measure.eps": tuple(e * PIXEL for e in (1, 2, 3)),
    },
    "flower17": _FLOWERS,
    # Not published for the 102 classes: as for the 17, with random horizontal flips.
    "flower102": {**_FLOWERS, "augment.flip": True},
    # Singh et al. (2020), with two differences: they started from ImageNet weights, and multiplied the learning rate by
    # 0.1 every 40 epochs. Their attacks took 7 steps of 0.5/255 for PGD, 3 of 1.5/255 for ART.
    "cub": {
        **_COMMON,
        "optim.schedule": "step",
        "optim.lr": 0.01,
        "optim.weight_decay": 1e-4,
        "model": "resnet50",
        "normalise": True,
        "epochs": 200,
        "batch": 12,
        "data.size": 256,
        "data.crop": 224,
        "augment.flip": True,
        "maps.saliency": "box",
        "method.eps": 2 * PIXEL,
        "method.step": 1 * PIXEL,
        "measure.eps": tuple(e * PIXEL for e in (1, 2)),
        "measure.watch": 10,
        "measure.images": 1000,
        "attribution.eps": 2 * PIXEL,
        "attribution.k": 1000,
    },
}

# Any other image folder: the CIFAR-10 settings, at 32 pixels.
OTHER: Settings = {**DATASET_DEFAULTS["cifar10"], "data.size": 32}


def dataset_defaults(name: str) -> Settings:
    """Default settings of data set `name`; an unknown folder gets those of CIFAR-10 at 32 pixels.

    A plug-in's are its attribute `defaults`, else those of CIFAR-10.
    """
    if name in DATASET_DEFAULTS:
        return DATASET_DEFAULTS[name]
    if plugins.is_reference(name):
        return dict(getattr(EMBEDDED.find(name), "defaults", DATASET_DEFAULTS["cifar10"]))
    if name.startswith("tiny-imagenet"):
        return DATASET_DEFAULTS["tiny-imagenet"]
    return OTHER
