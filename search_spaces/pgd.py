"""PGD training: at which strength, with how many steps, in which mode of the net while it is attacked?

Compared: the mode while crafting, and the control that replaces half of the attacks by noise. Tuned: eps, learning
rate.
"""

from harness.space import Space, times, within

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
