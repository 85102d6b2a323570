"""Hatchling's hooks; ``pyproject.toml`` names this file."""

from __future__ import annotations

import email
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

# Hatchling loads this file by its path
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

# isort: split
from continuous_integration.fork import ForkError, base, startup, tree
from continuous_integration.fork.project import BUILD, read_project

#: Of the module and the .pth file of an editable install
STARTUP = "_distributed_rootish"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Let the build end with a message instead of a traceback."""
    try:
        yield
    except ForkError as error:
        raise SystemExit(f"distributed-rootish: {error}") from None


class MetadataHook(MetadataHookInterface):
    """Takes over the metadata of the base, and adds ours."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the fields that ``pyproject.toml`` declares dynamic."""
        with one_line_errors():
            project = read_project(ROOT)
            project.check_base()
            theirs = base.installed_distribution(project.base)
            licence = base.store_licence(project.base, ROOT)
        # The type that `Distribution.metadata` is declared to have is too narrow
        fields = email.message_from_string(str(theirs.read_text("METADATA")))
        entry_points: dict[str, dict[str, str]] = {}
        for entry_point in theirs.entry_points:
            group = entry_points.setdefault(entry_point.group, {})
            group[entry_point.name] = entry_point.value
        for group_name, added in project.entry_points.items():
            entry_points.setdefault(group_name, {}).update(added)
        metadata["version"] = project.version
        metadata["dependencies"] = fields.get_all("Requires-Dist", [])
        metadata["requires-python"] = fields["Requires-Python"]
        metadata["classifiers"] = fields.get_all("Classifier", [])
        metadata["entry-points"] = entry_points
        metadata["license-files"] = ["LICENSE.txt", licence]


class BuildHook(BuildHookInterface[Any]):
    """Decides what is in a wheel, an editable wheel and an sdist."""

    temporary: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Give hatchling the files.

        Parameters
        ----------
        version
            ``"standard"`` or ``"editable"``
        build_data
            Hatchling's; what is put in here gets built
        """
        project = read_project(ROOT)
        if self.target_name == "sdist":
            # What is made by the build is made again when the sdist is built
            licences = self.metadata.core.license_files
            licences[:] = [p for p in licences if not p.startswith(f"{BUILD}/")]
            included = build_data["force_include"]
            for source, path in list(included.items()):
                if path.startswith(f"{BUILD}/"):
                    del included[source]
            return
        self.temporary = tempfile.mkdtemp()
        files = Path(self.temporary)
        with one_line_errors():
            theirs = base.installed_base(project.base)
            if version == "editable":
                # Kept even if merging fails, for `accept` to compare with
                theirs = base.store(theirs, ROOT)
            ours = tree.fork_files(ROOT, theirs)
        if version == "editable":
            call = f"install({str(ROOT)!r}, {project.base!r}, {project.version!r})"
            (files / f"{STARTUP}.pth").write_text(
                f"import {STARTUP}; {STARTUP}.{call}\n", encoding="utf-8"
            )
            shutil.copy(str(startup.__file__), files / f"{STARTUP}.py")
            key = "force_include_editable"
        else:
            ours[tree.VERSION_FILE] = tree.version_module(project.version, theirs)
            tree.write_tree(files, theirs, ours)
            key = "force_include"
        for path in sorted(p for p in files.rglob("*") if p.is_file()):
            build_data[key][str(path)] = path.relative_to(files).as_posix()

    def finalize(
        self, version: str, build_data: dict[str, Any], artifact_path: str
    ) -> None:
        """Clean up."""
        if self.temporary is not None:
            shutil.rmtree(self.temporary)
