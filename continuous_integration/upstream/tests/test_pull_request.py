"""``python -m continuous_integration.upstream pull-request``, on a made-up checkout."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from continuous_integration.figures.files import read
from continuous_integration.fork import ForkError
from continuous_integration.fork.base import available_base
from continuous_integration.fork.project import read_project
from continuous_integration.fork.tree import VERSION_FILE
from continuous_integration.upstream import (
    __main__,
    contribution,
    linters,
    pull_request,
)
from continuous_integration.upstream.markdown import sections
from continuous_integration.upstream.partial_pages import (
    Piece,
    merge_page,
    read_pieces,
)

ROOT = pull_request.ROOT
BRANCH = "rootish-by-data"
PAGE = "docs/source/policies.rst"
SCHEDULER = "distributed/scheduler.py"

PAGE_TEXT = """\
Policies
========

The first paragraph.

.. _apples:

Apples
------

Apples grow on trees.

1. Red ones are
   sweet.
2. Green ones are sour.

Pears
-----

Pears do, too.
"""

PARTIAL_PAGE = """\
.. A partial page.

.. section: Apples
   replaces: 43e4084f
   which: the item on sweet apples

1. Red ones were sweet.

.. section: Policies

A new paragraph.
"""

PYPROJECT = """\
[project]
name = "distributed"

[tool.ruff]
line-length = 88

[tool.ruff.lint]
select = ["F", "I"]

[tool.ruff.lint.isort]
section-order = ["future", "standard-library", "third-party", "x", "first-party"]

[tool.ruff.lint.isort.sections]
x = ["dask"]
"""

HOOKS = """\
repos:
  - repo: https://example.org/ruff
    rev: v1.2.3
    hooks:
      - id: ruff-check
        args: [--fix, --quiet]
      - id: ruff-format
  - repo: https://example.org/other
    rev: 4
    hooks:
      - id: other
  - repo: https://example.org/types
    rev: v5
    hooks:
      - id: mypy
        additional_dependencies: ["click", "git+https://example.org/dask/zict"]
"""


def git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    return result.stdout.strip()


def commit(folder: Path, message: str = "Change") -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", f"--message={message}")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with the base's package, and a page that we made up."""
    folder = tmp_path_factory.mktemp("prepared") / "upstream"
    base = available_base(read_project(ROOT))
    for path in base.paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(base.root / path, folder / path)
    (folder / PAGE).parent.mkdir(parents=True)
    (folder / PAGE).write_text(PAGE_TEXT)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / linters.CONFIG).write_text(HOOKS)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "A Tester")
    git(folder, "config", "user.email", "tester@example.org")
    commit(folder, "Start")
    return folder


