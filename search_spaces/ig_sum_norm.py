"""IG-SUM-NORM: how much weight on the integrated gradients' norm, over which eps?

Compared: with standard and PGD training. Tuned: eps, weight, learning rate. The goal is robust accuracy; IN and K are
measured beside it, on 64 images.
"""

from harness.space import Space, times, within
from search_spaces._attribution import BASE

SPACE = Space(
    base=BASE,
    compare={"standard": {"method": "standard"}, "pgd": {"method": "pgd"}, "ig-sum-norm": {"method": "ig_sum_norm"}},
    search={"method.eps": times(0.5, 1), "method.weight": within(3), "optim.lr": within(3)},
    controls=("standard",),
)
