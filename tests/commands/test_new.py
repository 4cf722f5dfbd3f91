"""`harness.new`: the file that it writes keeps every promise, and it writes over nothing."""

import sys

import pytest

from harness import check, new
from harness.errors import exit_status


@pytest.fixture
def begin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(command, *words):
        monkeypatch.setattr(sys, "argv", [command.__name__, *words])
        status = exit_status(command.main)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_what_it_writes_passes_the_check_that_it_names(begin, tmp_path):
    status, said, _ = begin(new, "method", "my_method")
    assert status == 0 and "python -m harness.check my_method.py:MyMethod\n" in said
    status, said, error = begin(check, "my_method.py:MyMethod")
    assert status == 0 and said.endswith("all kept\n"), said + error
    before = (tmp_path / "my_method.py").read_bytes()
    status, _, error = begin(new, "method", "my_method")
    assert status == 2 and "there is a file 'my_method.py' already" in error
    assert (tmp_path / "my_method.py").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["methd", "mine"], "kind 'methd' is not known; did you mean 'method'?"),
        (["method", "../mine"], "not '../mine'"),
        (["method", "class"], "not 'class'"),
        (["method", "sat"], "'sat' is a method already"),
        (["method"], "NAME"),
    ],
)
def test_a_wrong_name_is_one_line_and_no_file(begin, tmp_path, words, said):
    status, _, error = begin(new, *words)
    assert status == 2 and said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
