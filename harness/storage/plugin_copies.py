"""Copies of plug-ins under the output folder: beside the results, and where workers on other nodes find them."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from harness import plugins
from harness.storage.workspace import Workspace


def use(workspace: Workspace) -> None:
    """Find plug-ins that are not where they were read from among the copies of this workspace."""
    plugins.search(workspace.remote or str(workspace.out), lambda digest: workspace.fetched(workspace.plugin(digest)))


def keep(references: Iterable[str], workspace: Workspace) -> None:
    """Copy the sources of pinned references to `out`, unless they are there."""
    for reference in references:
        source = plugins.source(reference)
        folder = workspace.plugin(source.digest)
        with workspace.synchronised(folder):
            if folder.is_dir() and any(folder.rglob("*.py")):
                continue
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
                made = Path(temporary, source.digest)
                for name, content in source.files.items():
                    (made / name).parent.mkdir(parents=True, exist_ok=True)
                    (made / name).write_bytes(content)
                try:
                    os.rename(made, folder)
                except OSError:  # it exists: of a URI with a record of what was pulled, or another process was first
                    shutil.copytree(made, folder, dirs_exist_ok=True)
