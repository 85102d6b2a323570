"""What became of tests with the base and with the fork, and what a difference means.

An *outcome* is one of pytest's words. A module that was not run to its end, or not at
all, has an outcome under its own name: ``error`` when it cannot be collected,
``crashed``, ``timed out``, ``skipped``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: Of a test that the other environment has, although the module was run to its end.
MISSING = "missing"

#: Of a test that was not reached, or is not known to have been.
NOT_RUN = "not run"

FAILURES = frozenset({"failed", "error", "crashed", "timed out", MISSING})

BROKEN = "broken by the fork"
MENDED = "mended by the fork"
FLAKY = "flaky"
DIFFERENT = "different"
UNSETTLED = "unsettled"

#: Outcomes in one run: name of a test -> outcome.
Outcomes = Mapping[str, str]


def _outcome(report: Mapping[str, Any]) -> str | None:
    """Return what a report on one phase of a test says of the test."""
    during_call = report["when"] == "call"
    expected = "wasxfail" in report
    if report["outcome"] == "failed":
        return "failed" if during_call else "error"
    if report["outcome"] == "skipped":
        return "xfailed" if expected else "skipped"
    if report["outcome"] == "passed" and during_call:
        return "xpassed" if expected else "passed"
    return None  # it goes on, or will be tried again


def read_outcomes(
    path: Path, module: str, code: int | None
) -> tuple[dict[str, str], str]:
    """Read the file that ``pytest --report-log`` wrote.

    Parameters
    ----------
    path
        The file; it may be torn, or missing.
    module
        Module of the tests.
    code
        Exit code of pytest, or None if it was killed because it took too long.

    Returns
    -------
    outcomes : dict
        Name of a test, or of the module -> outcome.
    reached : str
        ``in`` or ``after`` the last test, or nothing.
    """
    outcomes: dict[str, str] = {}
    reached = ""
    status = None
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            report = json.loads(line)
        except ValueError:
            continue
        kind = report["$report_type"]
        if kind == "SessionFinish":
            status = report["exitstatus"]
        elif kind == "CollectReport" and report["outcome"] != "passed":
            if report["outcome"] == "failed" or report["nodeid"] == module:
                name = {"failed": "error"}.get(report["outcome"], report["outcome"])
                outcomes[module] = name
        elif kind == "TestReport":
            test, found = report["nodeid"], _outcome(report)
            reached = f"{'after' if report['when'] == 'teardown' else 'in'} {test}"
            if found is not None and outcomes.get(test) != "failed":
                outcomes[test] = found
    if code is None:
        outcomes[module] = "timed out"
    elif code in (2, 4) and not reached:
        outcomes[module] = "error"
    elif status is None or code not in (0, 1, 5):
        outcomes[module] = "crashed"
    return outcomes, reached


@dataclass(frozen=True)
class Pair:
    """Outcomes of one test in several runs.

    Attributes
    ----------
    base, fork : list of str
        One outcome for each run.
    """

    base: list[str] = field(default_factory=list)
    fork: list[str] = field(default_factory=list)

    @property
    def only_fork_fails(self) -> bool:
        """Whether it failed with the fork every time, and never with the base."""
        return (
            bool(self.base and self.fork)
            and FAILURES.issuperset(self.fork)
            and FAILURES.isdisjoint(self.base)
        )

    def meaning(self) -> str:
        """Return what these runs, without the one that showed a difference, mean."""
        base = [outcome in FAILURES for outcome in self.base]
        fork = [outcome in FAILURES for outcome in self.fork]
        if not base or not fork:
            return UNSETTLED
        if self.only_fork_fails:
            return BROKEN
        if any(fork) and ((all(fork) and not all(base)) or not any(base)):
            return UNSETTLED
        if all(base) and not any(fork):
            return MENDED
        if not any(base) and not any(fork) and set(self.base) != set(self.fork):
            return DIFFERENT
        return FLAKY


@dataclass(frozen=True)
class Difference:
    """A test whose first outcome is not the same with the base and with the fork.

    Attributes
    ----------
    test : str
        Its name as pytest has it, or that of a module.
    module : str
        Its module.
    whole : Pair
        Outcomes when the whole module was run; the first are those that differ.
    alone : Pair
        Outcomes when only those tests of the module were run that differ.
    """

    test: str
    module: str
    whole: Pair
    alone: Pair

    @property
    def repeats(self) -> Pair:
        """Outcomes after the first, in runs of the whole module."""
        return Pair(self.whole.base[1:], self.whole.fork[1:])

    @property
    def needs_module(self) -> bool:
        """Whether it cannot be run alone."""
        return self.test == self.module or MISSING in (
            self.whole.base[0],
            self.whole.fork[0],
        )

    @property
    def depends_on_company(self) -> bool:
        """Whether it may fail with the fork when others of its module run too."""
        base = [outcome in FAILURES for outcome in self.alone.base]
        return (
            not self.needs_module
            and self.whole.only_fork_fails
            and self.alone.meaning() == FLAKY
            # Not where the base alone has failed and passed: that is flaky enough
            and (all(base) or not any(base))
        )

    @property
    def verdict(self) -> str:
        """What the repeats say."""
        if not self.alone.base:
            return self.repeats.meaning()
        if self.depends_on_company and self.repeats.base:
            return BROKEN
        return self.alone.meaning()

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "verdict": self.verdict}


class Results:
    """All that was run.

    Parameters
    ----------
    records
        What was recorded: ``contender`` (base or fork), ``module``, ``tests`` (those
        that were chosen; none is the whole module) and ``outcomes``.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        self._whole: dict[str, dict[str, list[Outcomes]]] = {}
        self._alone: dict[str, dict[str, list[Outcomes]]] = {}
        for record in records:
            runs = self._alone if record["tests"] else self._whole
            both = runs.setdefault(record["module"], {"base": [], "fork": []})
            both[record["contender"]].append(record["outcomes"])

    def _first(self, contender: str) -> dict[str, Outcomes]:
        return {
            module: both[contender][0]
            for module, both in self._whole.items()
            if both[contender]
        }

    def totals(self, contender: str) -> Counter[str]:
        """Return how many tests, or whole modules, had each outcome at first."""
        other = self._first("fork" if contender == "base" else "base")
        counts: Counter[str] = Counter()
        for module, outcomes in self._first(contender).items():
            counts.update(outcomes.values())
            unknown = set(other.get(module, ())) - set(outcomes) - {module}
            counts.update(
                _outcome_of(outcomes, module, test, NOT_RUN) for test in unknown
            )
        return counts

    def outcomes(self) -> list[tuple[str, int, int]]:
        """Return each outcome with how many had it at first, with base and fork."""
        base, fork = self.totals("base"), self.totals("fork")
        return [(x, base[x], fork[x]) for x in sorted({*base, *fork})]

    def failures(self) -> list[str]:
        """Return the tests that failed at first with the base and with the fork."""
        fork = self._first("fork")
        return [
            test
            for module, outcomes in self._first("base").items()
            for test, outcome in outcomes.items()
            if outcome in FAILURES and fork.get(module, {}).get(test) in FAILURES
        ]

    def unfinished(self) -> list[tuple[str, str, str]]:
        """Return the modules that were not run to the end, with both outcomes."""
        fork = self._first("fork")
        found = [
            (module, base.get(module, "run"), fork.get(module, {}).get(module, "run"))
            for module, base in self._first("base").items()
        ]
        return [one for one in found if FAILURES.intersection(one[1:])]

    def differences(self) -> list[Difference]:
        """Return the tests whose first outcomes differ, module by module."""
        fork = self._first("fork")
        found = []
        for module, base in self._first("base").items():
            for test in {**base, **fork.get(module, {})}:
                whole = _pair(self._whole[module], module, test, NOT_RUN)
                first = {*whole.base[:1], *whole.fork[:1]}
                if len(first) == 2 and NOT_RUN not in first:
                    # Who does not get as far when few are run had better be suspected
                    end = "crashed"
                    alone = _pair(self._alone.get(module, {}), module, test, end)
                    found.append(Difference(test, module, _reached(whole), alone))
        return found


