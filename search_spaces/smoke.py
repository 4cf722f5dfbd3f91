"""Does everything run? Two methods, two short trials each, one seed; half a minute on two cores."""

from harness.config.search_domains import within
from harness.config.space import Space

SPACE = Space(
    base={"epochs": 6, "measure.watch": 2},
    compare={"standard": {"method": "standard"}, "sat": {"method": "sat", "maps.saliency": "gradient"}},
    search={"optim.lr": within(3)},
    controls=("standard",),
    trials=2,
    seeds=1,
)
