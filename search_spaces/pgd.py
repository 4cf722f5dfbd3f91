"""PGD training: which eps, how many steps, and is the net attacked in train or eval mode?

Compared: steps, the mode during the attack, and the control that replaces half of the attacks by noise. Tuned: eps,
learning rate.
"""

from harness.config.search_domains import times, within
from harness.config.space import Space

SPACE = Space(
    base={"method": "pgd"},
    compare={
        "standard": {"method": "standard"},
        "pgd": {},
        "pgd, 10 steps": {"method.steps": 10},
        "pgd, crafted in eval mode": {"method.crafting": "eval"},
        "pgd + noise": {"method": "pgd_noise"},
    },
    search={"method.eps": times(0.5, 1, 1.5), "optim.lr": within(3)},
    controls=("standard",),
    trials=8,
)
