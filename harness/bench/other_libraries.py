"""PGD of other libraries (torchattacks, foolbox, ART), on the same net and with the same settings.

peer(net, classes=..., shape=..., eps=..., step=..., steps=...) -> attack;  attack(x, y) -> z      registry: PEERS

None is a requirement. Their pins are older than those of this project: pip install --no-deps -c constraints.txt
torchattacks foolbox eagerpy adversarial-robustness-toolbox (`make peers`).
"""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

Attack = Callable[[Tensor, Tensor], Tensor]


def torchattacks(
    net: nn.Module, *, classes: int, shape: tuple[int, ...], eps: float, step: float, steps: int, restarts: int = 1
) -> Attack:
    """torchattacks' PGD."""
    library = importlib.import_module("torchattacks")
    attack = library.PGD(net, eps=eps, alpha=step, steps=steps, random_start=True)
    return attack if restarts == 1 else library.MultiAttack([attack] * restarts)


def foolbox(
    net: nn.Module, *, classes: int, shape: tuple[int, ...], eps: float, step: float, steps: int, restarts: int = 1
) -> Attack:
    """foolbox's LinfPGD."""
    library = importlib.import_module("foolbox")
    device = next(net.parameters()).device
    bounded = library.PyTorchModel(net, bounds=(0, 1), device=device)
    attack = library.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=step, steps=steps, random_start=True)
    attack = attack if restarts == 1 else attack.repeat(restarts)
    return lambda x, y: attack(bounded, x, y, epsilons=eps)[1]


def toolbox(
    net: nn.Module, *, classes: int, shape: tuple[int, ...], eps: float, step: float, steps: int, restarts: int = 1
) -> Attack:
    """PGD of the Adversarial Robustness Toolbox (numpy arrays; draws from numpy's global generator)."""
    classification = importlib.import_module("art.estimators.classification")
    evasion = importlib.import_module("art.attacks.evasion")
    device = next(net.parameters()).device
    classifier = classification.PyTorchClassifier(
        net,
        nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=classes,
        clip_values=(0, 1),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )
    settings = {"eps": eps, "eps_step": step, "max_iter": steps, "num_random_init": restarts}

    def attack(x: Tensor, y: Tensor) -> Tensor:
        attacker = evasion.ProjectedGradientDescent(classifier, **settings, batch_size=len(x), verbose=False)
        return torch.from_numpy(attacker.generate(x.cpu().numpy(), y.cpu().numpy())).to(device)

    return attack


PEERS: dict[str, Callable[..., Attack]] = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "adversarial-robustness-toolbox": toolbox,
}
