"""Names and tables for people."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dask.array as da
import pytest

from distributed.rootish import explain, policy, tables
from distributed.rootish.history import ComputationStatus, PastGroups
from distributed.rootish.monitor import GroupStatus, RootishStatus
from distributed.rootish.policy import Verdict
from distributed.rootish.tables import (
    ADVICE,
    LEAST_WIDTH,
    MORE_PARTS,
    MORE_ROWS,
    NAME,
    NO_QUEUE,
    UNFOLDED,
    Column,
    Row,
    Table,
    advice_on,
    columns_of,
    fold,
    link_to,
    plain_name,
    printable,
    shorten,
    text_table,
)

VERDICTS = [each for each in vars(policy).values() if isinstance(each, Verdict)]

#: What a table is to be no larger than until it is unfolded
ROWS = 60
BYTES = 100_000

HOSTILE = [
    "\x1b[2J\x1b[31mRED\x1b]0;title\x07",
    "line\r\nFAKE 2026 - distributed - ERROR - all lost",
    "a\x00b",
    "\u202eevil",
    "a\u2028b",
    "\ud800",
    "y" * 5000,
    "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 3000,
]


def group(name: str, n: int = 0, **changes: Any) -> GroupStatus:
    """Return what is decided of a group that loads."""
    verdict = policy.PRODUCER
    status = GroupStatus(
        name=name,
        prefix=name,
        tasks=2,
        states={"memory": 1, "queued": 1},
        waits={"order": 1},
        rootish=True,
        reason=verdict.reason,
        explanation=verdict.explanation,
        decisions={},
        output=2.0**20 * n,
        nbytes=2.0**20 * n,
        allowed=2.0**22,
        brings_data=True,
    )
    return replace(status, **changes)


def past(groups: Sequence[PastGroups], **changes: Any) -> ComputationStatus:
    status = ComputationStatus(
        id="1",
        start=0,
        duration=1,
        running=False,
        tasks=1,
        nbytes=1,
        peak=None,
        peak_of_worker=None,
        at_peak={},
        copies_at_peak=0,
        nthreads=1,
        slots=2,
        groups=groups,
        left_out=0,
    )
    return replace(status, **changes)


def status(groups: Sequence[GroupStatus], *past: ComputationStatus) -> RootishStatus:
    return RootishStatus("producers", 4, 8, len(groups), groups, past)


def rows_of(text: str) -> list[str]:
    """Return the lines of the first table."""
    lines = text.splitlines()
    start = lines.index("") + 2
    return lines[start : lines.index("", start)]


# -- Names ---------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 12, 13, 80])
@pytest.mark.parametrize("name", [*HOSTILE, "load", ""])
def test_shorten(name: str, width: int) -> None:
    short = shorten(name, width)
    assert short.isprintable()
    assert columns_of(short) <= width
    json.dumps(short).encode()
    short.encode()


def test_shorten_in_the_middle() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcd...ijk"
    assert shorten("x" * 50 + "y" * 50, 11) == "xxxx...yyyy"
    wide = "\N{CJK UNIFIED IDEOGRAPH-6F22}"
    assert shorten(wide * 9, 10) == f"{wide * 2}...{wide}"


def test_printable() -> None:
    assert printable("a b \u044f") == "a b \u044f"
    assert printable("\x1b\n\u202e") == "\\x1b\\n\\u202e"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("load", "load"),
        (7, "7"),
        (1.5, "1.5"),
        (("a", 1), "('a', 1)"),
        ("\u044f", "\u044f"),
        ("\ud800", "\\ud800"),
    ],
)
def test_plain_name(name: object, text: str) -> None:
    """Groups are named by parts of keys, which can be anything."""
    assert plain_name(name) == text


# -- What to do ----------------------------------------------------------------------


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: verdict.reason)
def test_each_reason_says_what_to_do(verdict: Verdict) -> None:
    advice = ADVICE[verdict.reason]
    assert advice.text.endswith(".")
    assert len(advice.text) < 250
    assert advice_on(verdict.reason) is advice


def test_advice_without_a_queue() -> None:
    """What would be held back is not."""
    assert advice_on("producer", queue=False) is NO_QUEUE
    assert advice_on("consumer", queue=False) is ADVICE["consumer"]
    assert advice_on(None) is None
    assert advice_on("of another version") is None


class Distribution:
    """A distribution as pip leaves it."""

    def __init__(self, text: str | None):
        self.text = text

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.text


@pytest.mark.parametrize(
    ("origin", "start"),
    [
        (
            {
                "url": "https://user:secret@example.org/some/fork.git",
                "vcs_info": {"vcs": "git", "commit_id": "12ab"},
            },
            "https://example.org/some/fork/blob/12ab/docs/",
        ),
        ({"url": "file:///home/fork", "dir_info": {"editable": True}}, "docs/"),
        (
            {"url": "ssh://git@example.org/fork", "vcs_info": {"commit_id": "12ab"}},
            "docs/",
        ),
        ([], "docs/"),
        (None, "docs/"),
    ],
)
def test_link(origin: Any, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one to what is installed, if that came from the web."""
    text = None if origin is None else json.dumps(origin)
    monkeypatch.setattr(
        "importlib.metadata.distribution", lambda name: Distribution(text)
    )
    monkeypatch.setattr(tables, "_documentation", tables._documentation.__wrapped__)
    expected = f"{start}howto.rst#which-setting-do-i-change"
    assert link_to(tables.SETTINGS) == expected
    html = status([group("load")])._repr_html_()
    assert ("<a href='https://example.org" in html) is start.startswith("https")
    assert "secret" not in html


# -- Tables --------------------------------------------------------------------------


