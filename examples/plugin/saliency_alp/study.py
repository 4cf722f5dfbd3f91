"""Does pairing the logits help adversarial training on bars?"""

from harness.config.search_domains import uniform
from harness.config.space import Space

SPACE = Space(
    base={"data": "saliency_alp.data:bars", "measure.suites": "standard,saliency_alp.suite:SUITE"},
    compare={
        "pgd": {"method": "pgd"},
        "alp": {"method": "saliency_alp.method:ALP"},
        "alp, thin net": {"method": "saliency_alp.method:ALP", "model": "saliency_alp.net:thin"},
        "sat, image times gradient": {"method": "sat", "maps.saliency": "saliency_alp.map:InputXGradient"},
    },
    search={"method.weight": uniform(0, 1)},
    controls=("pgd",),
    trials=2,
    seeds=2,
)
