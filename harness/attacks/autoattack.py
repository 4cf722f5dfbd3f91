"""AutoAttack's standard version (Croce and Hein, 2020), one attack at a time, by pyautoattack.

    attack(name, model, x, y, *, eps, norm, seed) -> z     in the eps ball around x and in [0, 1]

The attacks are those of the package `pyautoattack` with its own settings. Its cascade runs them in the order of
ATTACKS, each on the images that are still robust. Separate calls give a result per attack and let the cascade be
resumed. An image is robust if no attack succeeds: the worst case per image, not a mean over attacks.
"""

import logging
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn

from harness.attacks.pgd import Norm, clip
from harness.errors import UserError, unknown_name
from harness.models.freezing import frozen
from harness.randomness import seeded

ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
TARGETS = 9  # target classes of the targeted attacks, by descending logit

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())  # silent unless configured


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
    """Run one attack of the standard version; returns x where it fails.

    x (B, C, H, W) float32 in [0, 1]; misclassified images are returned unchanged. seed: as in the package, of random
    numbers drawn for the whole batch (in Square, of positions shared by the batch), so a result depends on the batch.
    The targeted attacks use 9 target classes, or all wrong ones if fewer. The DLR loss of `apgd-t` is scaled by four
    logits; with two or three classes it is the unscaled logit difference. The step size does not depend on the scale.

    Cost per image, forward and backward passes: 100 (`apgd-ce`), 900 (`apgd-t`), 900 and 900 more forward (`fab-t`);
    forward only: up to 5,000 (`square`). Raises `UserError` for an unknown name, a missing package, or images below
    5 pixels in height or width for Square in L2.
    """
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    package = _package()
    if name == "square" and norm == "l2" and min(x.shape[-2:]) < 5:
        raise UserError(f"attack 'square' in l2 needs images of at least 5x5 pixels, not {x.shape[3]}x{x.shape[2]}")
    x = x.detach()
    if eps == 0 or not len(x):
        return x.clone()
    with frozen(model), seeded(seed, device=x.device), torch.no_grad():
        inputs = x.contiguous()  # the package cannot attack channels-last images
        z = _standard(name, package, model, inputs, eps, norm, seed)(inputs, y)
    return clip(z.to(x.dtype), x, eps, norm)


def _standard(
    name: str, package: ModuleType, model: nn.Module, x: Tensor, eps: float, norm: Norm, seed: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """The package's function (x, y) -> z for one attack, with the number of targets limited to the wrong classes."""
    ensemble = package.AutoAttack(
        model, eps=eps, norm={"linf": "Linf", "l2": "L2"}[norm], seed=seed, device=x.device, version="standard"
    )
    classes = model(x[:1]).shape[1]
    targeted = ensemble.apgd_targeted
    ensemble.apgd.logger = targeted.logger = _log
    ensemble.fab.targeted = True
    ensemble.fab.n_target_classes = targeted.n_target_classes = min(TARGETS, classes - 1)
    if classes < 4:
        targeted.dlr_loss_targeted = lambda logits, y: _logit(logits, targeted.y_target) - _logit(logits, y)
    attacks = {"apgd-ce": ensemble.apgd, "apgd-t": targeted, "fab-t": ensemble.fab, "square": ensemble.square}
    return attacks[name].perturb


def _logit(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None]).squeeze(1)


def _package() -> ModuleType:
    try:
        import pyautoattack
    except ImportError:
        raise UserError("AutoAttack needs a package that is not installed: pip install pyautoattack==0.2.0") from None
    return pyautoattack
