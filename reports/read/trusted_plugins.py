"""Which plug-ins may run that a record names: those whose copies are in a folder that the user trusts."""

from collections.abc import Mapping
from pathlib import Path

from harness import plugins
from harness.arguments import Arguments, path
from harness.config.named_settings import plugins_of
from harness.errors import UserError
from methods import Setting

TRUSTED = "--plugins"  # among the places of copies


def add_argument(parser: Arguments) -> None:
    """Add --plugins FOLDER."""
    parser.add_argument("--plugins", type=path, metavar="FOLDER", help="copies of plug-ins that may run: OUT/plugins")


def trust(folder: Path | None) -> None:
    """Let only the plug-ins run whose source a sweep has kept in this folder. Raises `UserError` if it is none."""
    plugins.forget(TRUSTED)
    if folder is not None:
        if not folder.is_dir():
            raise UserError(f"--plugins names the folder of a sweep's plug-ins, OUT/plugins; {str(folder)!r} is none")
        plugins.search(TRUSTED, folder.joinpath)


def check(settings: Mapping[str, Setting], source: str) -> None:
    """Raise `UserError` for settings that name code of which no copy is trusted: a store may name any code.

    source: says where the settings are from.
    """
    for name in plugins_of(settings):
        if not plugins.is_kept(name, TRUSTED):
            raise UserError(
                f"the settings {source} name the plug-in {name!r}, of which no copy is trusted; name the folder of the"
                " sweep's copies, whose code is then run: --plugins OUT/plugins"
            )
