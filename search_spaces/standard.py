"""How far does tuning alone take training on clean images?

Tuned: optimiser settings. The baseline of every other space at the same budget.
"""

from harness.config.search_domains import choice, within
from harness.config.space import Space

SPACE = Space(
    base={"method": "standard"},
    compare={"standard": {}},
    search={"optim.lr": within(10), "optim.weight_decay": choice(0.0, 1e-4, 5e-4, 5e-3)},
    goal="val/clean",
    trials=12,
)
