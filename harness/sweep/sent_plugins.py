"""Plug-ins for a command that runs elsewhere: its words with pinned references, and their sources to send along."""

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp

from harness import plugins
from harness.config import named_spaces

Sources = dict[str, dict[str, bytes]]  # by digest: files


def pinned_words(words: Iterable[str], args: Namespace) -> list[str]:
    """The words of a command line, each plug-in in them as its pinned reference, which needs no file here.

    args: the same words, parsed.
    """
    from harness.config.named_settings import pinned

    given = {} if args.space is None else {args.space: named_spaces.pinned(args.space)}
    given |= {} if args.data is None else {args.data: str(pinned("data", args.data))}
    for text in args.set:
        path, equals, value = text.partition("=")
        given[text] = f"{path}{equals}{pinned(path.strip(), value.strip())}"
    return [_replaced(word, given) for word in words]


def _replaced(word: str, given: dict[str, str]) -> str:
    option, equals, value = word.partition("=")
    if word in given:
        return given[word]
    return f"{option}={given[value]}" if equals and option.startswith("--") and value in given else word


def sent(words: Iterable[str], args: Namespace, references: Iterable[str]) -> tuple[list[str], Sources]:
    """The words to send, as of `pinned_words`, and the sources of the pinned references of the plan."""
    return pinned_words(words, args), {of.digest: dict(of.files) for of in map(plugins.source, references)}


def unpacked(sent: Sources) -> str:
    """A new folder of copies, as `plugins.COPIES` names one."""
    folder = Path(mkdtemp(prefix="saliency-harness-plugins-"))
    for digest, files in sent.items():
        for name, content in files.items():
            (folder / digest / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / digest / name).write_bytes(content)
    return str(folder)
