"""How far does tuning alone take training on clean images?

Tuned: optimiser settings. The yardstick of every other space at the same budget.
"""

from harness.space import Space, choice, within

SPACE = Space(
    base={"method": "standard"},
    compare={"standard": {}},
    search={"optim.lr": within(10), "optim.weight_decay": choice(0.0, 1e-4, 5e-4, 5e-3)},
    goal="val/clean",
    trials=12,
)
