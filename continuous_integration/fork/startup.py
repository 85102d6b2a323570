"""What an editable install runs in every Python that starts in its environment.

The build copies this file into the environment, with a ``.pth`` file that calls
:func:`install`. It may import nothing but the standard library, and little of that.

The fork's modules exist nowhere as they are imported: they are merged from a copy of
the base, kept in the project's build folder, and from the files of the project. This is
done when ``distributed`` is imported and one of those files has changed. A path
finder does it, in front of the others: an entry on ``sys.path`` would have to be there
before anyone knows whether ``distributed`` is needed, and could not explain itself when
merging fails.
"""

from __future__ import annotations

import os
import sys

# `typing` is slow to import, and this module is imported whenever Python starts
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def install(root: str, base: str, version: str) -> None:
    """Let ``import distributed`` find the fork.

    Parameters
    ----------
    root
        Folder of the project
    base
        Version of the base that was there when the fork was installed
    version
        Version of the fork that was installed
    """
    sys.meta_path.insert(0, ForkFinder(root, base, version))


class ForkFinder:
    """Finds ``distributed``, and nothing else, in a merged tree that is up to date."""

    def __init__(self, root: str, base: str, version: str):
        self.root = root
        self.base = base
        self.version = version

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Implement the protocol of ``sys.meta_path``."""
        if name != "distributed":
            return None
        from importlib.machinery import PathFinder

        if not os.path.isfile(f"{self.root}/pyproject.toml"):
            raise ImportError(
                f"distributed was installed with `pip install -e {self.root}`, which "
                "is gone; install it again from where it is now",
                name=name,
            )
        try:
            tree = self.tree()
            os.utime(tree)  # In use; see `editable_tree`
        except Exception as error:  # Whatever is wrong, say what and where
            kind = type(error).__name__
            text = str(error) if kind == "ForkError" else f"{kind}: {error}"
            raise ImportError(
                f"the editable install of distributed in {self.root} cannot be merged: "
                f"{text}",
                name=name,
            ) from None
        # Beside this finder there are programs that look along the path by themselves
        if tree not in sys.path:
            sys.path.insert(0, tree)
        return PathFinder.find_spec(name, [tree])

    def tree(self) -> str:
        """Return the merged tree for the files as they are now."""
        folder = f"{self.root}/build/merged"
        state = "\n".join([self.version, *self.state()])
        memo = f"{folder}/current"
        try:
            with open(memo, encoding="utf-8") as f:
                tree, _, known = f.read().partition("\n")
            if known == state and os.path.isdir(tree):
                return tree
        except OSError:
            pass
        tree = self.merge(folder)
        # Not `tempfile`: importing it takes longer than all of the rest
        temporary = f"{memo}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(f"{tree}\n{state}")
        try:
            os.replace(temporary, memo)
        except PermissionError:  # Windows: another process reads it at this moment
            os.unlink(temporary)
        return tree

    def state(self) -> Iterator[str]:
        """Yield what changes when a file does that the merged tree is made from."""
        for folder in ("distributed", "continuous_integration/fork"):
            for path, _, names in sorted(os.walk(f"{self.root}/{folder}")):
                if "__pycache__" in path or "/tests" in path[len(self.root) :]:
                    continue
                for name in sorted(names):
                    file = f"{path}/{name}"
                    try:
                        stat = os.stat(file)
                    except FileNotFoundError:  # An editor's; gone already
                        continue
                    yield f"{file} {stat.st_size} {stat.st_mtime_ns}"
        stat = os.stat(f"{self.root}/pyproject.toml")
        yield f"{stat.st_size} {stat.st_mtime_ns}"

    def merge(self, folder: str) -> str:
        """Merge with the code of the project, which is not installed."""
        from pathlib import Path

        package = "continuous_integration"
        hidden = {
            n: m for n, m in sys.modules.items() if n.partition(".")[0] == package
        }
        for name in hidden:
            del sys.modules[name]
        sys.path.insert(0, self.root)
        try:
            from continuous_integration.fork import ForkError
            from continuous_integration.fork.base import folder_base, storage
            from continuous_integration.fork.project import read_project
            from continuous_integration.fork.tree import editable_tree

            root = Path(self.root)
            try:
                project = read_project(root)
            except ModuleNotFoundError:  # No TOML library before Python 3.11
                pass
            else:
                if (project.base, project.version) != (self.base, self.version):
                    raise ForkError(
                        f"pyproject.toml now says distributed {project.version}, but "
                        f"{self.version} is installed; run `pip install -e .` again"
                    )
            kept = storage(root, self.base)
            if not kept.is_dir():
                raise ForkError(
                    f"{kept}, the copy of the base, is gone; run `pip install -e .` "
                    "again"
                )
            base = folder_base(kept, self.base)
            return str(editable_tree(root, base, self.version, Path(folder)))
        finally:
            sys.path.remove(self.root)
            for name in list(sys.modules):
                if name.partition(".")[0] == package:
                    del sys.modules[name]
            sys.modules.update(hidden)
