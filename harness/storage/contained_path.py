"""Paths from names that a store, a log or another machine gives: each stays in its folder, or is refused."""

from pathlib import Path, PurePosixPath

from harness.errors import UserError


def inside(folder: Path, name: str) -> Path:
    """The path of the file `name` in `folder`.

    Raises `UserError` for a name that is empty, absolute, no text of a file system or has `..`, a backslash or a NUL,
    and for one that links lead out of the folder.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise UserError(f"{name!r} is no name of a file in {str(folder)!r}")
    path = folder / name
    try:
        resolved, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError):  # a link to itself; half of a letter
        raise UserError(f"{name!r} is no name of a file in {str(folder)!r}") from None
    if not resolved.is_relative_to(root) or resolved == root:
        raise UserError(f"{name!r} is a link that leads out of {str(folder)!r}")
    return path
