"""Which training gives both robust predictions and stable attributions? ART, IG-NORM and their baselines.

Every method at equal budget. Goals: robust accuracy, and IN and K under the protocol `strong`, on 64 images. Floor:
clean accuracy 0.5, since the attributions of an untrained net are stable. Each cell's whole Pareto front is repeated
over seeds. Tuned: eps, the weight of the second loss term, the learning rate.
"""

from harness.config.search_domains import times, within
from harness.config.space import Space
from search_spaces._attribution import BASE

SPACE = Space(
    base=BASE,
    compare={
        "standard": {"method": "standard"},
        "pgd": {"method": "pgd"},
        "trades": {"method": "trades"},
        "ig-norm": {"method": "ig_norm"},
        "ig-sum-norm": {"method": "ig_sum_norm"},
        "art": {"method": "art", "method.crafting": "eval"},
    },
    search={"method.eps": times(0.5, 1), "method.weight": within(3), "optim.lr": within(3)},
    goal=("val/robust", "val/strong-in", "val/strong-k"),
    floor={"val/clean": 0.5},
    controls=("standard",),
    trials=3,
    seeds=2,
)
