"""Merging of configuration fragments, on small synthetic ones."""

from __future__ import annotations

from typing import cast

import pytest

from continuous_integration.fork import ForkError
from continuous_integration.fork.fragments import merge_fragment
from continuous_integration.fork.project import Entry

PATH = "distributed/example.yaml"

BASE = """\
# The base's
top:
  version: 2
  # about one
  one: 1    # oddly   formatted

  sub:
    - a
    # behind a

    # about two
  two: "2"
  text: |
    # no comment

  # behind text

other:

  first: null

  second:
    deep: [1, 2]
"""


def merge(ours: str, /, **after: str) -> str:
    declared = {
        name.replace("__", "."): cast(
            Entry, {"how": "adds", "why": "test"} | ({"after": a} if a else {})
        )
        for name, a in after.items()
    }
    return merge_fragment(PATH, BASE, ours, declared)


def expect(old: str, new: str) -> str:
    assert BASE.count(old) == 1
    return BASE.replace(old, new)


def test_behind_a_sibling() -> None:
    ours = "# Fragment\ntop:\n  # about ours\n  ours: 3  # three\n"
    assert merge(ours, top__ours="one") == expect(
        "  one: 1    # oddly   formatted\n",
        "  one: 1    # oddly   formatted\n  # about ours\n  ours: 3  # three\n",
    )


def test_behind_a_block() -> None:
    assert merge("top:\n  ours: 3\n", top__ours="sub") == expect(
        "    - a\n", "    - a\n\n  ours: 3\n"
    )


def test_behind_a_text() -> None:
    assert merge("top:\n  ours: 3\n", top__ours="") == expect(
        "    # no comment\n", "    # no comment\n  ours: 3\n"
    )


def test_nested_with_another_indentation() -> None:
    ours = "other:\n      ours:\n         a: |\n           x\n\n            y\n"
    assert merge(ours, other__ours="first") == expect(
        "  first: null\n",
        "  first: null\n\n  ours:\n     a: |\n       x\n\n        y\n",
    )


def test_at_the_end() -> None:
    assert merge("other:\n  ours: 1\n", other__ours="") == f"{BASE}\n  ours: 1\n"
    assert merge("ours: 1\n", ours="") == f"{BASE}\nours: 1\n"


@pytest.mark.parametrize(
    ("ours", "after", "message"),
    [
        ("top: [\n", {}, "line 2: does not parse"),
        ("top:\n  one: 2\n", {}, "line 2: the base already has top.one"),
        ("top:\n  sub: {x: 1}\n", {}, "line 2: the base already has top.sub"),
        ("other:\n  second: 1\n", {}, "line 2: the base already has other.second"),
        ("top:\n  ours: 1\n", {}, "top.ours is not declared in .*divergence.json"),
        ("top:\n  ours: 1\n", {"top__ours": "x"}, "the base has no x to put top.ours"),
        ("top: {}\n", {"top__ours": ""}, "has no top.ours, which .* says it adds"),
        ("- 1\n", {}, "must be a mapping"),
    ],
)
def test_errors(ours: str, after: dict[str, str], message: str) -> None:
    with pytest.raises(ForkError, match=message) as info:
        merge(ours, **after)
    assert "\n" not in str(info.value)
    assert PATH in str(info.value)


def test_keys_can_only_be_added() -> None:
    entry = cast(Entry, {"how": "replaces", "why": "test"})
    with pytest.raises(ForkError, match=r"top\.one: keys can only be added"):
        merge_fragment(PATH, BASE, "top: {}\n", {"top.one": entry})


def test_splicing_is_checked() -> None:
    # The comment is the text's last line, which looks like one behind it
    base = "a:\n  b:\n    c: |\n      x\n      # y\n"
    entry = cast(Entry, {"how": "adds", "why": "test"})
    with pytest.raises(ForkError, match="does not merge cleanly"):
        merge_fragment(PATH, base, "a:\n  ours: 1\n", {"a.ours": entry})
