"""What a mistake says: the nearest name, or what there is."""

import subprocess
import sys

import pytest
from sweeps import ROOT

from harness.errors import NAMES, exit_status, first_line, nearest, one_line, unknown_name


def test_the_nearest_name_or_those_that_there_are():
    assert str(unknown_name("suite", "corrupton", ["corruption", "full"])).endswith("did you mean 'corruption'?")
    assert nearest("xyz", ["b", "a"]) == "there are: a, b"
    assert nearest("xyz", []) == "there are: none"


def test_many_names_are_cut_short():
    keys = [f"{k:04d}" for k in range(NAMES + 5)]
    said = nearest("none of them", keys)
    assert said.endswith(f"{keys[NAMES - 1]} and 5 more") and keys[NAMES] not in said


def test_an_exception_on_one_line_with_its_type_or_without():
    error = ValueError("\n no store at postgresql://me:secret@host/db\nand more")
    assert first_line(error) == "no store at postgresql://me:***@host/db"
    assert one_line(error) == f"ValueError: {first_line(error)}"
    assert first_line(ValueError(" ")) == one_line(ValueError()) == "ValueError"


LINES = "import sys; from harness.errors import exit_status; sys.exit(exit_status(lambda: {}))"


@pytest.mark.parametrize("lines", [1, 100_000])  # what a buffer holds until the end, and more than a pipe takes
def test_a_reader_that_has_read_enough_is_no_error(lines):
    code = LINES.format(f"print('line\\n' * {lines}) or 0")
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        p.stdout.close()
        assert p.stderr.read() == b""
    assert p.returncode == 141


def test_a_connection_that_breaks_is_an_error_though_its_name_is_the_same(capsys):
    def main():
        raise BrokenPipeError("the server went away")

    assert exit_status(main) == 2
    assert capsys.readouterr().err == "error: the server went away\n"