def copied(prepared: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that repository, and let its page have a partial page."""
    (folder / "pages").mkdir()
    (folder / "pages" / Path(PAGE).name).write_text(PARTIAL_PAGE)
    monkeypatch.setattr(pull_request, "PAGES", folder / "pages")
    (folder / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    return shutil.copytree(prepared, folder / "upstream", symlinks=True)


@pytest.fixture
def checkout(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout for the command to work on."""
    return copied(prepared, tmp_path, monkeypatch)


class Made(NamedTuple):
    """What the command made, and the state of the checkout before and after."""

    checkout: Path
    output: str
    description: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@pytest.fixture(scope="module")
def made(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a checkout with the branch, which is checked out in the end."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as monkeypatch:
        checkout = copied(prepared, folder, monkeypatch)
        before = state(checkout)
        output = run(checkout)
        after = state(checkout)
        assert not list((folder / "temporary").iterdir())
    git(checkout, "checkout", "--quiet", BRANCH)
    description = (folder / "made" / "description.md").read_text(encoding="utf-8")
    return Made(checkout, output, description, before, after)


def run(checkout: Path, *options: str, code: int = 0) -> str:
    description = checkout.parent / "made" / "description.md"
    arguments = ["pull-request", str(checkout), f"--description={description}"]
    result = CliRunner().invoke(__main__.main, [*arguments, *options])
    assert result.exit_code == code, result.output
    return result.output


def state(checkout: Path) -> tuple[str, ...]:
    """Everything that must not change: what is checked out, branches, work trees."""
    return (
        git(checkout, "rev-parse", "--abbrev-ref", "HEAD"),
        git(checkout, "for-each-ref"),
        git(checkout, "status", "--porcelain"),
        git(checkout, "worktree", "list"),
    )


def refused(checkout: Path, *options: str) -> str:
    """Run the command, which has to fail and to leave nothing behind."""
    before = state(checkout)
    output = run(checkout, *options, code=1)
    message = output[output.index("Error: ") :]
    assert state(checkout) == before
    assert not list((checkout.parent / "temporary").iterdir())
    assert not (checkout.parent / "made" / "description.md").exists()
    return message


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_branch(made: Made) -> None:
    """It has two commits. What was checked out, and how, is as it was."""
    head, _, *rest = made.before
    now, _, *others = made.after
    assert (now, others) == (head, rest)
    log = git(made.checkout, "log", "--format=%an %s", f"main..{BRANCH}").split("\n")
    assert [line.split()[:3] for line in log] == [
        ["A", "Tester", "Document"],
        ["A", "Tester", "Decide"],
    ]
    changed = git(made.checkout, "diff", "--name-only", "main", BRANCH).split("\n")
    assert VERSION_FILE not in changed
    assert set(changed) == {
        "distributed/client.py",
        "distributed/rootish/backpressure.py",
        "distributed/rootish/families.py",
        "distributed/rootish/lanes.py",
        "distributed/rootish/queue.py",
        "distributed/dashboard/components/rootish.py",
        "distributed/dashboard/scheduler.py",
        "distributed/dashboard/tests/test_rootish_bokeh.py",
        "distributed/diagnostics/memory_recorder.py",
        "distributed/distributed-schema.yaml",
        "distributed/distributed.yaml",
        "distributed/http/scheduler/prometheus/core.py",
        "distributed/http/scheduler/prometheus/rootish.py",
        "distributed/http/scheduler/tests/test_rootish_http.py",
        "distributed/rootish/__init__.py",
        "distributed/rootish/apart.py",
        "distributed/rootish/policy.py",
        "distributed/rootish/explanation.py",
        "distributed/rootish/handles.py",
        "distributed/rootish/history.py",
        "distributed/rootish/loading.py",
        "distributed/rootish/monitor.py",
        "distributed/rootish/prediction.py",
        "distributed/rootish/simulation.py",
        "distributed/rootish/sizes.py",
        "distributed/rootish/tables.py",
        "distributed/scheduler.py",
        "distributed/stealing.py",
        "distributed/rootish/tests/__init__.py",
        "distributed/rootish/tests/utils.py",
        "distributed/rootish/tests/paper.py",
        "distributed/rootish/tests/test_apart.py",
        "distributed/rootish/tests/test_backpressure.py",
        "distributed/rootish/tests/test_families.py",
        "distributed/rootish/tests/test_queue.py",
        "distributed/rootish/tests/test_restrictions.py",
        "distributed/rootish/tests/test_policy.py",
        "distributed/rootish/tests/test_explanation.py",
        "distributed/rootish/tests/test_handles.py",
        "distributed/rootish/tests/test_history.py",
        "distributed/rootish/tests/test_monitor.py",
        "distributed/rootish/tests/test_tables.py",
        "distributed/rootish/tests/test_prediction.py",
        "distributed/rootish/tests/test_simulation.py",
        "distributed/rootish/tests/test_sizes.py",
        PAGE,
    }
    pages = git(made.checkout, "diff", "--name-only", f"{BRANCH}^", BRANCH)
    assert pages == PAGE
    text = (made.checkout / PAGE).read_text()
    assert "\n\n1. Red ones were sweet.\n2. Green" in text
    assert "paragraph.\n\nA new paragraph.\n\n.. _apples:" in text


def test_counts(made: Made) -> None:
    """They are those of git, and are in the description, too."""
    for title, kind in (
        ("files of upstream that change", "M"),
        ("files that are added", "A"),
    ):
        stat = git(
            *(made.checkout, "diff", "--shortstat"),
            *(f"--diff-filter={kind}", "main", BRANCH),
        )
        files, added, removed = (*re.findall(r"\d+", stat), "0")[:3]
        assert f" {title} {files} {added} {removed} " in " ".join(made.output.split())
    assert made.output.split("\n\n")[0] in made.description
    assert git(made.checkout, "rev-parse", "main") in made.description


def test_files_are_as_upstream_writes_them(made: Made) -> None:
    """Its own settings of ruff find nothing in what is new."""
    diff = ("diff", "--name-only", "--diff-filter=A", "main", BRANCH)
    new = git(made.checkout, *diff).split("\n")
    for command in (["check"], ["format", "--check"]):
        subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *new],
            cwd=made.checkout,
            check=True,
        )
    for path in (made.checkout / "distributed").rglob("tests/*.py"):
        text = path.read_text(encoding="utf-8")
        assert "hypothesis" not in text
        skip = text.find('\npytest.importorskip("numpy")\n')
        for line in ("import numpy", "import dask.array"):
            assert line not in text[:skip]


