"""Source of a plug-in: its files as they were when they were read, their digest, and the modules made of them.

A plug-in that is a file consists of it and of the modules in its folder that it imports, or names as text, such as
"alp.py:ALP", and so on. One of an installed
package consists of all modules of the top-level package. What Python imports from elsewhere, and files of data, are no
part of it. A `Source` of files is imported from memory: what the digest names is what runs, edited meanwhile or not.
"""

import ast
import functools
import hashlib
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import InspectLoader, MetaPathFinder
from pathlib import Path, PurePosixPath
from types import CodeType, ModuleType

from harness.errors import UserError

PREFIX = "harness_plugin_"  # of the package that the modules of a source are imported in, before the digest
# Never taken for a module beside a plug-in: of the standard library, and ours, though it may lie in our checkout.
_ELSEWHERE = {*sys.stdlib_module_names, "harness", "methods", "search_spaces", "reports"}


@dataclass(frozen=True)
class Source:
    """files: bytes by path relative to `folder`, from which they were read."""

    files: Mapping[str, bytes]
    folder: Path = field(compare=False)

    @functools.cached_property
    def digest(self) -> str:
        """Twelve hex digits of the SHA-256 of all files: their paths and bytes."""
        total = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            total.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
        return total.hexdigest()[:12]

    @property
    def package(self) -> str:
        """The package that its modules are imported in, if they are imported from memory."""
        return PREFIX + self.digest


def of_file(file: Path) -> Source:
    """The source of a plug-in that is a file. Raises `UserError` if it cannot be read, or is no Python."""
    files: dict[str, bytes] = {}
    pending = [file.name]
    while pending:
        name = pending.pop()
        if name not in files:
            files[name] = _read(file.parent / name)
            tree = parsed(name, files[name])
            for module in (*_imported(name, tree), *_named(tree)):
                pending += _modules_beside(file.parent, module)
    return Source(files, file.parent)


def of_folder(folder: Path) -> Source:
    """The source of all modules under a folder, as a copy of one has them."""
    files = {path.relative_to(folder).as_posix(): _read(path) for path in sorted(folder.rglob("*.py"))}
    return Source(files, folder)


def of_package(name: str) -> Source | None:
    """The source of an importable top-level package or module, without importing it; None if there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or (places := _places(spec)) is None:
        return None
    files = {}
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            files[path.relative_to(place.parent).as_posix()] = _read(path)
    return Source(files, places[0].parent)


def _places(spec: importlib.machinery.ModuleSpec) -> list[Path] | None:
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations] or None
    return [Path(spec.origin)] if spec.has_location and spec.origin else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the plug-in {str(path)!r}: {error.strerror}") from None


def _named(tree: ast.Module) -> Iterator[str]:
    """The names, without `.py`, of the files that a module names as text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"(?:^|[+,])(\w+)\.py:[A-Za-z_]", node.value)


def _imported(name: str, tree: ast.Module) -> Iterator[str]:
    """First words of the names of the modules that a file imports which may lie in the plug-in's folder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level in (0, len(PurePosixPath(name).parts)):
            yield from [node.module.partition(".")[0]] if node.module else [alias.name for alias in node.names]


def _modules_beside(folder: Path, name: str) -> list[str]:
    """Files of the module of that name in the folder, all of them if it is a package; none if there is none."""
    if name in _ELSEWHERE:
        return []
    if (folder / name / "__init__.py").is_file():
        return [path.relative_to(folder).as_posix() for path in sorted((folder / name).rglob("*.py"))]
    return [f"{name}.py"] if (folder / f"{name}.py").is_file() else []


def parsed(name: str, content: bytes) -> ast.Module:
    """The syntax tree of a module. Raises `UserError` that names the wrong line."""
    try:
        return ast.parse(content, name)
    except SyntaxError as error:
        raise UserError(f"{name}, line {error.lineno}: {error.msg}") from None
    except ValueError as error:  # a NUL
        raise UserError(f"{name}: {error}") from None


class Importer(MetaPathFinder):
    """Imports the modules of a source from memory, as submodules of `source.package`, under which pickle finds them.

    In them `import x` means the `x` of the same source, if it has one; two versions of a plug-in share no module.
    """

    def __init__(self, find: Callable[[str], Source | None]):
        """find(digest): the source of that digest; None if it is not known."""
        self._find = find

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, module = fullname.partition(".")
        if not package.startswith(PREFIX) or (source := self._find(package.removeprefix(PREFIX))) is None:
            return None
        if not module:
            return importlib.machinery.ModuleSpec(fullname, _Loader(source, None), is_package=True)
        for name in (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py"):
            if name in source.files:
                file = str(source.folder / name)
                package_here = name.endswith("/__init__.py")
                spec = importlib.machinery.ModuleSpec(
                    fullname, _Loader(source, name), origin=file, is_package=package_here
                )
                spec.has_location = True
                return spec
        return None


class _Loader(InspectLoader):
    def __init__(self, source: Source, name: str | None):
        self._source, self._name = source, name

    def is_package(self, fullname: str) -> bool:
        return self._name is None or self._name.endswith("__init__.py")

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._source.files[self._name]) if self._name else ""

    def get_code(self, fullname: str) -> CodeType:
        if self._name is None:
            return self.source_to_code("")
        tree = parsed(self._name, self._source.files[self._name])
        tree = ast.fix_missing_locations(_OwnModules(self._source).visit(tree))
        return self.source_to_code(tree, str(self._source.folder / self._name))


class _OwnModules(ast.NodeTransformer):
    """Has imports of the source's own modules find them in its package."""

    def __init__(self, source: Source):
        self._package = source.package
        self._own = {PurePosixPath(name).parts[0].removesuffix(".py") for name in source.files}

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        return [statement for alias in node.names for statement in self._import(alias, node)]

    def _import(self, alias: ast.alias, node: ast.Import) -> list[ast.stmt]:
        top = alias.name.partition(".")[0]
        if top not in self._own:
            return [ast.copy_location(ast.Import([alias]), node)]
        found = [ast.Import([ast.alias(f"{self._package}.{alias.name}", alias.asname or top)])]
        if not alias.asname and top != alias.name:  # `import a.b` gives the name `a`, and has imported `a.b`
            found.append(ast.Import([ast.alias(f"{self._package}.{top}", top)]))
        return [ast.copy_location(statement, node) for statement in found]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if not node.level and node.module and node.module.partition(".")[0] in self._own:
            return ast.copy_location(ast.ImportFrom(f"{self._package}.{node.module}", node.names, 0), node)
        return node
