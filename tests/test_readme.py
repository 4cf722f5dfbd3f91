"""The README speaks of what is there: its commands parse, its lists are whole."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import methods
from harness import cli, evaluate, models, saliency, suites, tune
from harness.recipes import RECIPES

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^\s*(?:ray job submit .* -- )?(python -m [^#\n]+)", re.sub(r"\\\n\s*", "", TEXT), re.M)


def arguments(command):
    module, *words = shlex.split(command)[2:]
    return module, words


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.search(r"harness\.(t|e)", c) and "--list" not in c])
def test_every_command_is_a_valid_one(command):
    module, words = arguments(command)
    if module == "harness.tune":
        assert tune.plan(tune.arguments(words)).studies
    elif module == "harness.evaluate":
        args = evaluate.arguments(words)
        assert suites.named(args.suite.split(","))
        if args.space:
            assert cli.chosen(cli.space(args.space).cells({"data": args.data} if args.data else {}), args.cell)
    else:
        args = cli.parser(module, "", single=True).parse_args(words)
        cells = cli.space(args.space).cells(cli.overrides(args))
        assert args.cell == "all" or cli.chosen(cells, args.cell)


def test_the_commands_of_the_first_block_are_in_the_makefile():
    made = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", TEXT, re.M):
        assert f"\n{target}:" in made
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "names", [methods.names(), models.MODELS, saliency.SALIENCY, RECIPES], ids=lambda n: next(iter(n))
)
def test_every_name_is_listed(names):
    for name in names:
        assert f"`{name}`" in TEXT or name == "tiny-imagenet", name


def test_its_code_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    net, target = models.build("small", 3, 5), torch.rand(8, 8)
    x = torch.rand(2, 3, 8, 8)
    names = {"net": net, "x": x, "y": net.eval()(x).argmax(1), "target": target}
    exec(code, names)
    assert names["found"].z.shape == x.shape and names["found"].kept.all()


def test_what_it_says_of_a_mistake_is_what_is_said():
    with pytest.raises(Exception) as mistake:
        tune.plan(tune.arguments(["--space", "sat", "--set", "method.alhpa10=1"]))
    assert f"error: {mistake.value}" in TEXT
