"""TRADES: which weight of the divergence term gives the best robust accuracy?

Compared: TRADES and the control that replaces half of its attacks by noise. Tuned: beta (1 in Mangla et al. 2020, 6 in
Zhang et al. 2019), eps, learning rate.
"""

from harness.config.search_domains import log, times, within
from harness.config.space import Space

SPACE = Space(
    base={"method": "trades"},
    compare={
        "standard": {"method": "standard"},
        "trades": {},
        "trades + noise": {"method": "trades_noise"},
    },
    search={"method.beta": log(0.5, 12.0), "method.eps": times(0.5, 1, 1.5), "optim.lr": within(3)},
    controls=("standard",),
    trials=8,
)
