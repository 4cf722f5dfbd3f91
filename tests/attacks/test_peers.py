"""The attacks against those of torchattacks, foolbox and the Adversarial Robustness Toolbox, on one trained net.

Two attacks that draw their starts by chance do not break the same images. Where both are equally strong, an image that
only one of them breaks is either's with probability 1/2: an exact test of this share says whether one is weaker.
"""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from harness.attacks import pgd
from harness.attacks.minimum_perturbation import cw
from harness.bench.other_libraries import PEERS
from harness.config.trial import build
from harness.data import datasets
from harness.models.freezing import frozen
from harness.trials import run as trial_run

EPS, STEPS = 24 / 255, 10
STEP = 2.5 * EPS / STEPS

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]  # a peer's warnings are its own affair


@pytest.fixture(scope="module")
def net(shared_workspace):
    """A net trained by PGD on digits, the images that it classifies correctly, and their labels."""
    run = build({"method": "pgd", "epochs": 8, "measure.watch": 8, "measure.steps": 2})
    model, _ = trial_run.trained_model(run, shared_workspace)
    data = datasets.load(run.data, shared_workspace)
    x, y = torch.cat([data.test.x, data.train.x]).float().div(255), torch.cat([data.test.y, data.train.y])
    right = predicted(model, x) == y
    with frozen(model):
        yield model, x[right], y[right]


def predicted(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


def library(name):
    return pytest.importorskip(name, reason=f"{name} is not installed; see harness/bench/other_libraries.py")


def fgsm_of_torchattacks(model, x, y):
    return library("torchattacks").FGSM(model, eps=EPS)(x, y)


def fgsm_of_foolbox(model, x, y):
    bounded = library("foolbox").PyTorchModel(model, bounds=(0, 1), device="cpu")
    return library("foolbox").attacks.LinfFastGradientAttack(random_start=False)(bounded, x, y, epsilons=EPS)[1]


def fgsm_of_the_toolbox(model, x, y):
    classifier = library("art.estimators.classification").PyTorchClassifier(
        model, torch.nn.CrossEntropyLoss(), input_shape=(1, 8, 8), nb_classes=10, clip_values=(0, 1), device_type="cpu"
    )
    attack = library("art.attacks.evasion").FastGradientMethod(classifier, eps=EPS, batch_size=len(x))
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("peer", PEERS)
def test_pgd_is_as_strong_as_theirs(net, peer, restarts):
    model, x, y = net
    library({"adversarial-robustness-toolbox": "art"}.get(peer, peer))
    np.random.seed(0)  # the toolbox draws from this generator
    how = {"classes": 10, "shape": (1, 8, 8), "eps": EPS, "step": STEP, "steps": STEPS, "restarts": restarts}
    theirs = predicted(model, PEERS[peer](model, **how)(x, y)) != y
    ours = torch.zeros_like(theirs)
    for _ in range(restarts):
        z = pgd.pgd(model, x, y, eps=EPS, step=STEP, steps=STEPS)
        ours |= predicted(model, z) != y
    assert 0.1 < ours.float().mean() < 0.9  # there is something to tell apart
    only_ours, only_theirs = (ours & ~theirs).sum().item(), (theirs & ~ours).sum().item()
    print(f"{peer} x{restarts}: {ours.sum()} of {len(y)}, only ours {only_ours}, only theirs {only_theirs}")
    apart = only_ours + only_theirs
    assert apart < 0.05 * len(y)  # the images that break are the same
    assert apart == 0 or binomtest(only_ours, apart).pvalue > 0.001


@pytest.mark.parametrize("theirs", [fgsm_of_torchattacks, fgsm_of_foolbox, fgsm_of_the_toolbox])
def test_fgsm_is_theirs(net, theirs):
    model, x, y = net
    ours, theirs = pgd.fgsm(model, x, y, eps=EPS), theirs(model, x, y)
    differs = (ours - theirs).abs() > 1e-6
    assert differs.float().mean() < 1e-3  # gradients of rounding size may have either sign


def distances(model, x, y, z):
    """How far those images moved that are misclassified now, inf for the others."""
    return (z - x).flatten(1).norm(dim=1).where(predicted(model, z) != y, torch.inf)


def test_cw_finds_images_as_near_as_foolbox_does(net):
    foolbox = library("foolbox")
    model, x, y = (net[0], net[1][:32], net[2][:32])
    budget = {"steps": 100, "initial_const": 1e-3, "confidence": 0}
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, stepsize=0.01, **budget)
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    z = attack(bounded, x, y, epsilons=None)[0]
    black = (z == 0).flatten(1).all(1)  # what it returns where it finds nothing, which passes for a success
    theirs = distances(model, x, y, z.where(~black.view(-1, 1, 1, 1), x))
    ours = distances(model, x, y, cw(model, x, y, steps=100, searches=9, lr=0.01, initial=1e-3))
    _compare("foolbox", ours, theirs)


def test_cw_finds_images_as_near_as_torchattacks_does(net):
    """Their constant is fixed; so is ours in a single search."""
    torchattacks = library("torchattacks")
    model, x, y = (net[0], net[1][:64], net[2][:64])
    theirs = distances(model, x, y, torchattacks.CW(model, c=1, kappa=0, steps=300, lr=0.01)(x, y))
    ours = distances(model, x, y, cw(model, x, y, steps=300, searches=1, lr=0.01, initial=1.0))
    _compare("torchattacks", ours, theirs)


def _compare(peer, ours, theirs):
    both = ours.isfinite() & theirs.isfinite()
    means = ours[both].mean().item(), theirs[both].mean().item()
    found = ours.isfinite().sum().item(), theirs.isfinite().sum().item()
    print(f"cw, {peer}: found {found} of {len(ours)}, mean distance {means[0]:.4f}, {means[1]:.4f}")
    assert both.sum() >= 8
    assert found[0] >= found[1]
    assert means[0] <= 1.02 * means[1]
