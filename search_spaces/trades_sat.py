"""TRADES-SAT: can saliency replace half of the attacks of TRADES? (Mangla et al. 2020)

Compared: TRADES, TRADES with noise in place of half of its attacks, TRADES-SAT with maps of a standard and of an
adversarial teacher. Tuned: beta, the share of random signs, eps, the learning rate.
"""

from harness.config.search_domains import log, times, uniform, within
from harness.config.space import Space

SPACE = Space(
    base={"method": "trades_sat"},
    compare={
        "trades": {"method": "trades"},
        "trades + noise": {"method": "trades_noise"},
        "trades-sat, standard teacher": {"maps.teacher": "standard"},
        "trades-sat, pgd teacher": {"maps.teacher": "pgd"},
    },
    search={
        "method.beta": log(0.5, 12.0),
        "method.alpha10": uniform(0, 1),
        "method.eps": times(0.5, 1, 1.5),
        "optim.lr": within(3),
    },
    controls=("trades", "trades + noise"),
    trials=8,
)