def test_what_is_there_needs_nothing_that_is_left_out(made: Made) -> None:
    out = {Path(path).stem for path in contribution.LEFT_OUT if "::" not in path}
    for path in (made.checkout / "distributed").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
                assert not out & {*names, *(node.module or "").split(".")}


def test_description_has_what_was_measured(made: Made) -> None:
    text = made.description
    for row in read("compare").rows:
        assert f"| {' | '.join(map(str, row))} |" in text
    for section in sections(ROOT / "docs" / "results.rst"):
        assert section.title in text
        assert section.text in text
    assert "$" not in text
    assert ":doc:" not in text


def test_what_is_left_out_must_be_there(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = "distributed/rootish/tests/test_policy.py"
    monkeypatch.setitem(contribution.LEFT_OUT, "distributed/gone.py", "why")
    assert "distributed/gone.py" in refused(checkout)
    monkeypatch.delitem(contribution.LEFT_OUT, "distributed/gone.py")
    monkeypatch.setitem(contribution.LEFT_OUT, f"{tests}::test_gone", "why")
    assert "test_gone is to be left out" in refused(checkout)


def test_conflict(checkout: Path) -> None:
    """A definition that changed is named, and shown as it was and as it is."""
    edit(
        checkout / SCHEDULER,
        "\n    def get_nbytes(self) -> int:\n",
        "\n    def get_nbytes(self) -> float:\n",
    )
    commit(checkout)
    message = refused(checkout)
    assert "TaskState.get_nbytes" in message.split("\n")[0]
    assert "is_rootish" not in message
    assert "\n-    def get_nbytes(self) -> int:\n" in message
    assert "\n+    def get_nbytes(self) -> float:\n" in message
    assert f" of {read_project(ROOT).base}\n" in message


def test_definition_is_gone(checkout: Path) -> None:
    edit(checkout / SCHEDULER, "\n    def is_rootish(", "\n    def is_initial(")
    commit(checkout)
    assert "has no SchedulerState.is_rootish" in refused(checkout)


def test_setting_is_there(checkout: Path) -> None:
    path = checkout / "distributed/distributed.yaml"
    line = "    rootish-taskgroup: 5"
    edit(path, line, f"    rootish-policy: 1\n{line}")
    commit(checkout)
    assert "already has distributed.scheduler.rootish-policy" in refused(checkout)


def test_place_in_a_page_is_gone(checkout: Path) -> None:
    edit(checkout / PAGE, "sweet.", "sweet or not.")
    commit(checkout)
    message = refused(checkout)
    assert f'{PAGE}: section "Apples": the item on sweet apples' in message
    assert "is not there" in message
    assert " 06116b47 2. Green ones are sour." in message
    git(checkout, "rm", "--quiet", PAGE)
    commit(checkout)
    assert f"{PAGE}: upstream has no such page" in refused(checkout)


def test_description_cannot_be_written(checkout: Path) -> None:
    (checkout.parent / "made").write_text("a file")
    before = state(checkout)
    run(checkout, code=1)
    assert state(checkout) == before


def test_refusals(checkout: Path, tmp_path: Path) -> None:
    """One line says why, and nothing is made."""
    assert "is inside of the checkout" in run(checkout / "distributed", code=1)
    assert "is not a git checkout" in run(tmp_path / "pages", code=1)
    assert "no distributed/__init__.py" in run(ROOT, code=1)
    assert "cannot be the name" in refused(checkout, "--branch=a..b")
    with (checkout / SCHEDULER).open("a") as file:
        file.write("\n")
    assert f"is not clean (M {SCHEDULER})" in refused(checkout)


def test_not_upstream(checkout: Path) -> None:
    git(checkout, "rm", "--quiet", SCHEDULER)
    commit(checkout)
    assert f"is not a checkout of upstream: it has no {SCHEDULER}" in refused(checkout)


def test_branch_exists(checkout: Path) -> None:
    git(checkout, "branch", "mine")
    assert "has a branch mine" in refused(checkout, "--branch=mine")
    run(checkout, "--branch=mine", "--force")
    assert git(checkout, "log", "--format=%s", "main..mine").count("\n") == 1
    git(checkout, "checkout", "--quiet", "mine")
    assert "has distributed/dashboard/components/rootish.py already" in run(
        checkout, code=1
    )
    git(checkout, "reset", "--quiet", "--hard", "main")
    shutil.rmtree(checkout.parent / "made")
    assert "is checked out" in refused(checkout, "--branch=mine", "--force")


def test_environment_of_a_git_hook(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkout that was named counts, not the one that git works on."""
    monkeypatch.setenv("GIT_DIR", os.devnull)
    monkeypatch.setenv("GIT_INDEX_FILE", os.devnull)
    output = run(checkout)
    assert f"branch {BRANCH} in {checkout}" in output


def test_check(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks run on the files of the branch; what they find stops it."""
    monkeypatch.setattr(linters, "_environment", lambda *_: Path(sys.executable))
    monkeypatch.setitem(linters.TOOLS, "mypy", ("mypy", ["platform"]))
    output = run(checkout, "--check")
    for line in (
        "ruff-check 1.2.3: passed on 43 files",
        "ruff-format 1.2.3: passed on 43 files",
        "other 4: not run, it is not known here",
        "mypy 5: passed on 43 files",
    ):
        assert f"\n{line}\n" in output
    git(checkout, "branch", "--delete", "--force", BRANCH)
    shutil.rmtree(checkout.parent / "made")
    edit(checkout / "pyproject.toml", '["F", "I"]', '["F", "I", "S101"]')
    commit(checkout)
    assert "ruff-check 1.2.3 finds fault:" in refused(checkout, "--check")


def test_hooks(tmp_path: Path) -> None:
    (tmp_path / linters.CONFIG).write_text(HOOKS)
    check, form, other, types = linters.read_hooks(tmp_path)
    assert check.requirements == form.requirements == ("ruff==1.2.3",)
    assert "--fix" not in check.arguments
    assert check.arguments[-1] == "--quiet"
    assert not other.arguments
    assert types.requirements == ("mypy==5", "click", "zict")
    assert not re.search(types.files, "docs/page.rst")
    (tmp_path / linters.CONFIG).write_text("repos: 1\n")
    with pytest.raises(ForkError, match="cannot be read"):
        linters.read_hooks(tmp_path)


def test_markdown(tmp_path: Path) -> None:
    page = tmp_path / "page.rst"
    page.write_text(
        "Page\n====\n\nFirst\n-----\n\nA ``literal`` and a `link\n"
        "<https://example.org>`_, see :doc:`other`::\n\n    code\n\n"
        "* one\n* two,\n  three\n\n.. code-block:: sh\n\n   ls\n\n"
        "Second\n------\n\n.. image:: plot.png\n\n.. csv-table::\n   :header-rows: 1\n"
        "\n   a,b\n   1,2|3\n"
    )
    assert sections(page) == [
        (
            "First",
            "A `literal` and a [link](https://example.org), see *other*:\n\n"
            "```\ncode\n```\n\n- one\n- two, three\n\n```sh\nls\n```",
        ),
        ("Second", "| a | b |\n|---|---|\n| 1 | 2\\|3 |"),
    ]
    page.write_text("Page\n====\n\nFirst\n-----\n\n:a: field\n")
    with pytest.raises(ForkError, match="no Markdown is known for field_list"):
        sections(page)
    page.write_text("Page\n====\n\nFirst\n-----\n\n:unknown:`role`\n")
    with pytest.raises(ForkError, match=r"page\.rst cannot be read"):
        sections(page)


def test_partial_pages_of_this_project() -> None:
    """Each piece can be read. Whether it fits, upstream's page alone can tell."""
    partial = list((Path(pull_request.__file__).parent / "docs").glob("*.rst"))
    assert partial
    for path in partial:
        assert read_pieces(path.read_text(encoding="utf-8"), path.name)


def merged(*pieces: str) -> str:
    return merge_page("page", PAGE_TEXT, read_pieces("\n\n".join(pieces), "partial"))


def test_end_of_a_section() -> None:
    """Text goes before the label of the next section, in order, and stays as it is."""
    text = merged(
        ".. section: Policies\n\nOne.\n\n    Two.\n\n",
        ".. section: Policies\n\nThree.",
    )
    new = "first paragraph.\n\nOne.\n\n    Two.\n\nThree.\n\n.. _apples:"
    assert text == PAGE_TEXT.replace("first paragraph.\n\n.. _apples:", new)


def test_paragraphs() -> None:
    """They are known by their words, and items of a list are paragraphs."""
    piece = ".. section: Apples\n   {}\n   which: it\n\nNew."
    first, item, other = "3a747a0c", "43e4084f", "06116b47"
    assert merged(piece.format(f"replaces: {first}")) == PAGE_TEXT.replace(
        "Apples grow on trees.", "New."
    )
    assert merged(piece.format(f"replaces: {first} {item} {other}")) == re.sub(
        r"Apples grow.*sour\.", "New.", PAGE_TEXT, flags=re.DOTALL
    )
    assert merged(piece.format(f"after: {item}")) == PAGE_TEXT.replace(
        "   sweet.\n", "   sweet.\n\nNew.\n\n"
    )
    wrapped = PAGE_TEXT.replace("are\n   sweet", "are sweet")
    pieces = [Piece("Apples", "replaces", (item,), "it", ["1. New."])]
    assert "\n1. New.\n2." in merge_page("page", wrapped, pieces)
    with pytest.raises(ForkError, match=r"it \(00000000\) is not there"):
        merged(piece.format("after: 00000000"))
    with pytest.raises(ForkError, match="is not there"):
        merged(piece.format(f"replaces: {first} {other}"))  # one is between them
    with pytest.raises(ForkError, match="replaced twice"):
        merged(*[piece.format(f"replaces: {first}")] * 2)


@pytest.mark.parametrize(
    "text",
    [
        "Text.",
        ".. section: Apples",
        ".. section: Apples\n   after: a b\n   which: it\n\nNew.",
        ".. section: Apples\n   after: a\n   replaces: b\n   which: it\n\nNew.",
        ".. section: Apples\n   after: a\n\nNew.",
        ".. section: Apples\n   replaces:\n   which: it\n\nNew.",
        ".. section: Apples\n   which: it\n\nNew.",
        ".. section: Apples\n   before: a\n   which: it\n\nNew.",
    ],
)
def test_bad_partial_page(text: str) -> None:
    with pytest.raises(ForkError, match=r"^partial"):
        read_pieces(text, "partial")


def test_section_is_not_there() -> None:
    with pytest.raises(ForkError, match='has no sections "Plums"'):
        merged(".. section: Plums\n\nNew.")


def test_without() -> None:
    text = "a = 1\n\n\n# Of f\n@d\ndef f():\n    pass\n\n\nb = 2\n"
    assert contribution.without("f", text, "m") == "a = 1\n\n\nb = 2\n"
