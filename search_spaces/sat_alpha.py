"""How fast should saliency replace random signs? (the ablations of alpha and of eps by Mangla et al. 2020)

Compared: the schedule of the share of random signs. Tuned: alpha10 on the ablation's grid, eps on its grid. The default
budget covers a part of the 24 grid points; --trials 24 or more covers nearly all.
"""

from harness.config.search_domains import choice, times
from harness.config.space import Space

SPACE = Space(
    base={"method": "sat", "maps.saliency": "guided_backprop_modules", "maps.target": "predicted"},
    compare={
        "power of the epoch": {"method.schedule": "power"},
        "power of the iteration": {"method.schedule": "power", "method.per": "iteration"},
        "constant": {"method.schedule": "constant"},
        "linear": {"method.schedule": "linear"},
        "cosine": {"method.schedule": "cosine"},
        "step": {"method.schedule": "step"},
    },
    search={
        "method.alpha10": choice(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        "method.eps": times(0.25, 0.5, 1, 2),
    },
    trials=12,
)
