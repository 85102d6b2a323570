"""The workflows of GitHub Actions, compared with the commands that they call."""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from continuous_integration.tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(path: Path) -> Iterator[str]:
    """Yield the commands of a workflow, for each combination of its matrix."""
    for job in read(path)["jobs"].values():
        matrix = dict(job.get("strategy", {}).get("matrix", {}))
        matrix.pop("exclude", None)
        for values in itertools.product(*matrix.values()):
            for step in job["steps"]:
                command = step.get("run", "")
                for name, value in zip(matrix, values, strict=True):
                    command = command.replace(f"${{{{ matrix.{name} }}}}", value)
                yield command


def parse(command: str) -> None:
    """Parse the command line of one of our modules as click does, without running it.

    Raises
    ------
    click.UsageError
        If it would be refused
    """
    module, name, *arguments = shlex.split(command.removeprefix("python -m "))
    group = importlib.import_module(f"{module}.__main__").main
    context = click.Context(group, info_name=module)
    found = group.get_command(context, name)
    if found is None:
        raise click.UsageError(f"{module} has no command {name}")
    found.make_context(name, arguments, parent=context)


def test_pythons_are_those_that_are_supported() -> None:
    tests = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["tests"]
    classifiers = metadata.metadata("distributed").get_all("Classifier") or []
    found = (re.search(r":: Python :: (3\.\d+)$", c) for c in classifiers)
    supported = [version[1] for version in found if version]
    assert tests["strategy"]["matrix"]["python"] == supported


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_commands(path: Path) -> None:
    ours = [c for c in commands(path) if "continuous_integration" in c]
    for command in ours:
        parse(command)
    others = {command for command in commands(path) if command} - set(ours)
    extras = metadata.metadata("distributed").get_all("Provides-Extra") or []
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in others:
        assert "\n" not in command, "the logic of a workflow belongs into a command"
        pip = r"python -m pip install --editable '\.\[(\w+)\]'"
        install = re.fullmatch(pip, command)
        if install:
            assert install[1] in extras
        elif command != ".ci/run":
            assert command.replace("python", "build/venv/$bin/python") in script
