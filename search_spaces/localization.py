"""Which training makes a net's maps find the object, ADL or a robust one? (Singh et al. 2020, their CUB table)

Compared: ADL (Choe and Shim 2019), PGD and ART against training on clean images, on data with boxes. Goals: the share
of images with correct class and box, by the gradient map and by the class activation map, at the published thresholds;
the best thresholds and centre boxes are also measured. Tuned: ADL's drop rate and threshold, eps, ART's weight, the
learning rate.
"""

from harness.config.search_domains import times, uniform, within
from harness.config.space import Space

SPACE = Space(
    base={"data": "shapes", "normalise": True, "measure.suites": "standard,localization"},
    compare={
        "standard": {"method": "standard"},
        "adl": {"method": "adl"},
        "pgd": {"method": "pgd"},
        "art": {"method": "art", "method.crafting": "eval"},
    },
    search={
        "method.drop": uniform(0.25, 1),
        "method.gamma": uniform(0.7, 1),
        "method.eps": times(0.25, 0.5, 1),
        "method.weight": within(3),
        "optim.lr": within(3),
    },
    goal=("val/top1loc-grad", "val/top1loc-cam"),
    floor={"val/clean": 0.5},
    controls=("standard",),
    trials=4,
    seeds=2,
)
