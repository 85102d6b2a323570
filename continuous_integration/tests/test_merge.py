"""Merging of modules, on small synthetic ones."""

from __future__ import annotations

import re
from typing import cast

import pytest

from continuous_integration.fork import ForkError
from continuous_integration.fork.merge import changed_names, merge_module
from continuous_integration.fork.project import HOWS, Entry
from continuous_integration.fork.syntax import Source, find, fingerprint

PATH = "distributed/example.py"

BASE = '''\
"""The module of the base."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from distributed.core import rpc
from distributed.utils import log

if TYPE_CHECKING:
    from distributed.client import Client

TABLE = {}  # a comment of the base


class State:
    """Docstring of the base."""

    #: Documented
    first: int

    __slots__ = tuple(__annotations__)

    def __init__(self, first: int,
                 **kwargs):
        # oddly   formatted
        self.first   =   first
        if kwargs:
            self.first = 0
        # behind the last statement

    @property
    def size(self):
        return 1

    @size.setter
    def size(self, value):
        pass

    @log
    def decide(self, ts):
        return ts

    async def later(self):
        return None


class Plain:
    pass


def helper(a, b=1):
    return a
'''


def merge(ours: str, declared: dict[str, dict[str, str]], base: str = BASE) -> str:
    """Merge with the right fingerprints."""
    source = Source(base, PATH)
    entries = {}
    for name, given in declared.items():
        entry = cast(Entry, {"why": "it is a test", **given})
        nodes = find(source.tree.body, name)
        if HOWS[entry["how"]] and nodes:
            entry.setdefault("base", [fingerprint(nodes)])
        entries[name] = entry
    return merge_module(PATH, base, f'"""Partial module."""\n{ours}', entries)


def expect(*changes: tuple[str, str]) -> str:
    """Return the base with parts of its text replaced."""
    text = BASE
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_nothing_changes_nothing() -> None:
    assert merge("from __future__ import annotations\n", {}) == BASE


def test_replace() -> None:
    merged = merge(
        "class State:\n"
        "    # why\n"
        "    @other\n"
        "    def decide(self, ts):\n"
        "        return None  # ours\n",
        {"State.decide": {"how": "replaces"}},
    )
    assert merged == expect(
        (
            "    @log\n    def decide(self, ts):\n        return ts\n",
            "    # why\n"
            "    @other\n"
            "    def decide(self, ts):\n"
            "        return None  # ours\n",
        )
    )


def test_replace_and_keep() -> None:
    merged = merge(
        "class State:\n    def decide(self, ts):\n        return self._decide(ts)\n",
        {"State.decide": {"how": "replaces", "keeps": "_decide"}},
    )
    assert merged == expect(
        (
            "    def decide(self, ts):\n        return ts\n",
            "    def _decide(self, ts):\n        return ts\n"
            "\n"
            "    def decide(self, ts):\n        return self._decide(ts)\n",
        )
    )


def test_replace_and_keep_coroutine() -> None:
    merged = merge(
        "class State:\n    async def later(self):\n        await self._later()\n",
        {"State.later": {"how": "replaces", "keeps": "_later"}},
    )
    assert merged == expect(
        (
            "    async def later(self):\n        return None\n",
            "    async def _later(self):\n        return None\n"
            "\n"
            "    async def later(self):\n        await self._later()\n",
        )
    )


def test_replace_function_variable_and_class() -> None:
    merged = merge(
        "TABLE = {1: 2}\n\n\nclass Plain:\n    x = 1\n\n\ndef helper():\n    pass\n",
        {name: {"how": "replaces"} for name in ("TABLE", "Plain", "helper")},
    )
    assert merged == expect(
        ("TABLE = {}  # a comment of the base", "TABLE = {1: 2}"),
        ("class Plain:\n    pass", "class Plain:\n    x = 1"),
        ("def helper(a, b=1):\n    return a", "def helper():\n    pass"),
    )


def test_extend() -> None:
    merged = merge(
        "class State:\n"
        "    def __init__(self, first):\n"
        '        """Dropped."""\n'
        "        # ours\n"
        "        self.second = (\n"
        "            first)\n",
        {"State.__init__": {"how": "extends"}},
    )
    assert merged == expect(
        (
            "            self.first = 0\n",
            "            self.first = 0\n"
            "        # ours\n"
            "        self.second = (\n"
            "            first)\n",
        )
    )


