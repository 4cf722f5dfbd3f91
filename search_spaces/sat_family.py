"""All nine methods of Mangla et al. (2020) side by side at equal budget: their first table.

Maps are boxes or masks where the data has them (shapes, Tiny-ImageNet), else SmoothGrad of a standard teacher. Tuned:
eps, the share of random signs, the learning rate.
"""

from harness.config.search_domains import times, uniform, within
from harness.config.space import Space

SPACE = Space(
    base={},
    compare={
        "standard": {"method": "standard"},
        "noise": {"method": "noise"},
        "sat": {"method": "sat"},
        "pgd": {"method": "pgd"},
        "pgd + noise": {"method": "pgd_noise"},
        "pgd-sat": {"method": "pgd_sat"},
        "trades": {"method": "trades"},
        "trades + noise": {"method": "trades_noise"},
        "trades-sat": {"method": "trades_sat"},
    },
    search={
        "method.eps": times(0.5, 1, 1.5),
        "method.alpha10": uniform(0, 1),
        "optim.lr": within(3),
    },
    controls=("standard",),
    trials=4,
)
