"""Code of others by name: `package.module:thing` or `path/to/file.py:thing`, imported once, known by a digest.

    pinned("../ideas/alp.py:ALP")            "alp.py:ALP@3f2a1b4c5d6e": the same wherever the file lies
    load("alp.py:ALP@3f2a1b4c5d6e")          the class, of the source with that digest, or `UserError`
    reference(ALP)                           "alp.py:ALP@3f2a1b4c5d6e"

Only a pinned reference stands in a trial's settings, and so in its key: an edited plug-in makes other trials. A pinned
one is loaded from where it was read, else from a copy that `search` finds.
"""

import contextlib
import functools
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import UserError, nearest, one_line, shown
from harness.plugins import source_files
from harness.plugins.source_files import PREFIX, Source
from harness.setting_types import Setting

_REFERENCE = re.compile(r"(?P<where>.+\.py|[A-Za-z_][\w.]*):(?P<thing>[A-Za-z_][\w.]*)(?:@(?P<digest>[0-9a-f]{12}))?")
COPIES = "HARNESS_PLUGINS"  # environment variable: a folder of copies, each named by its digest
_sources: dict[str, Source] = {}  # by digest: those that this process has read
_searches: dict[str, Callable[[str], Path]] = {}  # by name: where copies of other sources may be
_folder = ContextVar[Path | None]("_folder", default=None)  # of the plug-in that is imported: its references' own
_imported: dict[tuple[str, str], ModuleType] = {}  # by digest and place
# The thing that a reference names: a class, a function, or a value of any kind, which the taker checks.
Thing = Any


@dataclass(frozen=True)
class Reference:
    """A parsed reference. where: a file, or a dotted module. digest: "" if it is not pinned."""

    where: str
    thing: str
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> "Reference | None":
        """None if the text is no reference, but a name."""
        match = _REFERENCE.fullmatch(text)
        return cls(match["where"], match["thing"], match["digest"] or "") if match else None

    def __str__(self) -> str:
        return f"{self.where}:{self.thing}{f'@{self.digest}' if self.digest else ''}"

    @property
    def of_file(self) -> bool:
        return self.where.endswith(".py")


def unpinned(text: str) -> str:
    """A reference without its digest."""
    reference = Reference.parse(text)
    return str(Reference(reference.where, reference.thing)) if reference else text


def label(name: str) -> str:
    """A name as tables and scores show it: of a plug-in `alp.ALP`, without its digest; any other as it is."""
    reference = Reference.parse(name)
    return f"{reference.where.removesuffix('.py').rpartition('/')[2]}.{reference.thing}" if reference else name


def is_reference(text: str) -> bool:
    """Whether a text names a plug-in, and not something of ours."""
    return Reference.parse(text) is not None


def is_pinned(text: str) -> bool:
    """Whether a text names a version of a plug-in by its digest, as a trial's settings do."""
    reference = Reference.parse(text)
    return reference is not None and reference.digest != ""


def pinned(text: str) -> str:
    """A reference with the digest of its source, and without the folder of its file. A name is returned as it is.

    Nothing is imported. Raises `UserError` if there is no such file or package.
    """
    reference = Reference.parse(text)
    if reference is None or reference.digest:
        return text
    source = _read(reference)
    _sources.setdefault(source.digest, source)
    where = Path(reference.where).name if reference.of_file else reference.where
    return str(Reference(where, reference.thing, source.digest))


