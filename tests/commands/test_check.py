"""`harness.check`: what is of one's own keeps what ours keep, and each thing that it does not is one line."""

import subprocess
import sys

import plugin_files
import pytest
from sweeps import ROOT

from harness import check
from harness.contracts.kinds import KINDS
from harness.errors import exit_status

ALP = plugin_files.FILES["alp.py"].lstrip()


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    """checked(words): exit status, lines and error of the command in a folder with plug-ins."""
    monkeypatch.chdir(plugin_files.write(tmp_path / "ideas"))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["check", *words])
        status = exit_status(check.main)
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err

    return run


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("alp.py:ALP", "method"),
        ("things.py:squares", "data"),
        ("things.py:Doubled", "map"),
        ("things.py:darker", "corruption"),
        ("things.py:momentum", "optimiser"),
        ("things.py:halving", "schedule"),
        ("study.py:SPACE", "space"),
        ("pgd_noise", "method"),
        ("tiny", "net"),
    ],
)
def test_what_keeps_its_promises_is_said_line_by_line(checked, name, kind):
    status, lines, error = checked(name)
    assert not error and lines[0].startswith(f"{kind} {name}")
    assert [line for line in lines if line.startswith("FAIL")] == [] and status == 0
    assert len(lines) == len(KINDS[kind].contract) + 2 and lines[-1] == "all kept"


def test_a_method_may_differentiate_its_input_as_training_lets_it(checked):
    own = ALP.replace("from torch.nn", "import torch\nfrom torch.nn").replace(
        "clean, moved = model(batch.x), model(near)",
        "x = batch.x.clone().requires_grad_(); clean = model(x); "
        "moved = clean + torch.autograd.grad(clean.sum(), x, create_graph=True)[0].pow(2).sum()",
    )
    with open("own.py", "w") as file:
        file.write(own)
    status, lines, _ = checked("own.py:ALP")
    assert status == 0, lines


BROKEN = {
    "NonNegative = 0.5": ("NonNegative = 'half'", "method.weight takes a number, not 'half'"),
    "weight: NonNegative": ("weight: float", "weight is a number without bounds"),
    "F.cross_entropy(clean, batch.y)": ("F.cross_entropy(clean, batch.y, reduction='none')", "is no number"),
    "near = (batch.x": ("model.eval(); near = (batch.x", "leaves the net in evaluation mode"),
    "(batch.x + self.eps": ("(batch.x.mul_(0.5) + self.eps", "changes the images"),
    '    """Cross-entropy, and the squared': ('    """"""\n    about = """', "a docstring"),
    "self.weight *": ("__import__('random').random() *", "differs between calls"),
}


@pytest.mark.parametrize("old", BROKEN)
def test_what_breaks_one_is_said_in_a_line(checked, old):
    new, said = BROKEN[old]
    assert ALP.count(old) == 1
    with open("own.py", "w") as file:
        file.write(ALP.replace(old, new))
    status, lines, error = checked("own.py:ALP")
    assert status == 1 and not error
    broken = [line for line in lines if line.startswith("FAIL  ")]
    assert any(said in line for line in broken), lines
    assert lines[-1].startswith(f"{len(broken)} of ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["apl.py:ALP"], "there is no file 'apl.py'; did you mean 'alp.py'?"),
        (["no_such_name"], "'no_such_name' is no name of ours and no reference, such as my_method.py:MyMethod"),
        (["alp.py"], "'alp.py' is a file; name the thing in it, such as alp.py:NAME"),
        (["things.py:number"], "'things.py:number' may be of several kinds; say which: --as method"),
        (["things.py:number", "--as", "net"], "a net is a function (channels, classes)"),
        (["alp.py:ALP", "--as", "methd"], "kind 'methd' is not known; did you mean 'method'?"),
        (["pairing.py:squared"], "may be of several kinds"),
    ],
)
def test_a_wrong_name_is_one_line(checked, words, said):
    status, lines, error = checked(*words)
    assert status == 2 and not lines and said in error and error.count("\n") == 1


def test_the_command_itself(tmp_path):
    plugin_files.write(tmp_path)
    words = [sys.executable, "-m", "harness.check", "things.py:halving"]
    done = subprocess.run(words, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("all kept\n"), done.stderr
