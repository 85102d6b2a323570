"""Figures come out of files, which say what they were measured on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from docutils.core import publish_doctree

from continuous_integration.benchmarks import examples
from continuous_integration.benchmarks.examples import MIB
from continuous_integration.figures import __main__, files, pages, prose
from continuous_integration.figures.files import Cell, Figures, write_figures
from continuous_integration.fork import ForkError
from continuous_integration.tests.conftest import ROOT, run
from distributed.rootish.demo import Run

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")


def commit(root: Path, path: str, text: str) -> str:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")
    run(*GIT, "add", "--all", cwd=root)
    run(*GIT, "commit", "--quiet", "--message=Test", cwd=root)
    return run(*GIT, "rev-parse", "HEAD", cwd=root).strip()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small project in git, whose last commit touches no scheduler."""
    monkeypatch.setattr(prose, "ALLOWED", {})
    root = tmp_path / "project"
    root.mkdir()
    run(*GIT, "init", "--quiet", cwd=root)
    shutil.copy(ROOT / "pyproject.toml", root)
    commit(root, "distributed/scheduler.py", "first = 1\n")
    commit(root, "README.md", "A project.\n")
    commit(root, "continuous_integration/upstream/description.md", "A change.\n")
    return root


def write(
    root: Path,
    name: str = "one",
    *,
    about: Sequence[str] = ("distributed",),
    values: Mapping[str, Cell] | None = None,
    rows: Sequence[Sequence[Cell]] = ((1234, "5|6"),),
) -> Figures:
    values = {"moved": "1.2", "tasks": 1000000} if values is None else values
    head = ("tasks", "MB")
    write_figures(name, about=about, values=values, head=head, rows=rows, root=root)
    return files.read(name, root)


def complaints(root: Path) -> str:
    return "\n".join(__main__.wrong(root))


def test_file_says_what_it_was_measured_on(root: Path) -> None:
    figures = write(root)
    first = run(*GIT, "log", "--format=%H", "--", "distributed", cwd=root).strip()
    assert figures.commit == first
    assert figures.clean is True
    assert figures.base in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "Python 3." in figures.machine
    assert first[:9] in figures.source
    assert "not committed" not in figures.source


def test_file_says_that_code_was_not_committed(root: Path) -> None:
    (root / "distributed" / "new.py").touch()
    figures = write(root)
    assert figures.clean is False
    assert "not committed" in figures.source
    [line] = __main__.older(root)
    assert "not committed" in line


def test_file_has_a_row_on_a_line(root: Path) -> None:
    write(root, rows=[[1, "a"], [2, "b"]])
    text = files.path_of("one", root).read_text(encoding="utf-8")
    assert '\n  [1, "a"],\n  [2, "b"]\n' in text
    assert '\n  "moved": "1.2",\n' in text


def test_picture_goes_beside_the_file(root: Path, tmp_path: Path) -> None:
    picture = tmp_path / "one.png"
    picture.write_bytes(b"drawn")
    write_figures("one", about=["distributed"], pictures=[picture], root=root)
    assert (root / files.FOLDER / "one.png").read_bytes() == b"drawn"
    [line] = [line for line in pages.rst(files.read("one", root)) if "image" in line]
    assert line == ".. image:: figures/one.png"


def test_no_figures_without_a_commit(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / ".git")
    with pytest.raises(ForkError):
        write(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "one.json cannot be read"),
        ('{"command": "c"}', "one.json cannot be read"),
        (None, "docs/figures/one.json is missing"),
    ],
)
def test_unreadable(root: Path, text: str | None, message: str) -> None:
    write(root)
    path = files.path_of("one", root)
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ForkError, match=message):
        files.read("one", root)


def test_row_must_fit_the_head(root: Path) -> None:
    with pytest.raises(ForkError, match="cells"):
        write(root, rows=[[1, 2, 3]])


PAGE = """Moved: <!--figure one.moved-->?<!--/figure--> of \
<!--figure one.tasks--><!--/figure-->.

<!--figures one-->
<!--/figures-->

After.
"""


def test_markdown(root: Path) -> None:
    write(root)
    text = pages.markdown(PAGE, root)
    assert "<!--figure one.moved-->1.2<!--/figure--> of" in text
    assert "<!--figure one.tasks-->1,000,000<!--/figure-->." in text
    assert "\n| tasks | MB |\n|---|---|\n| 1,234 | 5\\|6 |\n" in text
    assert text.endswith("<!--/figures-->\n\nAfter.\n")
    assert pages.markdown(text, root) == text


