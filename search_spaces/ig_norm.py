"""IG-NORM: which weight of the integrated gradients' norm, and which eps?

Compared: with standard and PGD training. Tuned: eps, weight, learning rate. The goal is robust accuracy; IN and K are
also measured, on 64 images.
"""

from harness.config.search_domains import times, within
from harness.config.space import Space
from search_spaces._attribution import BASE

SPACE = Space(
    base=BASE,
    compare={"standard": {"method": "standard"}, "pgd": {"method": "pgd"}, "ig-norm": {"method": "ig_norm"}},
    search={"method.eps": times(0.5, 1), "method.weight": within(3), "optim.lr": within(3)},
    controls=("standard",),
)