def test_add_methods_and_annotations() -> None:
    merged = merge(
        "class State:\n"
        '    """Dropped."""\n'
        "\n"
        "    #: One\n"
        "    #: or two\n"
        "    second: int\n"
        "    third: int\n"
        "\n"
        "    def last(self):\n"
        "        pass\n"
        "\n"
        "    def beside(self):\n"
        "        pass\n"
        "\n"
        "\n"
        "class Plain:\n"
        "    x: int\n",
        {
            "State.second": {"how": "adds"},
            "State.third": {"how": "adds"},
            "State.last": {"how": "adds"},
            "State.beside": {"how": "adds", "after": "size"},
            "Plain.x": {"how": "adds"},
        },
    )
    assert merged == expect(
        (
            "    __slots__ =",
            "    #: One\n    #: or two\n    second: int\n\n"
            "    third: int\n\n    __slots__ =",
        ),
        (
            "    def size(self, value):\n        pass\n",
            "    def size(self, value):\n        pass\n"
            "\n"
            "    def beside(self):\n        pass\n",
        ),
        (
            "    async def later(self):\n        return None\n",
            "    async def later(self):\n        return None\n"
            "\n"
            "    def last(self):\n        pass\n",
        ),
        ("class Plain:\n    pass", "class Plain:\n    x: int\n\n    pass"),
    )


def test_add_to_module() -> None:
    merged = merge(
        "LIMIT = 1\n\n\nclass New:\n    pass\n\n\ndef after_state():\n    pass\n",
        {
            "LIMIT": {"how": "adds"},
            "New": {"how": "adds"},
            "after_state": {"how": "adds", "after": "State"},
        },
    )
    assert merged == expect(
        (
            "    from distributed.client import Client\n",
            "    from distributed.client import Client\n\nLIMIT = 1\n",
        ),
        (
            "    async def later(self):\n        return None\n",
            "    async def later(self):\n        return None\n"
            "\n\n"
            "def after_state():\n    pass\n",
        ),
        ("    return a\n", "    return a\n\n\nclass New:\n    pass\n"),
    )


def test_append_statement() -> None:
    merged = merge(
        "TABLE['a'] = 1\n\nclass Plain:\n    register(1)\n",
        {
            "TABLE['a'] = 1": {"how": "appends", "after": "TABLE"},
            "Plain.register(1)": {"how": "appends"},
        },
    )
    assert merged == expect(
        (
            "TABLE = {}  # a comment of the base\n",
            "TABLE = {}  # a comment of the base\nTABLE['a'] = 1\n",
        ),
        (
            "class Plain:\n    pass\n",
            "class Plain:\n    pass\n\n    register(1)\n",
        ),
    )


def test_imports() -> None:
    merged = merge(
        "from __future__ import annotations\n"
        "import os\n"
        "import sys\n"
        "from typing import TYPE_CHECKING, Any\n"
        "from distributed.rootish import policy\n"
        "if TYPE_CHECKING:\n"
        "    from distributed.worker import Worker\n",
        {},
    )
    assert merged == expect(
        (
            "from typing import TYPE_CHECKING\n",
            "from typing import TYPE_CHECKING\nfrom typing import Any\n",
        ),
        (
            "from distributed.core import rpc\n",
            "from distributed.core import rpc\n"
            "from distributed.rootish import policy\n",
        ),
        (
            "    from distributed.client import Client\n",
            "    from distributed.client import Client\n"
            "    from distributed.worker import Worker\n",
        ),
        (
            "from distributed.utils import log\n",
            "from distributed.utils import log\nimport sys\n",
        ),
    )


def test_type_checking_block_is_made() -> None:
    merged = merge(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import os\n",
        {},
        base="import sys\n\nx = 1\n",
    )
    assert merged == (
        "import sys\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n"
        "    import os\n\nx = 1\n"
    )


def test_new_package_in_type_checking_block() -> None:
    merged = merge(
        "if TYPE_CHECKING:\n    from ours import a\n    from ours.inner import b\n",
        {},
        base="if TYPE_CHECKING:\n    from typing import Any\n\nx = 1\n",
    )
    assert merged == (
        "if TYPE_CHECKING:\n    from typing import Any\n\n    from ours import a\n"
        "    from ours.inner import b\n\nx = 1\n"
    )