def _outcome_of(outcomes: Outcomes, module: str, test: str, unreached: str) -> str:
    if test == module:
        return outcomes.get(module, "run")
    return outcomes.get(test, unreached if module in outcomes else MISSING)


def _pair(
    both: Mapping[str, Sequence[Outcomes]], module: str, test: str, unreached: str
) -> Pair:
    base, fork = (
        [_outcome_of(one, module, test, unreached) for one in both.get(contender, ())]
        for contender in ("base", "fork")
    )
    return Pair(base, fork)


def _reached(pair: Pair) -> Pair:
    """Return a pair without the runs that did not get as far as the test."""
    return Pair(
        [one for one in pair.base if one != NOT_RUN],
        [one for one in pair.fork if one != NOT_RUN],
    )


# Reports


def _counts(outcomes: Collection[str]) -> str:
    return ", ".join(
        f"{number} {outcome}" for outcome, number in Counter(outcomes).most_common()
    )


def _row(cells: Iterable[str]) -> str:
    # Names can have what separates cells
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_row(head), "|" + "---|" * len(head), *map(_row, rows), ""]


def write_report(results: Results, head: str, facts: dict[str, Any], path: Path) -> str:
    """Write a report in Markdown, and the same as JSON beside it.

    Parameters
    ----------
    results
        All that was run.
    head
        What was compared, as Markdown.
    facts
        The same for the JSON.
    path
        File of the Markdown.

    Returns
    -------
    str
        The Markdown.
    """
    totals = {contender: results.totals(contender) for contender in ("base", "fork")}
    differences = results.differences()
    unfinished = results.unfinished()
    rows = [[str(cell) for cell in row] for row in results.outcomes()]
    lines = [head, "", *_table(["outcome", "base", "fork"], rows)]
    if unfinished:
        lines += _table(["module not run to its end", "base", "fork"], unfinished)
    if differences:
        lines += _table(
            ["test", "base → fork", "repeats, base", "repeats, fork", "verdict"],
            [
                [
                    one.test,
                    f"{one.whole.base[0]} → {one.whole.fork[0]}",
                    _counts(one.alone.base + one.repeats.base),
                    _counts(one.alone.fork + one.repeats.fork),
                    one.verdict,
                ]
                for one in differences
            ],
        )
    else:
        lines += ["No test's outcome differs.", ""]
    text = "\n".join(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    content = {
        **facts,
        "totals": totals,
        "unfinished": unfinished,
        "differences": [one.as_dict() for one in differences],
        "fail in both": results.failures(),
    }
    path.with_suffix(".json").write_text(
        json.dumps(content, indent=1), encoding="utf-8"
    )
    return text
