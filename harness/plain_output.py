"""Standard output and error that take every character: where their encoding lacks one, a plain one stands for it."""

import codecs
import io
import os
import sys

HANDLER = "plain"  # its name as an error handler of codecs
PLAIN = {
    **{"±": "+-", "−": "-", "–": "-", "—": "-", "×": "x", "·": "*", "≤": "<=", "≥": ">=", "≈": "~", "→": "->"},
    **{"…": "...", "\N{NO-BREAK SPACE}": " ", "’": "'", "‘": "'", "“": '"', "”": '"', "ε": "eps", "α": "alpha"},
    **{"β": "beta", "τ": "tau", "µ": "u", "∞": "inf", "°": " deg", "↑": "^", "↓": "v"},
}


def take_every_character() -> None:
    """Let standard output and error write characters that their encoding lacks by `PLAIN`, and others as `?`.

    What is written to one that the command was started without, as by `>&-`, is lost.
    """
    codecs.register_error(HANDLER, _plain)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors=HANDLER)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in lacking), error.end