def test_check_of_markdown(root: Path) -> None:
    write(root)
    readme = root / "README.md"
    readme.write_text(PAGE, encoding="utf-8")
    assert complaints(root).startswith("README.md: not as in the files of figures")
    text = pages.markdown(PAGE, root)
    readme.write_text(text, encoding="utf-8")
    assert not complaints(root)
    readme.write_text(text.replace("1.2", "1.3"), encoding="utf-8")
    assert complaints(root).startswith("README.md: not as in the files of figures")
    write(root, values={"tasks": 1})
    assert complaints(root) == "README.md: there is no figure 'moved'"
    files.path_of("one", root).unlink()
    assert complaints(root) == "README.md: docs/figures/one.json is missing"


def test_line_of_markdown_must_not_become_html(root: Path) -> None:
    write(root)
    text = pages.markdown("A line,\n<!--figure one.moved--><!--/figure--> MB\n", root)
    (root / "README.md").write_text(text, encoding="utf-8")
    assert "a line that begins with a figure is HTML" in complaints(root)


def test_check_of_rst(root: Path) -> None:
    write(root)
    page = root / "docs" / "page.rst"
    page.write_text("Moved :figure:`one.moved` MB.\n\n.. figures:: one\n")
    assert not complaints(root)
    page.write_text("Moved :figure:`one.gone` MB.\n\n.. figures:: two\n")
    assert complaints(root).startswith(
        "docs/page.rst: docs/figures/two.json is missing"
    )
    page.write_text("Moved :figure:`one.gone` MB.\n")
    assert complaints(root) == "docs/page.rst: there is no figure 'gone'"
    page.write_text("Write ``:figure:`some.figure```.\n")
    assert complaints(root) == "docs/figures/one.json: no page has it"


def test_rst(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docutils, and so Sphinx, shows what the file has, and knows of the file."""
    write(root)
    monkeypatch.setattr(pages, "figure", lambda text: f"figure {text}")
    monkeypatch.setattr(pages, "read", lambda name: files.read(name, root))
    pages.register()
    page = (
        ":figure:`one.moved`\n\n.. figures:: one\n\n.. figures:: one\n   :no-table:\n"
    )
    tree = publish_doctree(page, settings_overrides={"report_level": 2})
    text = tree.astext()
    assert text.startswith("figure one.moved")
    assert text.count("1,234") == 1
    assert text.count(files.read("one", root).source) == 2
    known = tree.settings.record_dependencies.list
    assert known == [files.path_of("one").as_posix()]


@pytest.mark.parametrize(
    "page", [":figure:`one.gone`\n", ":figure:`gone.x`\n", ".. figures:: gone\n"]
)
def test_rst_without_figures(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    pages.register()
    tree = publish_doctree(page, settings_overrides={"report_level": 5})
    assert [node for node in tree.findall() if node.tagname == "system_message"]


def test_older(root: Path) -> None:
    """What changed since counts, if the figures are about it."""
    commit(root, "continuous_integration/bench.py", "n = 1\n")
    write(root, "bench", about=["continuous_integration/bench.py"])
    write(root, "scheduler")
    write(root, "readme", about=["README.md"])
    assert not list(__main__.older(root))
    commit(root, "distributed/scheduler.py", "second = 2\n")
    [line] = __main__.older(root)
    figures = files.read("scheduler", root)
    assert line.startswith(f"older: scheduler: 1 commits since {figures.commit[:9]}\n")
    assert line.endswith(figures.command)


def test_older_without_history(root: Path, tmp_path: Path) -> None:
    """A shallow clone, or no git at all, gives a line and does not fail."""
    write(root)
    commit(root, "distributed/scheduler.py", "second = 2\n")
    shallow = tmp_path / "shallow"
    run(*GIT, "clone", "--quiet", "--depth=1", root.as_uri(), shallow)
    [line] = __main__.older(shallow)
    assert "does not tell" in line
    assert line.endswith(": one")
    shutil.rmtree(shallow / ".git")
    assert [line] == list(__main__.older(shallow))


@pytest.mark.parametrize(
    "text",
    [
        "It moved 12 MB.",
        "It moved 1,234.5\nMiB.",
        "It took 12 s",
        "It took 3 µs.",
        "5 % more",
        "5% more",
        "is 3 times faster",
        "1.16 to 1.20 of it",
        "a ratio of 0.93.",
        "28.3 → 27.3",
        "91 of 100 chunks",
        "* A list:\n\n  with 12 MB",
    ],
)
@pytest.mark.parametrize("path", ["page.md", "page.rst"])
def test_stray(path: str, text: str) -> None:
    assert list(prose.strays(path, f"Text.\n\n{text}\n"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("page.md", "Version 2026.8.0 on 2026-11-26, 4 workers, #7273"),
        ("page.md", "`12 MB`\n\n```sh\n12 MB\n```\n"),
        ("page.md", "<!--figure a.b-->12<!--/figure--> MB"),
        ("page.md", "<!--figures a-->\n12 MB\n<!--/figures-->"),
        ("page.rst", "``12 MB`` :figure:`a.12 MB` `12 MB <https://example.org>`_"),
        ("page.rst", "Code::\n\n   12 MB\n\n   12 MB\n"),
        ("page.rst", ".. code-block:: none\n\n   12 MB\n"),
        ("page.rst", ".. A comment\n   of 12 MB\n"),
    ],
)
def test_no_stray(path: str, text: str) -> None:
    assert not list(prose.strays(path, text))


def test_stray_after_code() -> None:
    text = "Code::\n\n   12 MB\n\nThen\n12 MB.\n\n.. list-table::\n\n   * - 13 MB\n"
    assert [line.partition(" comes")[0] for line in prose.strays("page.rst", text)] == [
        "page.rst:6: '12 MB'",
        "page.rst:10: '13 MB'",
    ]


def test_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold for one page, and for what stands there; none is idle."""
    allowed = {"page.md": {"limit of 12 MB": "a setting"}}
    monkeypatch.setattr(prose, "ALLOWED", allowed)
    assert not list(prose.strays("page.md", "A limit of\n12 MB."))
    assert len(list(prose.strays("page.md", "A limit of 12 MB, and 12 MB more"))) == 1
    assert len(list(prose.strays("other.md", "A limit of 12 MB"))) == 1
    [line] = prose.strays("page.md", "No limit.")
    assert "'limit of 12 MB' is not there any more" in line


def test_quick_figures_are_made_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root)
    monkeypatch.setattr(__main__, "QUICK", {"one": lambda root: {"moved": "1.2"}})
    page = root / "docs" / "page.rst"
    page.write_text(".. figures:: one\n")
    assert complaints(root).startswith("docs/figures/one.json: it is {'moved'")
    write(root, values={"moved": "1.2"})
    assert not complaints(root)


