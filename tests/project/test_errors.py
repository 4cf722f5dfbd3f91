"""What a mistake says: the nearest name, or what there is."""

import os
import pty
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


def test_the_line_that_names_the_cause_of_an_error_of_many_lines():
    """As Ray reports two versions, directly and from the server of its client."""
    mismatch = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.5\n    Python: 3.10\nThis was with:\n    Ray: 2.6"
    )
    said = "Version mismatch: The cluster was started with: Ray: 2.5 Python: 3.10 This was with: Ray: 2.6"
    assert first_line(RuntimeError(mismatch)) == said
    trace = 'Failure of the server:\nTraceback (most recent call last):\n  File "a.py", line 1, in f\n    raise x\n'
    assert first_line(ConnectionAbortedError(f"{trace}RuntimeError: {mismatch}\n")) == f"RuntimeError: {said}"
    again = "\nDuring handling of the above exception, another exception occurred:\n\n" + trace.partition("\n")[2]
    assert first_line(ValueError(f"{trace}KeyError: 'a'\n{again}a.b.LostError: gone\nmore")) == "a.b.LostError: gone"
    assert first_line(ValueError(f"{trace}odd")) == "odd"


@pytest.mark.parametrize("raised, status", [("KeyboardInterrupt", 130), ("UserError('x')", 2)])
def test_a_terminal_that_is_closed_changes_no_status(raised, status):
    code = "import sys; from harness.errors import UserError, exit_status\n"
    code += f"def main():\n    sys.stdin.read(1)\n    raise {raised}\nsys.exit(exit_status(main))"
    ours, theirs = pty.openpty()
    words = [sys.executable, "-c", code]
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.close(ours)  # what is written there from now on is an error
    process.communicate(b"go on")
    assert process.returncode == status
