"""User errors as one-line messages with suggestions, redaction of passwords, printed commands, exit status."""

import contextlib
import difflib
import hashlib
import os
import re
import select
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from harness.plain_output import take_every_character

NAMES = 24  # limit on the valid names listed in a message
SHOWN = 80  # characters of a wrong value in a message
LINE = 1000  # characters of a message
_python_format = warnings.formatwarning
_Value = TypeVar("_Value")
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)(?:([^\s/:@]*):\S*|[^\s/:@]+)@", re.IGNORECASE)
_FIELD = re.compile(
    r"((?:(?:passw(?:or)?d|passphrase|pwd|secret|token|credential|api_?key|access_?key|signature|odbc_connect)\w*|\bsig)"
    r"\s*(?:=|%3d)\s*)(?:'[^']*'|\"[^\"]*\"|[^\s&;'\"]+)",
    re.IGNORECASE,
)
_RAISED = re.compile(r"[\w.]*(?:Error|Exception|Exit|Interrupt|Warning|Timeout)(?::|$)")  # ends a traceback


class UserError(ValueError):
    """Bad input. The message is one line for the user; the command line prints it and exits with 2."""


class Notice(UserWarning):
    """Something to know about the input. A command prints it as one line, without the place in the code."""


class Diverged(ArithmeticError):
    """The training loss became NaN or infinite. The message names the epoch."""


def required(value: _Value | None, what: str) -> _Value:
    """`value`, which cannot be None at this point. Raises `LookupError`, for a fault of the program, if it is."""
    if value is None:
        raise LookupError(f"there is no {what}")
    return value


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UserError:
    """A `UserError` for an unknown name, with the nearest valid one."""
    return UserError(f"{kind} {shown(name)} is not known; {nearest(name, valid)}")


def nearest(name: str, valid: Iterable[str]) -> str:
    """`did you mean 'x'?`, or a list of the valid names if none is similar."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name[:LINE], valid, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are: {first_few(valid, NAMES) or 'none'}"


def first_few(texts: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first texts, and how many more there are: `a, b, c and 5 more`."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def redacted(text: str) -> str:
    """Replace passwords in URIs by stars: `postgresql://user:***@host/db`.

    A user name without a password is taken for a token, `https://***@host`. Values of fields such as `password=` and
    `token=` are replaced too. A password extends to the last `@` of the word, since it may contain others.
    """
    without_passwords = _USER.sub(lambda m: f"{m[1]}{'' if m[2] is None else f'{m[2]}:'}***@", text)
    return _FIELD.sub(r"\1***", without_passwords)


def shell_command(*words: str) -> str:
    """A command for a shell, to be printed: quoted where needed, without passwords."""
    return shlex.join(redacted(word) for word in words)


def without_user(uri: str) -> str:
    """Strip user name and password from a URI; urllib would take them for a part of the host."""
    return _USER.sub(r"\1", uri)


def printable(text: str) -> str:
    """Replace control characters, line ends included, by question marks, for safe terminal output."""
    return "".join(c if c.isprintable() else "?" for c in text)


def shown(value: str | float | tuple[str | float, ...] | None) -> str:
    """The repr of a wrong value, shortened to `SHOWN` characters."""
    return shortened(repr(value[: 2 * SHOWN] if isinstance(value, str) else value), SHOWN)


def short_name(name: str, length: int) -> str:
    """A name of at most `length` characters; a digest at the end of a shortened one keeps two names apart."""
    if len(name) <= length:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:6]
    return f"{name[: length - len(digest) - 1]}…{digest}"


def shortened(text: str, length: int) -> str:
    """`text`, of whose middle `…` replaces what is more than `length` characters: both ends say what it is."""
    if len(text) <= length:
        return text
    end = length // 3
    return f"{text[: length - end - 1]}…{text[-end:]}"


def one_line(error: BaseException) -> str:
    """Exception type and the line of its message that names the cause, without passwords, up to 500 characters."""
    return f"{type(error).__name__}: {first_line(error)}"[:500] if str(error).strip() else type(error).__name__


def first_line(error: BaseException) -> str:
    """First line of an exception's message, without passwords; its type if it has no message.

    A traceback in it is skipped, and a line that ends with a colon is continued by those that follow.
    """
    lines = str(error).strip().splitlines()
    if any(line.startswith("Traceback (most recent") for line in lines):
        raised = [i for i, line in enumerate(lines) if _RAISED.match(line)]
        lines = lines[raised[-1] if raised else -1 :]
    if not lines:
        return type(error).__name__
    return redacted(" ".join(line.strip() for line in lines) if lines[0].endswith(":") else lines[0])


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A `Notice` as one line; any other warning as Python prints it."""
    if issubclass(category, Notice):
        return f"note: {printable(redacted(str(message)))}\n"
    return _python_format(message, category, filename, lineno, line)


def exit_status(main: Callable[[], int]) -> int:
    """Run a command. `UserError` and `OSError` give one line on standard error and status 2; Ctrl-C gives 130.

    141, as of a process ended by SIGPIPE, where nobody reads what it prints any longer, as in `... | head`.
    """
    take_every_character()
    warnings.formatwarning = format_warning
    try:
        status = main()
        sys.stdout.flush()
        return status
    except (UserError, OSError) as error:  # OSError: full disk, missing permission
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return 128 + signal.SIGPIPE
        complain(f"error: {shortened(redacted(str(error)), LINE)}")
        return 2
    except KeyboardInterrupt:
        complain("interrupted")
        return 130


def complain(line: str) -> None:
    """Print a line on standard error, without control characters; nothing if it is gone, with a closed terminal."""
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)


def _stdout_is_closed() -> bool:
    """Whether the pipe that broke is the standard output, and not a connection. Then nothing more is written there."""
    with contextlib.suppress(OSError, ValueError):  # an output without a file
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        if poll.poll(0):  # an error, or that the other end is closed
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return True
    return False
