"""What goes wrong by the user's hand: one line that names the thing and the nearest valid one."""

import difflib
import re
import sys
from collections.abc import Callable, Iterable

NAMES = 24  # that one line lists
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)(?:([^\s/:@]*):\S*|[^\s/:@]+)@", re.IGNORECASE)
_FIELD = re.compile(
    r"((?:(?:passw(?:or)?d|passphrase|pwd|secret|token|credential|api_?key|access_?key|signature|odbc_connect)\w*|\bsig)"
    r"\s*(?:=|%3d)\s*)(?:'[^']*'|\"[^\"]*\"|[^\s&;'\"]+)",
    re.IGNORECASE,
)


class Mistake(ValueError):
    """Bad input. The message is one line for the user; the command line prints it and exits with 2."""


class Diverged(ArithmeticError):
    """Training left the finite numbers. The message says where."""


def unknown(kind: str, name: object, valid: Iterable[str]) -> Mistake:
    """A `Mistake` for a name that is not among the valid ones, with the nearest of them."""
    return Mistake(f"{kind} {str(name)!r} is not known; {nearest(name, valid)}")


def nearest(name: object, valid: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the valid names, as many as a line holds, where none is near."""
    valid = sorted(valid)
    near = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    more = f" and {len(valid) - NAMES} more" if len(valid) > NAMES else ""
    return f"there are: {', '.join(valid[:NAMES]) or 'none'}{more}"


def redacted(text: str) -> str:
    """The text with stars for the passwords in its URIs: `postgresql://user:***@host/db`.

    A name before `@` without a password is taken for a token, `https://***@host`; fields such as `password=` and
    `token=` lose their values too. What follows a colon goes up to the last `@` of the word, since a password may
    hold others.
    """
    hidden = _USER.sub(lambda found: f"{found[1]}{'' if found[2] is None else f'{found[2]}:'}***@", text)
    return _FIELD.sub(r"\1***", hidden)


def without_user(uri: str) -> str:
    """The URI without the name and password in it, which Python's own client would take for a part of the host."""
    return _USER.sub(r"\1", uri)


def printable(text: str) -> str:
    """The text with question marks for what would steer a terminal, line ends included."""
    return "".join(c if c.isprintable() else "?" for c in text)


def one_line(error: BaseException) -> str:
    """The error's kind and first line, without passwords, short enough for a log or a tag."""
    first = redacted(str(error).strip().splitlines()[0]) if str(error).strip() else ""
    return f"{type(error).__name__}: {first}"[:500] if first else type(error).__name__


def exit_status(main: Callable[[], int]) -> int:
    """Run a command line: a `Mistake`, or a disk that fails, becomes one line on standard error and status 2."""
    try:
        return main()
    except (Mistake, OSError) as error:  # OSError: a full disk, a file that may not be read
        print(f"error: {printable(redacted(str(error)))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
