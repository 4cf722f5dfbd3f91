"""Arguments of the commands: a parser whose errors are one line, and types for numbers and folders."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from harness.duration import seconds_of
from harness.errors import UserError, nearest, shown

MOST = 1_000_000  # trials, images, steps and so on that an option can ask for


class Arguments(argparse.ArgumentParser):
    """A parser of `python -m PROGRAM`. Wrong arguments raise `UserError`; argparse would print its usage and exit."""

    def __init__(self, program: str, description: str | None):
        super().__init__(
            prog=f"python -m {program}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """As of the base class; raises `UserError` also for text that no file name and no store can have."""
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            if "\0" in word or any("\ud800" <= letter <= "\udfff" for letter in word):
                raise UserError(f"the argument {shown(word)} is not text in UTF-8")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` with argparse's message; for an unknown option with the nearest one."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message and unknown.startswith("-"):
            options = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
            option = re.split("[ =]", unknown, maxsplit=1)[0]
            raise UserError(f"there is no option {shown(option)}; {nearest(option, options)}")
        raise UserError(re.sub(r"^argument ([^\s:]+): ", r"\1 ", message))


def whole(least: int, most: int = MOST) -> Callable[[str], int]:
    """The type of an option that takes a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes a whole number, not {shown(text)}") from None
        if not least <= number <= most:
            bound = f"at least {least}" if number < least else f"at most {most}"
            raise argparse.ArgumentTypeError(f"must be {bound}, not {shown(text)}".replace("'", ""))
        return number

    return parse


def number(text: str) -> float:
    """The type of an option that takes a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a number, not {shown(text)}") from None


def duration(text: str) -> float:
    """The type of an option that takes a time: seconds of `90m`, `2h30m` or `7200s`."""
    try:
        return seconds_of(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def filled(text: str) -> str:
    """The type of an option that takes a text: not an empty one, which would be taken for the default."""
    if not text.strip():
        raise argparse.ArgumentTypeError("takes a text that is not empty")
    return text


def place(text: str) -> str:
    """The type of an option that takes a folder or a URI: not empty, `~` expanded."""
    if not text.strip():
        raise argparse.ArgumentTypeError("takes a folder or a URI, not an empty name")
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{shown(text)} names the home of a user that does not exist") from None


def path(text: str) -> Path:
    """The type of an option that takes a local file or folder: not empty, `~` expanded."""
    return Path(place(text))