def test_project_is_in_order() -> None:
    result = CliRunner().invoke(__main__.main, ["check"])
    assert result.exit_code == 0, result.output


def test_commands(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root)
    (root / "README.md").write_text(PAGE, encoding="utf-8")
    for module in (__main__, pages):
        monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(pages.markdown, "__defaults__", (root,))
    invoke = CliRunner().invoke
    assert invoke(__main__.main, ["check"]).exit_code == 1
    assert invoke(__main__.main, ["write"]).output == "README.md written\n"
    assert invoke(__main__.main, ["check"]).exit_code == 0
    assert invoke(__main__.main, ["write"]).output == ""


def test_table_of_the_demo() -> None:
    runs = [
        Run(source, policy, 100 * MIB, 2 * MIB, moved * MIB, 1.0, (), (), np.ones(1))
        for source in ("zarr", "iris")
        for policy in ("producers", "heuristic", "marked")
        for moved in (1, 3, 30)
    ]
    cell = "100 / 2.0 / 3.0"
    assert examples.table(runs) == [["zarr", *[cell] * 3], ["iris", *[cell] * 3]]


def test_table_of_stages() -> None:
    printed = (ROOT / "docs" / "stage_example.txt").read_text(encoding="utf-8")
    head, rows = examples.measured(printed)
    assert head == ["computation", "managed MiB", "process MiB", "seconds"]
    assert [row[0] for row in rows][:2] == ["warm, at once", "warm, in two stages"]
    assert {len(row) for row in rows} == {4}
    assert [float(cell) for row in rows for cell in row[1:]]


def test_what_commands_write_can_be_read(root: Path) -> None:
    """All that is in the folder has the fields of today."""
    for path in (ROOT / files.FOLDER).glob("*.json"):
        figures = files.read(path.stem)
        assert files.dump(figures) == path.read_text(encoding="utf-8")
        assert len(figures.commit) == 40
        for picture in figures.pictures:
            assert path.with_name(picture).is_file()
        assert json.loads(path.read_text(encoding="utf-8"))["command"]