def test_relies_on() -> None:
    assert merge("", {"State.size": {"how": "relies-on"}}) == BASE


@pytest.mark.parametrize(
    ("ours", "declared", "message"),
    [
        ("def f(:\n", {}, "example.py, line 2: does not parse: "),
        ("def f():\n  pass", {}, "line 2: f is not declared in .*divergence.json"),
        (
            "class State:\n    def g(self): ...",
            {},
            "line 3: State.g is not declared in .*divergence.json",
        ),
        ("", {"f": {"how": "adds"}}, "has no f, which .*divergence.json says it adds"),
        (
            "def gone():\n    pass",
            {"gone": {"how": "replaces"}},
            "the base has no gone, which .*divergence.json says the fork replaces",
        ),
        ("", {"gone": {"how": "relies-on"}}, "the base has no gone, .* fork relies on"),
        (
            "def helper():\n    pass",
            {"helper": {"how": "adds"}},
            "line 2: the base already has helper; it cannot be added",
        ),
        (
            "class State:\n    def decide(self): ...",
            {"State.decide": {"how": "adds"}},
            "line 3: the base already has State.decide",
        ),
        ("os = 1", {"os": {"how": "adds"}}, "the base already has os"),
        (
            "def helper():\n    pass",
            {"helper": {"how": "replaces", "base": ["0" * 16]}},
            "the base's helper changed since .* `python -m continuous_integration.fork",
        ),
        (
            "",
            {"helper": {"how": "relies-on", "base": []}},
            "the base's helper changed since",
        ),
        (
            "def helper():\n    pass",
            {"helper": {"how": "relies-on"}},
            "line 2: .* says the fork relies on the base's helper",
        ),
        (
            "helper = 1",
            {"helper": {"how": "replaces"}},
            "line 2: helper is a function in the base",
        ),
        (
            "class helper:\n    pass",
            {},
            "line 2: helper is not a class in the base",
        ),
        (
            "class State:\n    def later(self): ...",
            {"State.later": {"how": "replaces"}},
            "line 3: State.later is a coroutine in the base",
        ),
        (
            "class State:\n    def size(self): ...",
            {"State.size": {"how": "replaces"}},
            "line 3: the base defines State.size 2 times",
        ),
        (
            "def helper():\n    pass",
            {"helper": {"how": "replaces", "keeps": "State"}},
            "line 2: the base has a State; keep helper as another",
        ),
        (
            "TABLE = 1",
            {"TABLE": {"how": "replaces", "keeps": "_TABLE"}},
            "line 2: only a function can be kept",
        ),
        (
            "def helper(c):\n    c",
            {"helper": {"how": "extends"}},
            "line 2: the base's helper has no c",
        ),
        (
            "def helper(a):\n    a",
            {"helper": {"how": "extends"}},
            "line 2: nothing behind the end of the base's helper would run",
        ),
        (
            "TABLE = 1",
            {"TABLE": {"how": "extends"}},
            "line 2: TABLE: only a function can be extended",
        ),
        (
            "class State:\n  def __init__(self):\n     self.x = 1",
            {"State.__init__": {"how": "extends"}},
            "line 4: must be indented like the body of the base's",
        ),
        (
            'class State:\n    def __init__(self):\n        """Nothing."""',
            {"State.__init__": {"how": "extends"}},
            "line 3: State.__init__ has nothing to extend",
        ),
        (
            "def f():\n    pass\ndef f():\n    pass",
            {"f": {"how": "adds"}},
            "line 4: f is there twice",
        ),
        ("a = b = 1", {}, "line 2: defines several names at once"),
        (
            "def f():\n    pass",
            {"f": {"how": "adds", "after": "gone"}},
            "line 2: the base has no gone to go behind",
        ),
        (
            "def f():\n    pass",
            {"f": {"how": "appends"}},
            "line 2: f: `appends` is for statements that define nothing",
        ),
        (
            "print()",
            {"print()": {"how": "adds"}},
            "`appends` is for statements that define nothing, and only for them",
        ),
        (
            "from elsewhere import rpc",
            {},
            "line 2: rpc is something else in the base",
        ),
        ("import helper", {}, "line 2: helper is something else in the base"),
        (
            "a: int; b: int",
            {"a": {"how": "adds"}, "b": {"how": "adds"}},
            "line 2: a definition must have its lines to itself",
        ),
        ("if TYPE_CHECKING:\n    x = 1", {}, "line 3: only imports can be added here"),
    ],
)
def test_errors(ours: str, declared: dict[str, dict[str, str]], message: str) -> None:
    with pytest.raises(ForkError, match=message) as info:
        merge(ours, declared)
    assert "\n" not in str(info.value)
    assert PATH in str(info.value)


