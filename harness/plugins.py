"""Code of others by name: `package.module:thing` or `path/to/file.py:thing`, imported once, known by a digest.

    pinned("../ideas/alp.py:ALP")            "alp.py:ALP@3f2a1b4c5d6e": the same wherever the file lies
    load("alp.py:ALP@3f2a1b4c5d6e")          the class, of the source with that digest, or `UserError`
    reference(ALP)                           "alp.py:ALP@3f2a1b4c5d6e"

Only a pinned reference stands in a trial's settings, and so in its key: an edited plug-in makes other trials. A pinned
one is loaded from where it was read, else from a copy that `search` finds.
"""

import functools
import importlib
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import plugin_source
from harness.errors import UserError, nearest, one_line, shown
from harness.plugin_source import PREFIX, Source
from harness.setting_types import Setting

_REFERENCE = re.compile(r"(?P<where>.+\.py|[A-Za-z_][\w.]*):(?P<thing>[A-Za-z_][\w.]*)(?:@(?P<digest>[0-9a-f]{12}))?")
_sources: dict[str, Source] = {}  # by digest: those that this process has read
_searches: dict[str, Callable[[str], Path]] = {}  # by name: where copies of other sources may be
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


def is_reference(text: str) -> bool:
    """Whether a text names a plug-in, and not something of ours."""
    return Reference.parse(text) is not None


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


def search(name: str, find: Callable[[str], Path]) -> None:
    """Look for sources also in the folder find(digest), which need not exist. name: to say it once."""
    _searches[name] = find


def references(texts: Setting) -> list[str]:
    """The pinned references in the value of a setting, of one name or several."""
    several = texts if isinstance(texts, tuple) else (texts,)
    words = [word for text in several if isinstance(text, str) for word in text.split("+")]
    return [word for word in words if (parsed := Reference.parse(word)) and parsed.digest]


def _read(reference: Reference) -> Source:
    """The source of a reference as it is now."""
    if not reference.of_file:
        top = reference.where.partition(".")[0]
        if (found := plugin_source.of_package(top)) is None:
            raise UserError(f"there is no module {top!r} for {str(reference)!r}: is the package installed here?")
        return found
    file = Path(reference.where).expanduser()
    if "." in file.stem or not file.stem:
        raise UserError(f"the file of a plug-in has a name without dots, not {file.name!r}")
    if not file.is_file():
        folder = file.parent if file.parent.is_dir() else Path()
        raise UserError(f"there is no file {str(file)!r}; {nearest(file.name, [p.name for p in folder.glob('*.py')])}")
    return plugin_source.of_file(file.absolute())


def _known(digest: str) -> Source | None:
    """A source by its digest: read before, or a copy."""
    if digest in _sources:
        return _sources[digest]
    for find in _searches.values():
        if (folder := find(digest)).is_dir():
            copy = plugin_source.of_folder(folder)
            if copy.digest != digest:
                raise UserError(f"the copy of a plug-in {str(folder)!r} is damaged: its digest is {copy.digest}")
            return _sources.setdefault(digest, copy)
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
        return _imported.setdefault(before, importlib.import_module(name))
    except UserError as error:
        raise UserError(f"{reference.where} cannot be imported: {error}") from None
    except (Exception, SystemExit) as error:  # of anybody's code
        raise UserError(f"{reference.where} cannot be imported: {_place(error, of)}{one_line(error)}") from error


def _check_package(reference: Reference, of: Source) -> None:
    """Have Python find this source of a package. Raises `UserError` if it has another one already."""
    top = reference.where.partition(".")[0]
    installed = plugin_source.of_package(top)
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


_importer = plugin_source.Importer(_known)
if not any(isinstance(finder, plugin_source.Importer) for finder in sys.meta_path):
    sys.meta_path.append(_importer)
