"""Any locale: output that is not UTF-8 has plain characters, and files of ours are UTF-8 whatever the locale."""

import ast
import io
import os
import subprocess
import sys

import pytest
from sweeps import ROOT

from harness import plain_output
from harness.errors import UserError, exit_status

OURS = ("harness", "methods", "reports", "search_spaces")
TEXT = {"read_text", "write_text", "open", "fdopen"}
BINARY = {f"{mode}{plus}b{also}" for mode in "rwax" for plus in ("", "+") for also in ("", "+")}


def in_the_locales_encoding(source):
    """The lines of a module that read or write text without an encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        called = node.func.attr if owner else getattr(node.func, "id", "")
        given = {keyword.arg for keyword in node.keywords}
        words = [word.value for word in node.args if isinstance(word, ast.Constant)]
        of_text = called in TEXT and owner not in ("os", "Image") and BINARY.isdisjoint(words)
        of_text |= owner == "subprocess" and bool(given & {"text", "universal_newlines"})
        if of_text and "encoding" not in given:
            yield f"{node.lineno}: {ast.unparse(node)[:60]}"


def test_every_text_file_of_ours_is_utf_8():
    files = [file for folder in OURS for file in (ROOT / folder).rglob("*.py")]
    found = {file.name: [*in_the_locales_encoding(file.read_text(encoding="utf-8"))] for file in files}
    assert len(files) > 80 and not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize(
    ("source", "doubtful"),
    [
        *((text, True) for text in ("open(f)", "open(f, 'w')", "p.read_text()", "p.open('a')", "p.write_text(t)")),
        *(
            (text, False)
            for text in ("open(f, 'rb')", "p.open('ab')", "p.read_text(encoding='utf-8')", "os.open(f, 1)")
        ),
        ("subprocess.run(w, text=True)", True),
    ],
)
def test_the_search_for_such_files_finds_them(source, doubtful):
    assert bool([*in_the_locales_encoding(source)]) == doubtful


PRINTED = "robust 12.3 ± 0.4 – mean… 3 × ≥ é 中 |"
PLAIN = {
    "ascii": "robust 12.3 +- 0.4 - mean... 3 x >= ? ? |",
    "latin-1": "robust 12.3 ± 0.4 - mean... 3 × >= é ? |",
    "utf-8": PRINTED,
}


@pytest.mark.parametrize("encoding", PLAIN)
def test_output_of_any_encoding_takes_every_character(encoding):
    code = "import sys; from harness.errors import UserError, exit_status\ndef main():\n"
    code += f"    print({PRINTED!r}, chr(0xDC80))\n    raise UserError({PRINTED!r})\nsys.exit(exit_status(main))"
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 2, done.stderr
    assert done.stdout.decode(encoding).strip() == f"{PLAIN[encoding]} ?"
    assert done.stderr.decode(encoding).strip() == f"error: {PLAIN[encoding]}"


def test_a_handler_that_somebody_chose_stays(monkeypatch):
    for errors, kept in (("replace", "replace"), ("strict", plain_output.HANDLER)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
        monkeypatch.setattr(sys, "stdout", stream)
        assert exit_status(lambda: 0) == 0 and stream.errors == kept


def test_a_command_without_standard_output_and_error_ends_as_with_them(monkeypatch):
    """As `command >&- 2>&-` starts it."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)

    def wrong():
        print("said to nobody")
        raise UserError("wrong")

    assert exit_status(lambda: 0) == 0 and exit_status(wrong) == 2
    for stream in (sys.stdout, sys.stderr):
        assert not stream.isatty()  # as the display of progress asks
        stream.close()


def test_plain_characters_are_ascii():
    assert all(text.isascii() for text in plain_output.PLAIN.values())