def load(text: str) -> Thing:
    """What a reference names, imported once. Raises `UserError` if it cannot be imported, or has no such thing."""
    reference = Reference.parse(pinned(text))
    if reference is None:
        raise UserError(f"{shown(text)} is no reference, such as alp.py:ALP or package.module:ALP")
    found: Thing = _module(reference)
    for part in reference.thing.split("."):
        if not hasattr(found, part):
            there = [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []
            raise UserError(f"{reference.where} has no {part!r}; {nearest(part, there)}")
        found = getattr(found, part)
    return found


@functools.cache
def reference(thing: type | Callable[..., Thing]) -> str:
    """The pinned reference of a class or function of a plug-in."""
    module, _, rest = thing.__module__.partition(".")
    if module.startswith(PREFIX):
        file = f"{rest.replace('.', '/')}.py"
        return str(Reference(file, thing.__qualname__, module.removeprefix(PREFIX)))
    return pinned(f"{thing.__module__}:{thing.__qualname__}")


def text(reference: str) -> bytes:
    """The module that a pinned reference is in, as Python text."""
    parsed = Reference.parse(reference)
    files = source(reference).files
    where = parsed.where.removesuffix(".py").replace(".", "/") if parsed else ""
    found = files.get(f"{where}.py") or files.get(f"{where}/__init__.py")
    if found is None:
        raise UserError(f"the plug-in {reference!r} has no module {where!r}")
    return found


def source(text: str) -> Source:
    """The source of a pinned reference. Raises `UserError` if it is known neither here nor in any copy."""
    reference = Reference.parse(text)
    if reference is None:
        raise UserError(f"{shown(text)} is no reference to a plug-in")
    if (found := _known(reference.digest)) or (found := _still_there(reference)):
        return found
    raise UserError(
        f"the source of the plug-in {str(reference)!r} is not here: it was edited or moved, and no copy was kept; name"
        f" the file or package as it is now, {Reference(reference.where, reference.thing)}"
    )


def search_what_was_sent() -> None:
    """Look for sources in the folder that $HARNESS_PLUGINS names: where a command from outside left what it sent."""
    if folder := os.environ.get(COPIES):
        search(COPIES, Path(folder).joinpath)


def search(name: str, find: Callable[[str], Path]) -> None:
    """Look for sources also in the folder find(digest), which need not exist. name: to say it once."""
    _searches[name] = find


def forget(name: str) -> None:
    """Look no more where `search` said by that name."""
    _searches.pop(name, None)


def is_kept(reference: str, name: str) -> bool:
    """Whether the source of this very version is where `search` said by that name."""
    parsed, find = Reference.parse(reference), _searches.get(name)
    if parsed is None or not parsed.digest or find is None:
        return False
    folder = find(parsed.digest)
    return folder.is_dir() and source_files.of_folder(folder).digest == parsed.digest


def references(texts: Setting) -> list[str]:
    """The references in the value of a setting, of one name or several."""
    several = texts if isinstance(texts, tuple | list) else (texts,)
    words = [word for text in several if isinstance(text, str) for word in re.split("[+,]", text)]
    return [word for word in words if is_reference(word)]


def _read(reference: Reference) -> Source:
    """The source of a reference as it is now."""
    if not reference.of_file:
        top = reference.where.partition(".")[0]
        if (found := source_files.of_package(top)) is None:
            raise UserError(f"there is no module {top!r} for {str(reference)!r}: is the package installed here?")
        return found
    file = (_folder.get() or Path()) / Path(reference.where).expanduser()
    if "." in file.stem or not file.stem:
        raise UserError(f"the file of a plug-in has a name without dots, not {file.name!r}")
    if not file.is_file():
        folder = file.parent if file.parent.is_dir() else Path()
        raise UserError(f"there is no file {str(file)!r}; {nearest(file.name, [p.name for p in folder.glob('*.py')])}")
    return source_files.of_file(file.absolute())


def _known(digest: str) -> Source | None:
    """A source by its digest: read before, or a copy."""
    if digest in _sources:
        return _sources[digest]
    if (folder := _copy(digest)) is None:
        return None
    copy = source_files.of_folder(folder)
    if copy.digest != digest:
        raise UserError(f"the copy of a plug-in {str(folder)!r} is damaged: its digest is {copy.digest}")
    return _sources.setdefault(digest, copy)


def _copy(digest: str) -> Path | None:
    """The folder of a copy, where `search` says."""
    for find in _searches.values():
        with contextlib.suppress(OSError):  # a name that is too long for a file
            if any((folder := find(digest)).rglob("*.py")):
                return folder
    return None


def _still_there(reference: Reference) -> Source | None:
    """The source as it is now, if its digest is still the same."""
    try:
        found = _read(reference)
    except UserError:
        return None
    return _sources.setdefault(found.digest, found) if found.digest == reference.digest else None


def _module(reference: Reference) -> ModuleType:
    """The module of a pinned reference."""
    if (before := (reference.digest, reference.where)) in _imported:
        return _imported[before]
    of = source(str(reference))
    name = reference.where
    if reference.of_file:
        name = f"{of.package}.{Path(reference.where).stem}"
    else:
        _check_package(reference, of)
    try:
        with _within(of.folder if reference.of_file else None):
            return _imported.setdefault(before, importlib.import_module(name))
    except UserError as error:
        raise UserError(f"{reference.where} cannot be imported: {error}") from None
    except (Exception, SystemExit) as error:  # of anybody's code
        raise UserError(f"{reference.where} cannot be imported: {_place(error, of)}{one_line(error)}") from error


@contextlib.contextmanager
def _within(folder: Path | None) -> Iterator[None]:
    """Within, a relative path in a reference is one of this folder."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def _check_package(reference: Reference, of: Source) -> None:
    """Have Python find this source of a package. Raises `UserError` if it has another one already."""
    top = reference.where.partition(".")[0]
    installed = source_files.of_package(top)
    if installed and installed.digest == of.digest:
        return
    if top in sys.modules:
        raise UserError(
            f"{str(reference)!r} needs another version of {top!r} than the one that is here"
            f" ({installed.digest if installed else 'unknown'}); install that one"
        )
    sys.path.insert(0, str(of.folder))
    importlib.invalidate_caches()


def _place(error: BaseException, of: Source) -> str:
    """The last line of the plug-in that an exception came from, as `alp.py, line 3: `; "" if there is none."""
    files = {str(of.folder / name): name for name in of.files}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{files[frames[-1].filename]}, line {frames[-1].lineno}: " if frames else ""


_importer = source_files.Importer(_known)
if not any(isinstance(finder, source_files.Importer) for finder in sys.meta_path):
    sys.meta_path.append(_importer)
search_what_was_sent()
