"""How much robustness does uniform noise give by itself, and at which strength?

Tuned: the strength of the noise, the learning rate. Control: training on clean images.
"""

from harness.config.search_domains import times, within
from harness.config.space import Space

SPACE = Space(
    base={},
    compare={"standard": {"method": "standard"}, "noise": {"method": "noise"}},
    search={"method.eps": times(0.25, 0.5, 1, 2), "optim.lr": within(3)},
    controls=("standard",),
    trials=8,
)
