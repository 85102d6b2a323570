"""Whatever happens, no task is stranded, and the queue holds what it should.

Random graphs and events; see ``continuous_integration/random_cases``. Many more are
played by ``python -m continuous_integration.random_cases``.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from continuous_integration.random_cases import (
    Case,
    Graph,
    Layer,
    cases,
    play,
    random_case,
    script,
    shrink,
)

#: How many cases are played from their numbers, and how many Hypothesis makes up
CASES = int(os.environ.get("RANDOM_CASES", 500))


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """Workers that come and go would be many lines."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def test_numbered_cases() -> None:
    """Cases that have all in them: what they count shows that they say something."""
    counts: Counter[str] = Counter()
    for number in range(CASES):
        try:
            play(random_case(number), counts)
        except Exception as error:
            raise AssertionError(
                f"case {number}:\n{script(random_case(number))}"
            ) from error
    assert counts["queued"] > 5 * CASES
    assert counts["root-ish sent"] > 5 * CASES
    assert counts["results: right"] > 5 * CASES
    assert counts["ended by a known fault of the base"] < CASES / 50
    for event in EVENTS:
        assert counts[f"event {event}"], event


EVENTS = [
    "balance",
    "cancel",
    "die",
    "die processing",
    "disconnect",
    "drop replicas",
    "fail",
    "finish",
    "hears late",
    "join",
    "leave",
    "lose",
    "pause",
    "release",
    "release all",
    "reschedule",
    "resume",
    "retire",
    "retry",
    "scatter",
    "secede",
    "steal",
    "submit",
    "submit again",
]


@settings(
    max_examples=max(CASES // 4, 1),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(cases())
def test_any_case(case: Case) -> None:
    """One that fails is shrunk, and printed as a script."""
    try:
        play(case)
    except Exception as error:
        raise AssertionError(script(case)) from error


def test_submitted_again_while_its_block_is_left() -> None:
    """A key that was cancelled in the queue comes again, as another task.

    The queue took the one that was forgotten for it: tasks of one key are equal.
    """
    play(
        Case(
            graphs=(Graph(layers=(Layer(size=6),)),),
            steps=(("submit", 0, 1), ("die", 5), ("cancel", 1, 0, 0), ("submit", 0, 0)),
            threads=(1, 2),
            start=2,
            stealing=True,
        )
    )


def test_copy_is_removed_after_the_task_has_run_again() -> None:
    """The worker tells, as the scheduler takes it for the only one that has it.

    Which worker that is depends on the order of keys in sets.
    """
    graph = Graph(layers=(Layer(size=3), Layer(size=7, uses=((0, "one"),))))
    three = range(3)
    for first, hears, dies, key, late in itertools.product(*[three] * 4, range(2)):
        play(
            Case(
                graphs=(graph,),
                steps=(
                    ("submit", 0, 0),
                    ("run", first, 0),
                    *(("deaf", worker) for worker in three if worker != hears),
                    ("die", dies),
                    ("disconnect", 2),
                    ("submit", 0, 0),
                    ("finish", late, key),
                ),
                threads=(1, 1, 1),
                start=3,
            )
        )


def test_last_worker_of_a_pool_leaves() -> None:
    """Nothing of what waits for it may be out, and nothing is."""
    play(
        Case(
            graphs=(
                Graph(
                    layers=(
                        Layer(),
                        Layer(uses=((0, "one"),), name="open", seconds=3.0),
                        Layer(size=9, uses=((0, "one"),), nbytes=2**16),
                        Layer(size=8, uses=((0, "near"),), name="step", resource=True),
                    )
                ),
            ),
            steps=(("submit", 0, 0), ("run", 2, 6), ("finish", 6, 0), ("retire", 2)),
            threads=(1, 1),
            start=2,
            saturation=1.0,
        )
    )


@pytest.mark.parametrize("co_assignment", [True, False])
def test_task_leaves_the_queue_for_a_worker_that_is_full(co_assignment: bool) -> None:
    """The slot for which it was taken out goes to the next one.

    It is no loader after all, and its input is on a worker that has no thread free.
    """
    play(
        Case(
            graphs=(
                Graph(
                    layers=(
                        Layer(size=2, nbytes=2**16),
                        Layer(size=7, uses=((0, "pair"),)),
                        Layer(size=6, uses=((0, "one"),)),
                    )
                ),
            ),
            steps=(("submit", 0, 0),),
            threads=(1, 1),
            co_assignment=co_assignment,
        )
    )


@pytest.mark.parametrize("co_assignment", [True, False])
@pytest.mark.parametrize("event", ["die", "leave"])
def test_worker_that_goes_takes_all_work_with_it(
    event: str, co_assignment: bool
) -> None:
    """What is queued is given to a worker whose tasks are taken back.

    The other worker's tasks wait again for data that can come from nowhere else than
    the one that has gone. Nothing is left that could end and open a slot.
    """
    play(
        Case(
            graphs=(
                Graph(
                    layers=(
                        Layer(only=(1,)),
                        Layer(size=2, uses=((0, "share"),), only=(0,)),
                    )
                ),
                Graph(layers=(Layer(size=8),)),
            ),
            steps=(
                ("submit", 0, 0),
                ("run", 1, 0),
                ("pause", 1),
                ("submit", 1, 0),
                (event, 1),
            ),
            threads=(1, 1),
            start=2,
            co_assignment=co_assignment,
        )
    )


def test_shrink() -> None:
    """What is not needed for a fault goes, whatever the fault is."""

    def fails(case: Case) -> bool:
        return ("join", 0) in case.steps and case.threads[0] == 2

    case = next(c for c in map(random_case, range(10**6)) if fails(c))
    small = shrink(case, fails)
    assert small == Case(steps=(("join", 0),), threads=(2,))
    assert "steps=(\n        ('join', 0),\n    ),\n    threads=(2,),\n" in script(small)


def test_script_is_the_case() -> None:
    """A script can be run as it is printed."""
    played = []
    names = {"Case": Case, "Graph": Graph, "Layer": Layer, "play": played.append}
    for number in range(20):
        lines = script(random_case(number)).splitlines()
        assert lines[1].startswith("from continuous_integration.random_cases import ")
        exec("\n".join(lines[2:]), names)
        assert played[-1] == random_case(number)
