"""Write a commented file to start from, for a training method of your own.

    python -m harness.new method my_method

It writes my_method.py in the current folder and says how to check and to run it.
"""

import argparse
import keyword
import sys
from pathlib import Path

from harness.arguments import Arguments
from harness.errors import UserError, exit_status, shown, unknown_name

METHOD = '''"""What {thing} does, in one line, and the paper that it is from."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import pgd
from harness.data.batches import Batch
from harness.models import freezing
from harness.setting_types import Count, NonNegative, Strength


@dataclass(frozen=True)
class {thing}:
    """What it minimises. What its settings mean, and where their values were published. Cost: 2 + steps passes."""

    # The hyperparameters: `--set method.eps=4/255` sets one, a space searches it. A type says the bounds.
    eps: Strength = 8 / 255
    step: Strength = 2 / 255
    steps: Count = 3
    weight: NonNegative = 1.0

    # reads_maps: ClassVar[bool] = True     if it trains on saliency maps, `batch.s` in [-1, 1], made by `maps.*`

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """Images within eps of batch.x (B, C, H, W) in [0, 1], here those that PGD finds."""
        with freezing.frozen(model, train=True):  # restores modes and flags of the net
            return pgd.pgd(model, batch.x, batch.y, eps=self.eps, step=self.step, steps=self.steps)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Named terms, each one number; training minimises their sum. batch.epoch of batch.epochs are done."""
        clean, attacked = model(batch.x), model(self.perturb(model, batch))
        return {{
            "ce": F.cross_entropy(clean, batch.y),
            "attacked": self.weight * F.cross_entropy(attacked, batch.y),
        }}
'''
TEMPLATES = {"method": METHOD}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = Arguments("harness.new", __doc__)
    p.add_argument("kind", metavar="KIND", help=f"what to begin: {', '.join(TEMPLATES)}")
    p.add_argument("name", metavar="NAME", help="its name, that of the file without .py")
    return p.parse_args(argv)


def main() -> int:
    import methods

    args = arguments()
    if args.kind not in TEMPLATES:
        raise unknown_name("kind", args.kind, TEMPLATES)
    if not args.name.isidentifier() or keyword.iskeyword(args.name):
        raise UserError(f"NAME is that of a Python module, such as my_method, not {shown(args.name)}")
    if args.name in methods.METHODS:
        raise UserError(f"{args.name!r} is a method already; choose another name")
    thing = "".join(word[:1].upper() + word[1:] for word in args.name.split("_")) or "Method"
    file = Path(f"{args.name}.py")
    try:
        with open(file, "x", encoding="utf-8") as opened:
            opened.write(TEMPLATES[args.kind].format(thing=thing))
    except FileExistsError:
        raise UserError(f"there is a file {str(file)!r} already; choose another name") from None
    reference = f"{file}:{thing}"
    print(f"wrote {file}. Then:")
    print(f"  python -m harness.check {reference}")
    print(f"  python -m harness.trial --space pgd --cell pgd --set method={reference} --set epochs=6")
    print(f"  python -m harness.tune --space pgd --cell pgd --set method={reference}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
