"""ART: which eps, which weight, how sharp a softplus; and does mining in pairs help?

Compared: gradients in training mode, as released, against evaluation mode; the triplet loss of the clean and the
perturbed image mined in pairs, as released, against that of the perturbed image alone, as in the paper. Tuned: eps, the
weight of the triplet loss, the softplus' sharpness, the learning rate. The goal is robust accuracy; IN and K are
also measured, on 64 images.
"""

from harness.config.search_domains import choice, times, within
from harness.config.space import Space
from search_spaces._attribution import BASE

SPACE = Space(
    base=BASE,
    compare={
        "standard": {"method": "standard"},
        "pgd": {"method": "pgd"},
        "art": {"method": "art"},
        "art, eval mode": {"method": "art", "method.crafting": "eval"},
        "art, eval mode, not mined": {"method": "art", "method.crafting": "eval", "method.mining": "none"},
    },
    search={
        "method.eps": times(0.5, 1),
        "method.weight": within(3),
        "method.beta": choice(10.0, 50.0),
        "optim.lr": within(3),
    },
    controls=("standard",),
)
