"""PGD-SAT: can saliency replace half of the attacks of PGD training? (Mangla et al. 2020)

Compared: PGD, PGD with noise in place of half of its attacks, PGD-SAT with maps of a standard and of an adversarial
teacher. Tuned: the share of SAT batches and of random signs, eps, the learning rate.
"""

from harness.config.search_domains import times, uniform, within
from harness.config.space import Space

SPACE = Space(
    base={"method": "pgd_sat"},
    compare={
        "pgd": {"method": "pgd"},
        "pgd + noise": {"method": "pgd_noise"},
        "pgd-sat, standard teacher": {"maps.teacher": "standard"},
        "pgd-sat, pgd teacher": {"maps.teacher": "pgd"},
    },
    search={
        "method.flip": uniform(0.25, 0.75),
        "method.alpha10": uniform(0, 1),
        "method.eps": times(0.5, 1, 1.5),
        "optim.lr": within(3),
    },
    controls=("pgd", "pgd + noise"),
    trials=8,
)