def test_docstring_is_required() -> None:
    with pytest.raises(ForkError, match="must open with a docstring"):
        merge_module(PATH, BASE, "import os\n", {})


def test_base_that_does_not_parse() -> None:
    with pytest.raises(ForkError, match="line 1: does not parse"):
        merge_module(PATH, "def", '"""Partial."""\n', {})


def test_result_that_does_not_parse() -> None:
    base = "if 1:\n    def f(): pass\nelse:\n    pass\n"
    with pytest.raises(ForkError, match="merged, line 7: does not parse"):
        merge("def g():\n    pass\n", {"g": {"how": "adds", "after": "f"}}, base)


def test_characters_that_only_look_like_line_ends() -> None:
    base = 'X = "\x0c \u2028"\n\n\ndef f():\n    pass\n'
    merged = merge("def f():\n    return 1\n", {"f": {"how": "replaces"}}, base)
    assert merged == base.replace("pass", "return 1")


def test_all_changed_names_are_reported_at_once() -> None:
    names = {name: cast(Entry, {"how": "relies-on"}) for name in ("State", "helper")}
    assert list(changed_names(Source(BASE, PATH), names)) == ["State", "helper"]
    with pytest.raises(ForkError, match=re.escape("State, helper")):
        merge_module(PATH, BASE, '"""Partial."""\n', names)


def _fingerprint(text: str) -> str:
    return fingerprint(find(Source(text, PATH).tree.body, "f"))


def test_fingerprint_ignores_formatting_and_comments() -> None:
    one = "def f(a, b=u'x'):\n    # why\n    return (a +\n            b)\n"
    other = 'x = 1\ndef f( a,b = "x" ): return a+b\n'
    assert _fingerprint(one) == _fingerprint(other)


@pytest.mark.parametrize(
    "other",
    [
        "def f(a, b=2):\n    'Docstring.'\n    return a + 1\n",
        "def f(a):\n    'Docstring.'\n    return a + 1\n",
        "def f(a, b=1):\n    'Other.'\n    return a + 1\n",
        "def f(a, b=1):\n    return a + 1\n",
        "def f(a, b=1):\n    'Docstring.'\n    return a + 1.0\n",
        "def f(a, b=1):\n    'Docstring.'\n    return a + True\n",
        "def f(a, b=1):\n    'Docstring.'\n    return a - 1\n",
        "@cached\ndef f(a, b=1):\n    'Docstring.'\n    return a + 1\n",
        "async def f(a, b=1):\n    'Docstring.'\n    return a + 1\n",
    ],
)
def test_fingerprint_sees_changes(other: str) -> None:
    this = "def f(a, b=1):\n    'Docstring.'\n    return a + 1\n"
    assert _fingerprint(this) != _fingerprint(other)


def test_fingerprint_is_the_same_on_every_python() -> None:
    # U+0378 is not assigned to a character yet, so `repr` escapes it for now
    text = (
        "@deco(1, *a, k=None, **b)\n"
        "async def f(s, a: x, /, b=..., *c, d: y = 'é\u0378', **e) -> x[1:2, ::3]:\n"
        "    'Docstring.'\n"
        "    async with a as b, c: pass\n"
        "    s = f'{a!r:>{w}} {b}' 'x' 'y'\n"
        "    try: yield (lambda: 1e400, -1j, 10**3)\n"
        "    except E as x: raise\n"
        "    else: del a[0]\n"
        "    match a:\n"
        "        case {'k': [1, *_]} | C(x=None) if b: global g\n"
        "    return {**a, 1: {2 for i in j if i}}, not a < b <= c, (y := 1)\n"
    )
    assert _fingerprint(text) == "fe92c84e1445cf01"
