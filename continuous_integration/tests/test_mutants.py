"""``python -m continuous_integration.mutants``, on a module with two tests."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from continuous_integration.mutants import record
from continuous_integration.mutants.modules import DEFAULT, Module, concerned
from continuous_integration.mutants.mutate import mutants
from continuous_integration.tests.conftest import ROOT

RULE = '''\
"""A rule."""

LIMIT = 4
TWICE = 2 * LIMIT


def grade(x, y=None):
    if x > LIMIT and y is not None:
        return "high"
    return max(x, 1)


def share(x):
    return 4 / x if x else 0
'''

TESTS = """\
from toy.rule import grade, share


def test_high():
    assert grade(5, 1) == "high"


def test_low():
    assert grade(3) == 3
    assert grade(0) == 1


def test_share():
    assert share(0) == 0
"""

#: What `TESTS` do not notice
SURVIVORS = {
    "module: LIMIT halved",
    "grade: `x > LIMIT and y is not None` without `x > LIMIT`",
    "grade: `x > LIMIT and y is not None` without `y is not None`",
    "share: `4 / x if x else 0` is `0`",
}


def changes(source: str) -> dict[str, str]:
    """Return the lines that differ in each mutant, by its name."""
    before = source.splitlines()
    result = {}
    for mutant in mutants("rule.py", source):
        after = mutant.apply(source)
        ast.parse(after)
        new = [line.strip() for line in after.splitlines() if line not in before]
        result[mutant.name] = "\n".join(new)
    return result


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "def f():\n    if x > 1:\n        pass\n    elif y:\n        pass\n",
            {
                "f: `x > 1` never": "if (False):",
                "f: `x > 1` always": "if (True):",
                "f: `y` never": "elif (False):",
                "f: `y` always": "elif (True):",
            },
        ),
        ("while x:\n    pass\n", {"module: `x` never": "while (False):"}),
        (
            "class A:\n    def f(self):\n        return a and (b or c)\n",
            {
                "A.f: `a and (b or c)` without `a`": "return ((b or c))",
                "A.f: `a and (b or c)` without `b or c`": "return ((a))",
                "A.f: `b or c` without `b`": "return a and (((c)))",
                "A.f: `b or c` without `c`": "return a and (((b)))",
            },
        ),
        (
            "x = 'é', a if b else c\n",
            {
                "module: `a if b else c` is `a`": "x = 'é', (a)",
                "module: `a if b else c` is `c`": "x = 'é', (c)",
            },
        ),
        ("x = [a for a in b if c]\n", {"module: `c` always": None}),
        (
            "x = (\n    min(a, *b),\n    max(c, default=0),\n    max(d, e),\n)\n",
            {
                "module: `min(a, *b)` without `a`": "(min(*b)),",
                "module: `min(a, *b)` without `*b`": "(a),",
                "module: `max(c, default=0)` without `default=0`": "(max(c)),",
                "module: `max(d, e)` without `d`": "(e),",
                "module: `max(d, e)` without `e`": "(d),",
            },
        ),
        (
            "A = 2**10\nclass B:\n    C: float = 0.5\n    d = 4\nE = 2 * A\nF = True\n",
            {
                "module: A halved": "A = (512)",
                "module: A doubled": "A = (2048)",
                "B: C halved": "C: float = (0.25)",
                "B: C doubled": "C: float = (1.0)",
            },
        ),
        (
            "def f():\n    if x:\n        pass\n    if x:\n        assert y or z\n",
            {
                "f: `x` never": None,
                "f: `x` always": None,
                "f: `x` never #2": None,
                "f: `x` always #2": None,
            },
        ),
        ("if TYPE_CHECKING:\n    import a\nf'{a or b}'\n", {}),
    ],
)
def test_mutants(source: str, expected: dict[str, str | None]) -> None:
    found = changes(source)
    assert set(found) == set(expected)
    for name, lines in expected.items():
        assert lines is None or found[name] == lines


def test_clause_on_several_lines() -> None:
    source = "x = (\n    a\n    and b\n)\n"
    [without_a, _] = mutants("rule.py", source)
    assert (without_a.first, without_a.last) == (2, 3)
    assert ast.unparse(ast.parse(without_a.apply(source))) == "x = b"


# -- This project --------------------------------------------------------------------


@pytest.mark.parametrize("path", DEFAULT)
def test_modules_that_are_looked_at(path: str) -> None:
    """Each mutant can be imported, and has a name of its own."""
    module = Module(ROOT, path)
    assert len({mutant.key for mutant in module.mutants}) == len(module.mutants)
    for mutant in module.mutants:
        assert mutant.apply(module.source) != module.source
    for mutant in module.mutants[::10]:
        ast.parse(mutant.apply(module.source))


def test_lines_of_a_partial_module() -> None:
    """A clause is where the merged module has it."""
    module = Module(ROOT, "distributed/scheduler.py")
    text = module.text.splitlines()
    for mutant in module.mutants:
        [lines] = concerned(mutant, [module]).values()
        here = module.source.splitlines()[mutant.first - 1 : mutant.last]
        assert [text[n - 1] for n in sorted(lines)] == here
    mutant = module.mutants[0]
    assert module.merged(mutant.apply(module.source)) != module.text


# -- A module with two tests ---------------------------------------------------------

if not hasattr(os, "fork"):
    pytest.skip("mutants need processes that fork", allow_module_level=True)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "toy").mkdir(parents=True)
    (root / "toy" / "__init__.py").touch()
    (root / "toy" / "rule.py").write_text(RULE)
    (root / "test_rule.py").write_text(TESTS)
    # As here
    conftest = "def pytest_configure(config):\n    import toy.rule\n"
    (root / "conftest.py").write_text(conftest)
    (root / "survivors.json").write_text("{}")
    return root


def run(root: Path, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = (
        *(sys.executable, "-m", "continuous_integration.mutants", "toy/rule.py"),
        *(f"--root={root}", f"--listed={root / 'survivors.json'}", "--tests=.", "-j1"),
    )
    foreign = ("PYTEST_", "PYTHON", "DASK_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    result = subprocess.run(
        [*command, *options],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result


def outcomes(root: Path, *options: str, code: int = 0) -> dict[str, Any]:
    rows = json.loads(run(root, "--json", *options, code=code).stdout)
    return {row["mutant"].removeprefix("toy/rule.py "): row for row in rows}


def test_survivors(toy: Path) -> None:
    found = outcomes(toy, code=1)
    assert len(found) == 10
    assert {name for name, row in found.items() if not row["noticed"]} == SURVIVORS
    row = found["grade: `max(x, 1)` without `1`"]
    # Only what runs the line is tried
    assert (row["noticed"], row["how"], row["tests"]) == (
        "test_rule.py::test_low",
        "fails",
        1,
    )
    # Those with a reason may survive
    listed = toy / "survivors.json"
    listed.write_text(json.dumps({f"toy/rule.py {n}": "Why not" for n in SURVIVORS}))
    output = run(toy).stdout
    assert "4 survive, 4 of them listed with a reason" in output
    # An empty reason is none
    listed.write_text(json.dumps({f"toy/rule.py {n}": "" for n in SURVIVORS}))
    run(toy, code=1)


def test_listed_in_vain(toy: Path) -> None:
    doubled = "toy/rule.py module: LIMIT doubled"
    keys = {
        "toy/rule.py grade: gone": "No such clause",
        doubled: "Noticed",
        "toy/other.py grade: gone": "Not looked at",
    }
    (toy / "survivors.json").write_text(json.dumps(keys))
    lines = run(toy, "--grep=LIMIT doubled").stdout.splitlines()
    assert lines[:2] == [
        "toy/rule.py grade: gone: listed, but there is no such mutant",
        f"{doubled}: listed, but test_rule.py::test_high notices",
    ]
    assert lines[2].startswith("1 mutants: 1 are noticed")


FATAL = """\
import os