def test_fold() -> None:
    rows = fold(
        [("a", 1), ("b", 5), ("a", 2), ("c", 4)],
        lambda item: item[0],
        lambda items: Row(items[0][0], (), (sum(size for _, size in items),)),
        lambda item: f"{item[0]}-{item[1]}",
    )
    assert [(row.name, row.size, row.number) for row in rows] == [
        ("b", (5,), 1),
        ("c", (4,), 1),
        ("a", (3,), 2),
    ]
    assert [part.name for part in rows[2].parts] == ["a-2", "a-1"]
    assert not rows[0].parts


def test_small_table() -> None:
    assert text_table(("name", "size"), [("a\n", "10"), ("bcd", "5")], {1}) == (
        "name  size\na\\n     10\nbcd      5"
    )


def test_what_is_alike_is_one_row() -> None:
    """Without hashes, by bytes; each group has one when it is unfolded."""
    groups = [group(f"read-{n:032x}", n, prefix="read") for n in range(10)]
    groups.append(group("read-few", 1, prefix="read", reason="few", rootish=False))
    groups.append(group("large", 100))
    text = status(groups).to_text(width=120)
    first, second, third = rows_of(text)
    assert first.split()[:2] == ["large", "2"]
    assert second.split()[:4] == ["read", "(10", "groups)", "20"]
    assert "45.00 MiB" in second
    assert third.split()[:2] == ["read", "2"]
    assert not re.search("0{9}", text)
    unfolded = rows_of(status(groups).to_text(width=120, unfold=True))
    assert len(unfolded) == 13
    assert [line.split()[0][-1] for line in unfolded[2:12]] == [*"9876543210"]


def many() -> list[GroupStatus]:
    """Groups of many names, each in a group for each file, and some hostile ones."""
    groups = [
        group(f"{n % 500}-load-{n:032x}", n, prefix=f"{n % 500}-load")
        for n in range(20_000)
    ]
    return [*groups, *(group(plain_name(name)) for name in HOSTILE)]


@pytest.mark.parametrize("width", [10, LEAST_WIDTH, 60, 80, 200])
def test_text_is_bounded(width: int) -> None:
    groups = many()
    computations = [
        past(
            [
                PastGroups(name, 9, 9, True, reason, "Because " * 40, 9, 9, True)
                for name in [*HOSTILE, *map(str, range(80))]
                for reason in ADVICE
            ],
            at_peak=dict.fromkeys(HOSTILE, 1.0),
        )
    ] * 50
    for each in (status(groups, *computations), status([], *computations)):
        text = each.to_text(width=width)
        assert len(text.encode()) < BYTES
        lines = text.splitlines()
        assert all(line.isprintable() for line in lines)
        if width >= 80:
            assert len(lines) <= ROWS
        # What cannot be wrapped is a link
        assert all(
            columns_of(line) <= max(width, LEAST_WIDTH)
            for line in lines
            if not line.startswith("See ")
        )


def test_text_is_fitted_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    lines = str(status(many())).splitlines()
    assert max(columns_of(line) for line in lines if line[:4] != "See ") <= 70
    monkeypatch.setenv("COLUMNS", "130")
    assert max(map(columns_of, str(status(many())).splitlines())) > 100


def test_html_is_bounded() -> None:
    html = status(many(), *[past([])] * 50)._repr_html_()
    assert len(html.encode()) < BYTES
    assert html.count("<tr>") <= UNFOLDED + MORE_ROWS + 2 + 50
    visible, _ = re.split(r"<details><summary>[\d,]+ more rows", html)
    assert visible.count("<tr>") == UNFOLDED + 1
    assert "480 more rows" in html or "488 more rows" in html
    code = re.findall(r"<code[^>]*>([^<]*)</code>", html)
    assert all(name.isprintable() and columns_of(name) <= NAME for name in code)
    assert f"and {40 - MORE_PARTS} more" in html


def test_names_are_text_in_html() -> None:
    """Whatever they hold, nothing of it is a tag, nor an attribute."""
    hostile = "x'><script>alert(1)</script>" + "y" * NAME
    html = status([group(hostile), group(f"{hostile}-2", prefix=hostile)])._repr_html_()
    assert "<script" not in html
    assert "'>&" not in html
    assert "x&#x27;&gt;&lt;script&gt;" in html


def test_json_has_all_of_it() -> None:
    groups = many()
    data = status(groups, past([])).to_dict()
    text = json.dumps(data)
    back = RootishStatus.from_dict(json.loads(text))
    assert back == status(tuple(groups), past(()))
    assert {each.name for each in back.groups} >= {"y" * 5000, "\\ud800"}
    assert data["advice"] == {"producer": str(ADVICE["producer"])}


def test_columns_are_left_out_where_there_is_no_room() -> None:
    table = Table(
        [],
        [Column("name"), Column("spare", spare=1), Column("needed", number=True)],
        [Row("x" * 30, ("y" * 30, "5"))],
    )
    assert "yyy" in table.to_text(width=80)
    narrow = table.to_text(width=50)
    assert "yyy" not in narrow
    assert narrow.splitlines()[-1] == "x" * 30 + "       5"


def test_explanation() -> None:
    """A group for each file is one row, whose names are printable."""
    names = [f"open\x1b-{n:032x}" for n in range(40)]
    arrays = [da.ones(4, chunks=2, name=name) for name in names]
    explanation = explain(*arrays, nthreads=1, nworkers=2, predict=False)
    text = explanation.to_text(width=80)
    assert len(rows_of(text)) <= 8
    assert "open\\x1b" in text
    assert "(40 groups)" in text
    assert len(rows_of(explanation.to_text(width=80, unfold=True))) > 40
    assert all(columns_of(line) <= 80 for line in text.splitlines())
    assert "open\\x1b" in explanation._repr_html_()
