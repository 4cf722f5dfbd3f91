"""PGD as other libraries have it, on the same net and with the same settings.

peer(net, classes=..., shape=..., eps=..., step=..., steps=...) -> attack;  attack(x, y) -> z      found in PEERS

None of them is a requirement. Their own pins are older than ours, so: pip install --no-deps -c constraints.txt
torchattacks foolbox eagerpy adversarial-robustness-toolbox (`make peers`).
"""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

Attack = Callable[[Tensor, Tensor], Tensor]


def torchattacks(net: nn.Module, *, eps: float, step: float, steps: int, restarts: int = 1, **_: object) -> Attack:
    """torchattacks' PGD."""
    library = importlib.import_module("torchattacks")
    one = library.PGD(net, eps=eps, alpha=step, steps=steps, random_start=True)
    return one if restarts == 1 else library.MultiAttack([one] * restarts)


def foolbox(net: nn.Module, *, eps: float, step: float, steps: int, restarts: int = 1, **_: object) -> Attack:
    """foolbox' LinfPGD."""
    library = importlib.import_module("foolbox")
    device = next(net.parameters()).device
    bounded = library.PyTorchModel(net, bounds=(0, 1), device=device)
    attack = library.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=step, steps=steps, random_start=True)
    attack = attack if restarts == 1 else attack.repeat(restarts)
    return lambda x, y: attack(bounded, x, y, epsilons=eps)[1]


def toolbox(
    net: nn.Module, *, classes: int, shape: tuple[int, ...], eps: float, step: float, steps: int, restarts: int = 1
) -> Attack:
    """The Adversarial Robustness Toolbox's PGD, which takes and gives numpy arrays; it draws from numpy's generator."""
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
    ball = {"eps": eps, "eps_step": step, "max_iter": steps, "num_random_init": restarts}

    def attack(x: Tensor, y: Tensor) -> Tensor:
        whole = evasion.ProjectedGradientDescent(classifier, **ball, batch_size=len(x), verbose=False)
        return torch.from_numpy(whole.generate(x.cpu().numpy(), y.cpu().numpy())).to(device)

    return attack


PEERS: dict[str, Callable[..., Attack]] = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "adversarial-robustness-toolbox": toolbox,
}