def rule(x):
    while True:
        if x < 1:
            break
        x -= 1
    return os.kill(os.getpid(), 9) if x else 1
"""


@pytest.mark.parametrize(
    ("mutant", "how"),
    [("`x < 1` never", "hangs"), ("is `os.kill", "dies")],
)
def test_fatal_mutants(toy: Path, mutant: str, how: str) -> None:
    """What neither passes nor fails is noticed as well."""
    (toy / "toy" / "rule.py").write_text(FATAL)
    test = "from toy.rule import rule\n\ndef test_rule():\n    assert rule(2)\n"
    (toy / "test_rule.py").write_text(test)
    [row] = outcomes(toy, f"--grep={mutant}", "--patience=3").values()
    assert (row["noticed"], row["how"]) == ("test_rule.py::test_rule", how)


def test_tests_that_fail_without_a_mutant(toy: Path) -> None:
    (toy / "conftest.py").write_text(
        "import os\n\ndef pytest_runtest_setup(item):\n"
        "    assert 'PYTEST_DISABLE_PLUGIN_AUTOLOAD' not in os.environ\n"
    )
    assert "without a mutant" in run(toy, code=1).stderr


def test_change(toy: Path) -> None:
    """Only what stands on lines that have changed is tried."""
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "-qm", "Toy"]):
        subprocess.run([*git, *arguments], cwd=toy, check=True)
    assert run(toy, "--change=HEAD").stdout == "No mutants\n"
    rule = toy / "toy" / "rule.py"
    rule.write_text(RULE.replace("max(x, 1)", "max(x, 1, 1)"))
    found = outcomes(toy, "--change=HEAD", code=1)
    assert set(found) == {
        "grade: `max(x, 1, 1)` without `x`",
        "grade: `max(x, 1, 1)` without `1`",
        "grade: `max(x, 1, 1)` without `1` #2",
    }
    assert "bad revision" in run(toy, "--change=nowhere", code=1).stderr


def test_limit(toy: Path) -> None:
    """What is left out is said."""
    output = run(toy, "--limit=0").stdout
    assert "0 mutants" in output
    assert "10 more were left out, for lack of time" in output


def test_limit_of_tests(toy: Path) -> None:
    """Mutants survive only if there is nothing left to try."""
    output = run(toy, "--seconds=0", "--grep=LIMIT halved").stdout
    assert "1 mutants: 0 are noticed, 0 survive" in output
    assert "1 pass the tests that there was time for" in output


def test_records_are_kept(toy: Path) -> None:
    run(toy, "--grep=LIMIT doubled")
    [file] = (toy / record.FOLDER).iterdir()
    run(toy, "--grep=LIMIT doubled")
    assert [*(toy / record.FOLDER).iterdir()] == [file]
    # What has changed is run again
    (toy / "test_rule.py").write_text(TESTS.replace("grade(5, 1)", "grade(9, 1)"))
    run(toy, "--grep=LIMIT doubled", code=1)
    assert [*(toy / record.FOLDER).iterdir()] != [file]
