"""AutoAttack (Croce and Hein, 2020), one attack of its standard version at a time.

    attack(name, model, x, y, *, eps, norm, seed) -> z     in the eps ball around x and in [0, 1]

The attacks are those of the package `pyautoattack` with its own settings. Its cascade runs them in the order of
ATTACKS, each on the images that all before it left standing; called here one by one, each keeps its own result and the
cascade can stop and go on. Robust is an image that none of them breaks: the worst case per image, not a mean over
attacks.
"""

import logging
from types import ModuleType

import torch
from torch import Tensor, nn

from harness.attacks import Norm, clip, frozen
from harness.errors import Mistake, unknown
from harness.randomness import seeded

ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
TARGETS = 9  # the wrong classes that the targeted attacks aim at, the most likely first

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())  # heard by those who configure it, instead of printed


def attack(
    name: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    seed: int = 0,
) -> Tensor:
    """One attack of the standard version; x itself where it does not change the prediction.

    x (B, C, H, W) float32 in [0, 1]; images that are misclassified already come back as they are. seed: as in the
    package, of a random start drawn for the batch as a whole and, in Square, of places that the batch shares: a result
    depends on which images are attacked together. The targeted attacks aim at 9 classes, or at all wrong ones where
    there are fewer. The loss of `apgd-t` takes its scale from four logits; with two or three classes it is the same
    difference of logits without a scale, which the size of a step does not depend on.

    Cost in images forward and back: 100 (`apgd-ce`), 900 (`apgd-t`), 900 and 900 more forward (`fab-t`); forward only:
    up to 5,000 (`square`). Raises `Mistake` for an unknown name, a missing package, or images that Square's L2 form
    cannot divide (less than 5 pixels high or wide).
    """
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    package = _package()
    if name == "square" and norm == "l2" and min(x.shape[-2:]) < 5:
        raise Mistake(f"attack 'square' in l2 needs images of at least 5x5 pixels, not {x.shape[3]}x{x.shape[2]}")
    x = x.detach()
    if eps == 0 or not len(x):
        return x.clone()
    with frozen(model), seeded(seed), torch.no_grad():
        inputs = x.contiguous()  # the package cannot attack channels-last images
        z = _standard(name, package, model, inputs, eps, norm, seed)(inputs, y)
    return clip(z.to(x.dtype), x, eps, norm)


def _standard(name: str, package: ModuleType, model: nn.Module, x: Tensor, eps: float, norm: Norm, seed: int):
    """The package's function (x, y) -> z for one attack of the standard version, with as many targets as there are."""
    whole = package.AutoAttack(
        model, eps=eps, norm={"linf": "Linf", "l2": "L2"}[norm], seed=seed, device=x.device, version="standard"
    )
    classes = model(x[:1]).shape[1]
    targeted = whole.apgd_targeted
    whole.apgd.logger = targeted.logger = _log
    whole.fab.targeted = True
    whole.fab.n_target_classes = targeted.n_target_classes = min(TARGETS, classes - 1)
    if classes < 4:
        targeted.dlr_loss_targeted = lambda logits, y: _lead(logits, targeted.y_target) - _lead(logits, y)
    named = {"apgd-ce": whole.apgd, "apgd-t": targeted, "fab-t": whole.fab, "square": whole.square}
    return named[name].perturb


def _lead(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None]).squeeze(1)


def _package() -> ModuleType:
    try:
        import pyautoattack
    except ImportError:
        raise Mistake("AutoAttack needs a package that is not installed: pip install pyautoattack==0.2.0") from None
    return pyautoattack
