"""Which tasks go to one worker: those whose outputs meet, as many as memory allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from dask._task_spec import List, Task, TaskRef

from distributed.rootish.families import (
    FAMILY_OUTPUT,
    Reach,
    end_of_family,
    first_use,
    held_until,
    output_until_reduced,
    reach_of,
)
from distributed.rootish.policy import (
    CONSUMER,
    HANDLE_BYTES,
    LOOKED_AT,
    PRODUCER,
    UNKNOWN_OUTPUT,
)
from distributed.rootish.queue import RootishQueue
from distributed.rootish.simulation import Cluster
from distributed.rootish.tests import utils
from distributed.rootish.tests.paper import Paper
from distributed.rootish.tests.utils import (
    CHUNK_NBYTES,
    FOUR_WORKERS,
    MIB,
    PLAYED,
    Noted,
    load,
    policy_cluster,
    slots,
    tree,
    watch,
)
from distributed.scheduler import TaskState

OFF = {"distributed.scheduler.rootish-co-assignment": False}

#: Tasks of one output that a family has at most; and if they are combined at once, but
#: are not known to be data
MOST = int(FAMILY_OUTPUT)
MOST_AT_ONCE = int(2 * FAMILY_OUTPUT)


def rest(s: Paper) -> list[TaskState]:
    """Return so many tasks that come last that no family has its worker's share."""
    return [s.add("rest", 5000 + n) for n in range(64)]


# -- Facts ---------------------------------------------------------------------------


def made(ts: TaskState) -> tuple[float, float]:
    """Look at a task as if nothing was known before."""
    ts.group.rootish_facts.output_review_at = 0
    return output_until_reduced(ts)


def test_output_until_reduced() -> None:
    """Past tasks that only rename, what is made of a chunk counts."""
    s = Paper()
    chunk = s.add("chunk", 0)
    # Nothing is known
    assert made(chunk) == (UNKNOWN_OUTPUT, 0)
    chunk = s.add("chunk", 1, nbytes=10)
    assert made(chunk) == (10, 0)
    alias = s.add("alias", 2, chunk, nbytes=10)
    assert made(chunk) == (10, 10)
    for n, nbytes in enumerate([30, 20, None]):
        s.add(f"use-{n}", 3 + n, alias, nbytes=nbytes)
    # As long as nothing is known of one, it makes as much
    assert made(chunk) == (10, 30 + 20 + 10)
    small = s.add("small", 6, nbytes=10)
    s.add("length", 7, small, nbytes=1)
    assert made(small) == (10, 1)


def test_what_many_make_of_an_output() -> None:
    """More are counted than are looked at."""
    s = Paper()
    chunk = s.add("chunk", 0, nbytes=10)
    for n in range(2 * LOOKED_AT):
        s.add("use", 1 + n, chunk, nbytes=1)
    assert made(chunk) == (10, 2 * LOOKED_AT)


@pytest.mark.parametrize("users", [1, 2])
def test_what_is_made_of_packed_data_takes_its_place(users: int) -> None:
    """It does if a single task needs it; else the packed data is held as well."""
    s = Paper()
    packed = s.add("packed", 0, nbytes=10)
    for n in range(users):
        s.add(f"scale-{n}", 1 + n, packed, nbytes=40)
    assert made(packed) == (10 if users > 1 else 40, 40 * users)


def test_what_is_made_of_several_is_shared_out_by_bytes() -> None:
    """A chunk that is multiplied with a few weights is made of the chunk."""
    s = Paper()
    chunk = s.add("chunk", 0, nbytes=2 * MIB)
    weights = s.add("weights", 1, nbytes=256)
    s.add("product", 2, chunk, weights, nbytes=2 * MIB)
    output, product = made(chunk)
    assert output == 2 * MIB
    assert product == pytest.approx(2 * MIB, rel=1e-3)
    assert made(weights) == (256, pytest.approx(256, rel=1e-3))


@pytest.mark.parametrize("held_back", [True, False])
def test_loads_of_their_own_do_not_count(held_back: bool) -> None:
    """Sums of small weights, as large as the data, wait themselves if they may."""
    s = Paper()
    weights = s.add("weights", 0, nbytes=100)
    total = s.add("sum", 1, weights, nbytes=2 * MIB)
    s.add("use", 2, weights, nbytes=1)
    total.group.rootish_facts.verdict = PRODUCER if held_back else CONSUMER
    assert made(weights) == (100, 1 if held_back else 2 * MIB + 1)


def test_facts_are_looked_up_again_when_more_is_known() -> None:
    """They are kept with the group meanwhile, so that they cost nothing."""
    s = Paper()
    first, second, *others = (s.add("chunk", n) for n in range(20))
    assert output_until_reduced(first) == (UNKNOWN_OUTPUT, 0)
    s.finish(s.send(first), nbytes=10)
    assert output_until_reduced(second) == (10, 0)
    s.finish(s.send(second), nbytes=5)
    assert output_until_reduced(others[0]) == (10, 0)
    for ts in others:
        s.finish(s.send(ts), nbytes=5)
    assert output_until_reduced(others[0])[0] < 6


def test_end_of_family() -> None:
    """Neighbors are those that come before the second reduction, in the same graph."""
    s = Paper()
    a, b, c = (s.add("load", n) for n in range(3))
    assert end_of_family(a, 2) == (a.priority, 1)
    alias = s.add("alias", 3, a)
    assert end_of_family(a, 2) == (a.priority, 1)
    pair = s.add("pair", 4, alias, b)
    assert end_of_family(a, 2) == (pair.priority, 1)
    assert end_of_family(b, 2)[0] == pair.priority
    four = s.add("four", 6, pair, s.add("pair", 5, c))
    assert end_of_family(a, 2) == (four.priority, 2)
    assert end_of_family(a, 1) == (pair.priority, 1)
    # Two reductions are as far as neighbors are looked for
    s.add("eight", 8, four, s.add("four", 7))
    assert end_of_family(a, 2)[0] == four.priority
    # How many are to be expected there
    five = [s.add("load", 10 + n) for n in range(5)]
    s.add("sum", 15, *five)
    assert end_of_family(five[0], 2) == ((0, 0, 15), 5)


def test_end_of_family_beside_data_in_memory() -> None:
    """What is there already makes no reduction."""
    s = Paper()
    table = s.send(s.add("table", 0))
    ts = s.add("load", 1)
    s.add("scale", 2, table, ts)
    s.finish(table, nbytes=256)
    assert end_of_family(ts, 2) == (ts.priority, 1)


def test_end_of_family_in_another_graph() -> None:
    """What comes of it there is as far away as the end of this graph."""
    s = Paper()
    a, b = s.add("load", 0), s.add("load", 1)
    later = s.add("later", 0, a, b, graph=1)
    end, _ = end_of_family(a, 2)
    assert s.add("load", 10**6).priority < end < later.priority


def test_pieces_of_one_output_are_no_reduction() -> None:
    """What puts a chunk together that was cut up combines it with nothing."""
    s = Paper()
    chunks = [s.add("chunk", n) for n in range(2)]
    whole = []
    for n, ts in enumerate(chunks):
        cuts = [s.add("cut", 10 * (n + 1) + i, ts) for i in range(3)]
        scaled = [
            s.add("scale", 10 * (n + 1) + 3 + i, cut) for i, cut in enumerate(cuts)
        ]
        whole.append(s.add("join", 10 * (n + 1) + 6, *scaled))
    total = s.add("total", 40, *whole)
    assert end_of_family(chunks[0], 2)[0] == total.priority
    assert first_use(chunks[0]) == total.priority


def test_pieces_of_several_outputs_are_combined() -> None:
    """What was made of others as well is a piece of none of them."""
    s = Paper()
    a, b = s.add("chunk", 0), s.add("chunk", 1)
    first = s.add("mix", 4, s.add("cut", 2, a), s.add("cut", 3, b))
    assert first_use(a) == first.priority
    # As in a weighted mean, both halves of which have their own sums
    s = Paper()
    chunks = [s.add("chunk", 2 * n) for n in range(4)]
    weights = [s.add("weights", 2 * n + 1) for n in range(4)]
    products = [
        s.add("product", 10 + n, *two) for n, two in enumerate(zip(chunks, weights))
    ]
    means = []
    for n in (0, 2):
        both = s.add("sum", 20 + n, *products[n : n + 2])
        norm = s.add("norm", 21 + n, *weights[n : n + 2])
        means.append(s.add("mean", 30 + n, both, norm))
    s.add("total", 40, *means)
    assert end_of_family(weights[0], 2)[0] == means[0].priority


def test_first_use() -> None:
    """The first of several uses that combine it counts."""
    s = Paper()
    a, b, c = (s.add("load", n) for n in range(3))
    assert first_use(a) == a.priority
    alias = s.add("alias", 3, a)
    assert first_use(a) == a.priority
    pair = s.add("pair", 4, alias, b)
    s.add("last", 9, a, c)
    assert first_use(a) == first_use(b) == pair.priority


def anomalies(
    s: Paper,
    number: int,
    nbytes: int | None = 10,
    mean_nbytes: int = 1,
    copies: tuple[int | None, ...] = (),
) -> list[TaskState]:
    """Return loads from which a mean of them all is subtracted.

    Four are summed up at a time. Before that, each is copied once for each size in
    ``copies``.
    """
    loads, chunks, sums = [], [], []
    for n in range(number):
        ts = s.add("load", 10 * n, nbytes=nbytes)
        loads.append(ts)
        for i, copied in enumerate(copies, 1):
            ts = s.add(f"copy-{i}", 10 * n + i, ts, nbytes=copied)
        chunks.append(ts)
        if n % 4 == 3:
            sums.append(s.add("sum", 10 * n + 9, *chunks[-4:], nbytes=mean_nbytes))
    mean = s.add("mean", 10 * number, *sums, nbytes=mean_nbytes)
    for n, ts in enumerate(chunks):
        s.add("subtract", 10 * number + 1 + n, ts, mean, nbytes=1)
    return loads


@pytest.mark.parametrize(
    ("nbytes", "copies"),
    [
        (None, ()),
        (None, (None,)),
        (10, ()),
        (10, (10,)),
        (10, (None, 10)),
        (10, (2, 2)),
    ],
)
def test_held_until_a_mean_of_all_is_there(
    nbytes: int | None, copies: tuple[int | None, ...]
) -> None:
    """What comes before the last of what that needs is loaded meanwhile."""
    s = Paper()
    loads = anomalies(s, 8, nbytes, copies=copies)
    last = loads[-1]
    assert held_until(loads[0]) == held_until(loads[5]) == last.priority
    assert held_until(last) == last.priority


def test_what_is_reduced_or_merged_at_once_is_not_held() -> None:
    """Neither what a sum of it stands for, nor what is combined with other loads."""
    s = Paper()
    loads = [s.add("load", 10 * n, nbytes=10) for n in range(4)]
    assert held_until(loads[0]) == loads[0].priority
    sums = [s.add("sum", 10 * n + 1, ts, nbytes=1) for n, ts in enumerate(loads)]
    total = s.add("total", 50, *sums, nbytes=1)
    later = [s.add("later", 60 + n, nbytes=10) for n in range(2)]
    mean = s.add("mean", 70, *later, nbytes=1)
    s.add("subtract", 71, total, mean, nbytes=1)
    assert held_until(loads[0]) == loads[0].priority
    s.add("merge", 80, *later, nbytes=20)
    assert held_until(later[0]) == later[0].priority


def test_what_only_counts_later_is_not_held() -> None:
    """The last that uses it needs nothing else, whatever becomes of that."""
    s = Paper()
    chunk, weights = (s.add(name, n) for n, name in enumerate(("chunk", "weights")))
    s.add("product", 2, chunk, weights)
    total = s.add("sum", 90, weights)
    others = [s.add("other", 91 + n) for n in range(2)]
    mean = s.add("mean", 98, *others)
    s.add("divide", 99, total, mean)
    assert held_until(weights) == weights.priority


def test_what_is_merged_under_another_name_is_not_held() -> None:
    """As in a stencil, of which the inputs were converted."""
    s = Paper()
    loads = [s.add("load", n, nbytes=10) for n in range(2)]
    s.add("merge", 9, *(s.add("copy", 4 + n, ts) for n, ts in enumerate(loads)))
    assert held_until(loads[0]) == loads[0].priority


def test_what_waits_for_a_fold_is_not_held() -> None:
    """It would be up to where the fold is when it was not looked at any more."""
    s = Paper()
    loads = [s.add("load", n, nbytes=10) for n in range(2 * LOOKED_AT)]
    fits: list[TaskState] = []
    for n, ts in enumerate(loads):
        fits.append(s.add("fit", 100 + n, ts, *fits[-1:], nbytes=1))
    for n, ts in enumerate(loads):
        assert held_until(ts) == ts.priority, n


def test_what_many_use_or_need_is_not_looked_at() -> None:
    """More than :data:`LOOKED_AT` users, or inputs of what a user waits for."""
    s = Paper()
    loads = anomalies(s, 4 * LOOKED_AT)
    assert held_until(loads[0]) == loads[-1].priority
    some = s.add("sums", 9000, *(s.add("other", 8000 + n) for n in range(LOOKED_AT)))
    s.add("user", 9001, loads[0], some)
    assert held_until(loads[0]) == (*some.priority[:2], 8000 + LOOKED_AT - 1)
    more = s.add("other", 8999)
    some.waiting_on = {*(some.waiting_on or ()), more}
    assert held_until(loads[0]) == loads[0].priority
    for n in range(LOOKED_AT):
        s.add("use", 9100 + n, loads[1])
    assert held_until(loads[1]) == loads[1].priority


class Counted(set[Any]):
    """Counts how many of its members are looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        for one in super().__iter__():
            Counted.looks += 1
            yield one


@pytest.mark.parametrize("users", ["of the task", "of the reduction", "inputs"])
def test_cost_does_not_grow_with_the_graph(users: str) -> None:
    """Of twenty thousand, a few are looked at."""
    s = Paper()
    loads = [s.add("load", n) for n in range(20_000 if users == "inputs" else 10)]
    last = s.add("reduce", 20_000, *loads, nbytes=1)
    ts = loads[0]
    if users != "inputs":
        used = last if users == "of the reduction" else ts
        for n in range(20_000):
            s.add("use", 20_001 + n, used)
    for each in (ts, last):
        each.dependents = Counted(each.dependents)
        each.dependencies = Counted(each.dependencies)
        each.waiting_on = Counted(each.waiting_on or ())
    Counted.looks = 0
    made(ts)
    end_of_family(ts, 2)
    first_use(ts)
    reach_of(ts, 2)
    assert 0 < Counted.looks <= 4 * LOOKED_AT * LOOKED_AT


# -- Families ------------------------------------------------------------------------


def test_weights_and_chunks_are_one_family() -> None:
    """However small the weights are, they go where the chunks go."""
    s = Paper(2)
    families, sums = [], []
    n = 0
    for _ in range(8):
        family, products = [], []
        for _ in range(2):
            chunk = s.add("chunk", n, nbytes=2 * MIB)
            weights = s.add("weights", n + 1, nbytes=256)
            products.append(s.add("product", n + 2, chunk, weights, nbytes=2 * MIB))
            family += [chunk, weights]
            n += 3
        sums.append(s.add("sum", n, *products))
        n += 1
        families.append(family)
    s.add("total", n, *sums)
    s.enqueue(*(ts for family in families for ts in family))
    # Both workers take one of each family after the other
    taken = [(s.give(0), s.give(1)) for _ in range(4)]
    assert [a for a, _ in taken] == families[0]
    assert [b for _, b in taken] == families[1]


@pytest.mark.parametrize("nbytes", [None, 1, HANDLE_BYTES])
def test_large_family_is_shared_out(nbytes: int | None) -> None:
    """Memory bounds it, also while nothing is known of the outputs."""
    s = Paper(2)
    loads = [s.add("load", n, nbytes=nbytes) for n in range(3 * MOST_AT_ONCE)]
    s.add("sum", 100, *loads)
    s.enqueue(*loads)
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[MOST_AT_ONCE]
    assert s.give(0) is loads[1]


@pytest.mark.parametrize("made", [HANDLE_BYTES, HANDLE_BYTES + 1])
@pytest.mark.parametrize("share", [False, True])
def test_data_that_one_task_combines_is_one_family(made: int, share: bool) -> None:
    """Its worker has to hold all of it, also if that is more than its share."""
    s = Paper(2)
    loads, number = [], 3 * MOST_AT_ONCE
    for first in (0, 1000):
        some = [s.add("load", first + 3 * n, nbytes=MIB) for n in range(number)]
        names = [s.add("name", first + 3 * n + 1, ts) for n, ts in enumerate(some)]
        uses = [
            s.add("use", first + 3 * n + 2, ts, nbytes=made)
            for n, ts in enumerate(names)
        ]
        s.add("merge", first + 999, *uses)
        loads += some
    s.enqueue(*loads[: number + 4], *(rest(s) if share else ()))
    assert s.give(0) is loads[0]
    at_once = made > HANDLE_BYTES
    assert s.give(1) is loads[number if at_once else MOST_AT_ONCE]


def test_only_what_the_same_task_combines_is_of_one_family() -> None:
    """Beyond the bound, priority does not tell: other graphs have theirs."""
    s = Paper(2)
    loads = [s.add("load", n, nbytes=MIB) for n in range(3 * MOST_AT_ONCE)]
    s.add("merge", 100, *loads[: 2 * MOST_AT_ONCE])
    s.add("other", 99, *loads[2 * MOST_AT_ONCE :])
    s.enqueue(*loads, *rest(s))
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[2 * MOST_AT_ONCE]


def test_family_that_makes_much_is_short() -> None:
    """What is made of a task until it is combined counts, not the task."""
    s = Paper(2)
    loads = [s.add("load", n, nbytes=10) for n in range(2 * MOST)]
    large = [
        s.add("grow", 10 * (n + 1) + i, ts, nbytes=10)
        for n, ts in enumerate(loads)
        for i in range(MOST)
    ]
    s.add("sum", 100, *large)
    # Else it would be one family, up to twice the bound
    s.add("far", 200, large[MOST - 1], s.add("later", 150))
    s.enqueue(*loads, *rest(s))
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[1]


def combined(
    s: Paper, *numbers: int, nbytes: int | None = 10, partial: int | None = None
) -> list[TaskState]:
    """Return loads of which so many are combined at once, and what is made of that.

    Partial results are as large as loads, if they are not said to be otherwise.
    """
    partial = nbytes if partial is None else partial
    loads, sums = [], []
    n = 0
    for number in numbers:
        some = [s.add("load", n + i, nbytes=nbytes) for i in range(number)]
        sums.append(s.add("sum", n + number, *some, nbytes=partial))
        loads += some
        n += number + 1
    s.add("total", n, *sums)
    return loads


@pytest.mark.parametrize("nbytes", [None, 10])
def test_what_is_combined_at_once_is_one_family(nbytes: int | None) -> None:
    """If it is within twice the bound: torn, it would be there twice."""
    s = Paper(2)
    loads = combined(s, MOST_AT_ONCE, MOST_AT_ONCE, nbytes=nbytes)
    # And not what combines the sums
    assert reach_of(loads[0], 2).whole == (0, 0, MOST_AT_ONCE)
    s.enqueue(*loads)
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[MOST_AT_ONCE]


@pytest.mark.parametrize(
    ("partial", "number"), [(10, 2 * MOST), (15, 6), (16, 4), (1, MOST)]
)
def test_family_goes_on_with_what_is_combined_next(partial: int, number: int) -> None:
    """As long as partial results are within the bound, too; if small, loads count."""
    s = Paper(2)
    loads = combined(s, *[2] * 6, partial=partial)
    s.enqueue(*loads, *rest(s))
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[number]


def test_partial_results_of_all_that_is_combined_at_once() -> None:
    """They may be twice the bound, as loads may."""
    s = Paper(2)
    pairs = []
    for n in range(0, 4 * MOST_AT_ONCE, 4):
        pair = s.add("load", n, nbytes=10), s.add("mask", n + 1, nbytes=9)
        s.add("apply", n + 2, *pair, nbytes=10)
        pairs.append(pair)
    s.add("sum", 100, *[next(iter(load.dependents)) for load, _ in pairs])
    after = s.add("load", 200, nbytes=10)
    s.add("other", 201, after)
    s.enqueue(*[ts for pair in pairs for ts in pair], after, *rest(s))
    assert s.give(0) is pairs[0][0]
    assert s.give(1) is after


def test_what_is_not_combined_is_a_partial_result() -> None:
    """It is held as it is, and counts as that."""
    s = Paper(2)
    loads = combined(s, *[2] * 6)
    results = [s.add("load", n + 0.5, nbytes=10) for n in (3, 4)]
    s.enqueue(*loads, *results, *rest(s))
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[2 * MOST]


def test_family_ends_where_others_are_not_ready_yet() -> None:
    """What combines it waits for these, and no other family for this one."""
    s = Paper(2)
    loads = combined(s, 4, 4, 4)
    s.enqueue(*loads[:3], *loads[4:], *rest(s))
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[4]


def test_rest_of_what_is_combined_goes_on() -> None:
    """A family that begins amid what is combined at once has the same end."""
    s = Paper(3)
    loads = combined(s, MOST_AT_ONCE + 3, 2, 12)
    s.enqueue(*loads, *rest(s))
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[MOST_AT_ONCE]
    assert s.give(2) is loads[MOST_AT_ONCE + 5]


@pytest.mark.parametrize("workers", [2, 3])
def test_others_have_their_share_of_what_is_left(workers: int) -> None:
    """A family is not longer than that, though it would be within its bound."""
    s = Paper(workers)
    loads = combined(s, MOST)
    s.enqueue(*loads)
    assert s.give(0) is loads[0]
    # Rounded up
    assert s.give(1) is loads[2]


def test_what_is_held_back_does_not_join_a_family_that_was_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would count as given out, and nothing before it were held back."""
    s = Paper(1)
    loads = [s.add("load", n, nbytes=10) for n in range(4)]
    s.add("sum", 4, *loads)
    s.enqueue(loads[0], loads[3])
    assert s.give(0) is loads[0]
    [family] = s.queue.open.begun[s.all[0]]
    monkeypatch.setattr(RootishQueue, "is_held", lambda *of: True)
    s.enqueue(loads[1])
    assert list(family.tasks()) == [loads[3]]
    monkeypatch.setattr(RootishQueue, "is_held", lambda *of: False)
    s.enqueue(loads[2])
    assert family.head() is loads[2]


def test_what_is_combined_with_more_urgent_tasks() -> None:
    """As long as these are not there, it waits for them, and a family is no longer."""
    s = Paper(2)
    late = s.add("late", 0)
    name = s.add("name", 0.5, late)
    # Another worker has begun
    first, *loads = [s.add("load", n + 1, nbytes=10) for n in range(MOST_AT_ONCE)]
    total = s.add("sum", MOST_AT_ONCE + 1, name, s.send(first), *loads, nbytes=10)
    assert reach_of(loads[0], 2).whole == loads[0].priority
    s.finish(s.send(late), nbytes=10)
    s.finish(s.send(name), nbytes=10)
    assert reach_of(loads[0], 2).whole == total.priority


def test_fields_that_are_combined_first_are_one_family() -> None:
    """They are as long as what is combined of their products, but no longer."""
    s = Paper(2)
    tasks, sums = [], []
    for n in range(0, 80, 20):
        products = []
        for i in range(n, n + 16, 4):
            pair = s.add("u", i, nbytes=10), s.add("v", i + 1, nbytes=10)
            products.append(s.add("product", i + 2, *pair, nbytes=10))
            # There are two for each pair
            products.append(s.add("other", i + 3, *pair, nbytes=10))
            tasks += pair
        sums.append(s.add("sum", n + 16, *products[::2], nbytes=10))
        s.add("count", n + 17, *products[1::2], nbytes=10)
    total = s.add("total", 100, *sums)
    assert total.priority > reach_of(tasks[0], 2).whole == sums[0].priority
    s.enqueue(*tasks)
    assert s.give(0) is tasks[0]
    assert s.give(1) is tasks[8]


def test_what_is_needed_again_is_no_longer_family() -> None:
    """It is not freed by what combines it first, as in a stencil."""
    s = Paper(2)
    loads = combined(s, 2 * MOST, 2 * MOST)
    assert reach_of(loads[0], 2).whole > loads[1].priority
    # Another use that needs nothing else makes no difference
    s.add("square", 400, loads[0])
    s.add("squares", 500, *loads[: 2 * MOST])
    assert reach_of(loads[0], 2).whole > loads[1].priority
    s.add("neighbors", 600, loads[0], loads[-1])
    assert reach_of(loads[0], 2).whole == loads[0].priority


@pytest.mark.parametrize(
    ("use", "nbytes", "together"),
    [
        ("change", 10, True),
        ("change", 1, False),
        ("change", None, False),
        ("other", 10, False),
    ],
)
def test_what_stencils_make_is_combined_next(
    use: str, nbytes: int | None, together: bool
) -> None:
    """If it is large, chunks stay together for it, as for the deviation of changes."""
    s = Paper(2)
    chunks = [s.add("load", n, nbytes=10) for n in range(0, 60, 10)]
    parts = [
        s.add(
            "square",
            n + 2,
            s.add(use if n == 10 else "change", n + 1, *chunks[n // 10 - 1 :][:2]),
            nbytes=nbytes,
        )
        for n in range(10, 60, 10)
    ]
    total = s.add("sum", 55, *parts)
    whole = reach_of(chunks[1], 2).whole
    assert whole == (total if together else chunks[1]).priority


@pytest.mark.parametrize("workers", [2, 4])
def test_each_worker_has_its_share_of_what_is_held(workers: int) -> None:
    """Until a mean of all is there, it makes no difference for memory who has what."""
    s = Paper(workers)
    loads = anomalies(s, 64)
    s.enqueue(*loads)
    assert s.give(0) is loads[0]
    # Sums are not torn
    assert s.give(1) is loads[64 // workers]
    # The second has its share of what is left, and so on
    rest = 64 - 64 // workers
    if workers == 4:
        assert s.give(2) is loads[64 - rest + rest // workers]


def test_others_have_their_share_of_what_is_held() -> None:
    """Where the rest of it is not ready yet, the share is one of what waits."""
    s = Paper(2)
    loads = anomalies(s, 64)
    s.enqueue(*loads[:24])
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[12]


def test_share_is_of_what_is_held_as_long() -> None:
    """What comes in between and is not, is of another family."""
    s = Paper(2)
    loads = anomalies(s, 32)
    other = s.add("load", 95)
    s.add("sum", 96, other)
    s.enqueue(*loads, other)
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[8]


def test_share_is_what_is_combined_first_at_least() -> None:
    """However many workers there are."""
    s = Paper(16)
    loads = anomalies(s, 16)
    for n, ts in enumerate(loads):
        # So much is made of a load that there is no room for another
        s.add("square", 150 + n / 100, ts, nbytes=40)
    s.enqueue(*loads, *rest(s))
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[4]


def test_nothing_is_held_for_another_graph() -> None:
    """Its priorities say nothing of where this graph ends."""
    s = Paper(2)
    loads = combined(s, 2, 2, 2, 2, 2, 2)
    later = [s.add("later", n, graph=1, nbytes=10) for n in range(4)]
    mean = s.add("mean", 5, *later, graph=1, nbytes=1)
    for n, ts in enumerate(loads):
        s.add("subtract", 10 + n, ts, mean, graph=1, nbytes=1)
    assert held_until(loads[0]) == later[-1].priority
    assert reach_of(loads[0], 2) == Reach(
        loads[0].priority, None, later[-1].priority, loads[0].priority
    )


@pytest.mark.parametrize("other", [False, True])
def test_what_is_combined_first_is_not_torn(other: bool) -> None:
    """A family ends with what is combined, though a part of the next would fit.

    It does so if each is needed for something else as well, of which the end is far.
    """
    s = Paper(2)
    loads, sums, counts = [], [], []
    for n in range(0, 40, 10):
        three = [s.add("load", n + 2 * i, nbytes=10) for i in range(3)]
        names = [s.add("name", n + 2 * i + 1, ts) for i, ts in enumerate(three)]
        if other:
            for i, ts in enumerate(names, 50 + n):
                counts.append(s.add("count", i, ts, nbytes=1))
        sums.append(s.add("sum", n + 9, *names, nbytes=1))
        loads += three
    s.add("total", 100, *sums)
    if other:
        s.add("all", 101, *counts)
    s.enqueue(*loads, *rest(s))
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[3]
    assert [s.give(0) for _ in range(3)] == [*loads[1:3], loads[6]]


def test_bound_is_on_what_is_loaded_and_what_is_made() -> None:
    """Of fields that are multiplied, one leaves little; the other, more than it is."""
    s = Paper(2)
    tasks, products = [], []
    for n in range(0, 48, 6):
        pair = s.add("u", n, nbytes=10), s.add("v", n + 1, nbytes=10)
        copy = s.add("copy", n + 4, pair[1], nbytes=9)
        products += [s.add("product", n + 3, *pair, nbytes=10), copy]
        tasks += pair
    s.add("total", 100, *products)
    # Else it would be one family, up to twice the bound
    s.add("far", 200, products[0], s.add("later", 150))
    assert made(tasks[0]) == (10, 5)
    assert made(tasks[1]) == (10, 5 + 9)
    s.enqueue(*tasks)
    assert s.give(0) is tasks[0]
    assert s.give(1) is tasks[4]


def test_bound_is_of_the_largest_output() -> None:
    """A small task at the front does not make a family short."""
    s = Paper(1)
    tasks = []
    for n in range(0, 36, 3):
        pair = s.add("mask", n, nbytes=1), s.add("load", n + 1, nbytes=100)
        s.add("apply", n + 2, *pair, nbytes=100)
        tasks += pair
    s.add("sum", 100, *(next(iter(ts.dependents)) for ts in tasks[::2]))
    s.enqueue(*tasks, *rest(s))
    choice = s.offer(0)
    assert choice
    assert choice.task is tasks[0]
    assert len(choice.family.cells) == 2 * MOST_AT_ONCE


def test_families_of_packed_data_are_as_long_as_others() -> None:
    """What is made of each is much beside the load, but as much as of any other."""
    s = Paper(1)
    loads = [s.add("load", 2 * n, nbytes=10) for n in range(2 * MOST_AT_ONCE)]
    weights = s.add("weights", 98, nbytes=1)
    scaled = [
        s.add("scale", 2 * n + 1, ts, weights, nbytes=40) for n, ts in enumerate(loads)
    ]
    s.add("sum", 100, *scaled)
    # Else it would be one family, up to twice the bound
    s.add("far", 200, scaled[0], s.add("later", 150))
    s.enqueue(*loads)
    choice = s.offer(0)
    assert choice
    assert len(choice.family.cells) == MOST


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("pieces", "alone"), [(MOST_AT_ONCE, False), (MOST_AT_ONCE + 1, True)]
)
def test_chunks_that_are_cut_into_many_pieces(
    place: int, pieces: int, alone: bool
) -> None:
    """They are loaded in order, and so is what comes before one."""
    s = Paper(2)
    loads = [s.add("load", n, nbytes=10) for n in range(4)]
    cuts = [s.add("cut", 10 + n, ts, nbytes=1) for n, ts in enumerate(loads)]
    s.add("sum", 20, *cuts)
    for n in range(pieces - 1):
        cut = s.add("cut", 30 + n, loads[place])
        s.add("edge", 60 + n, cut, s.add("other", 50))
    s.enqueue(*loads, *rest(s))
    choice = s.offer(0)
    assert choice
    assert len(choice.family.cells) == (1 if alone else 4)


def test_what_many_use_is_not_cut_into_pieces() -> None:
    """Weights go to each of their chunks as they are."""
    s = Paper(2)
    weights = s.add("weights", 0, nbytes=10)
    loads = [s.add("load", n, nbytes=10) for n in range(1, 3 * MOST)]
    products = [
        s.add("product", 50 + n, weights, ts, nbytes=1) for n, ts in enumerate(loads)
    ]
    s.add("sum", 100, *products)
    s.enqueue(weights, *loads)
    choice = s.offer(0)
    assert choice
    assert len(choice.family.cells) > 1


def test_all_of_what_is_combined_first_is_left() -> None:
    """And not only the last of it."""
    s = Paper(2)
    loads = combined(s, 2, 4, 4)
    s.enqueue(*loads)
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[2]


def test_uses_that_overlap_leave_a_task() -> None:
    """A family has at least one task, whatever the order of priority says."""
    s = Paper(1)
    loads = [s.add("load", n, nbytes=1) for n in (0, 9, 11, 12, 13)]
    for n, ts in zip((10, 14, 15, 16, 17), loads):
        s.add("use", n, ts, s.add("other", 20 + n))
    s.add("sum", 100, *loads)
    s.enqueue(*loads)
    assert s.give_all(0) == loads


# -- Late ----------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [True, False])
def test_late_members_join(begun: bool) -> None:
    """What becomes ready late goes to the worker that has begun its family."""
    s = Paper(2)
    loads = s.pairs(4)
    early, late = loads[::2], loads[1::2]
    s.enqueue(*early)
    if begun:
        assert s.give(0) is early[0]
        s.enqueue(late[0])
        assert s.give(1) is early[1]
    else:
        assert s.offer(0)
        s.enqueue(late[0])
        # It is not on its way yet
        assert not s.queue.outstanding
        assert s.give(0) is early[0]
        assert s.give(1) is early[1]
    assert s.give(1) is early[2]
    assert s.give(0) is late[0]


def test_what_comes_after_a_family_does_not_join() -> None:
    """It is of another, which any worker may begin."""
    s = Paper(2)
    loads = combined(s, 2)
    s.enqueue(*loads, *rest(s))
    assert s.give(0) is loads[0]
    late = s.add("load", 50, nbytes=10)
    s.add("sum", 60, late, s.add("load", 51))
    s.enqueue(late)
    assert s.give(1) is late
    assert s.give(0) is loads[1]


def test_late_members_go_first() -> None:
    """Within a family, the most urgent is next."""
    s = Paper(2)
    loads = [s.add("load", n, nbytes=10) for n in range(MOST)]
    s.add("sum", 100, *loads)
    s.enqueue(loads[0], loads[3])
    assert s.give(0) is loads[0]
    s.enqueue(loads[1])
    s.enqueue(loads[2])
    assert s.give_all(0) == loads[1:]


def test_all_late_members_join() -> None:
    """However many these are: what combines them needs all, and the first as well."""
    s = Paper(2)
    first = s.add("load", 0, nbytes=10)
    late = [s.add("load", n) for n in range(1, 4 * MOST_AT_ONCE)]
    s.add("sum", 100, first, *late, nbytes=1)
    last = s.add("last", 1000)
    s.enqueue(first, last)
    assert s.give(0) is first
    s.enqueue(*late)
    assert s.give(1) is last
    assert s.give(0) is late[0]


def test_late_weights_join_whatever_may_be_made_of_them() -> None:
    """Many chunks are multiplied with them, and nothing is known of the products."""
    s = Paper(2)
    loads = [s.add("load", 10 * n) for n in range(MOST)]
    weights = [s.add("weights", 10 * n + 1) for n in range(MOST)]
    for ts in weights:
        for n, other in enumerate(loads):
            s.add("product", 200 + n, other, ts)
    s.add("sum", 100, *loads)
    s.enqueue(*loads, s.add("last", 1000))
    assert s.give(0) is loads[0]
    s.enqueue(*weights)
    assert s.give(0) is weights[0]


@pytest.mark.parametrize(
    ("combined_at", "joins"), [(3, True), (6, True), (7, False), (None, False)]
)
def test_late_weights_of_the_first_chunk_join(
    combined_at: int | None, joins: bool
) -> None:
    """They come right before their family, but are combined within it."""
    s = Paper(2)
    weights = s.add("weights", 0, nbytes=1)
    loads = [s.add("load", n, nbytes=10) for n in (1, 2)]
    s.add("sum", 6, *loads)
    if combined_at is not None:
        chunk = loads[0] if joins else s.add("other", 6.5, nbytes=1)
        s.add("use", combined_at, weights, chunk)
    s.enqueue(*loads, s.add("last", 1000), *rest(s))
    assert s.give(0) is loads[0]
    s.enqueue(weights)
    assert s.give(1 - joins) is weights


def test_families_are_made_when_they_are_needed() -> None:
    """More is known of outputs then, and more tasks may be ready."""
    s = Paper(2)
    s.enqueue(*combined(s, 3, 4, 4))
    for _ in range(MOST):
        assert s.give(0)
        assert not s.queue.open.next


def test_an_empty_queue_keeps_no_family() -> None:
    """Nothing is kept once nothing waits: what comes later goes by its order."""
    s = Paper(2)
    loads = s.pairs(2)
    s.enqueue(loads[0])
    assert s.give(0) is loads[0]
    s.enqueue(*loads[1:])
    assert s.give(1) is loads[1]


def test_families_that_are_over() -> None:
    """A thread goes on with the last and the one before; later ones are for anyone."""
    s = Paper(2)
    loads = s.pairs(3)
    last = s.add("last", 1000)
    s.enqueue(*loads[::2], last)
    assert [s.give(0) for _ in loads[::2]] == loads[::2]
    s.enqueue(*loads[1::2])
    assert s.give(1) is loads[1]
    assert s.give_all(0) == [*loads[3::2], last]


# -- Graphs that are played in virtual time ------------------------------------------

#: What tasks give, in bytes, by prefix. Others make a number
NBYTES = {
    **dict.fromkeys(["load", "combine", "multiply"], CHUNK_NBYTES),
    "weights": 256,
}


def play(dsk: Mapping[Any, Task], on: bool, cluster: Cluster = PLAYED["4x1"]) -> Noted:
    """Compute the task ``total`` of a graph, with or without families."""
    config = None if on else OFF
    played = utils.play(dsk, ["total"], NBYTES, cluster=cluster, config=config)
    return played.simulation


def torn(played: Noted, families: Iterable[Iterable[int]]) -> int:
    """Count the families whose loads ran on different workers."""
    spans = played.spans
    return sum(len({spans["load", n].worker for n in some}) > 1 for some in families)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("on", [True, False])
def test_families_of_a_tree(on: bool, width: int) -> None:
    """Loads that are combined first run on one worker, those of the first wave too."""
    leaves = 32 * width
    families = [range(n, n + width) for n in range(0, leaves, width)]
    played = play(tree(leaves, width), on)
    assert len({span.worker for span in played.spans.values()}) == 4
    # Who has nothing else to do helps at the end
    assert (torn(played, families) < 4) is on
    assert (played.moved < leaves * CHUNK_NBYTES / 8) is on


@pytest.mark.parametrize("on", [True, False])
def test_two_fields(on: bool) -> None:
    """Fields that are combined elementwise are read on one worker."""
    played = play(tree(128, 2), on, PLAYED["2x2"])
    assert (torn(played, [range(n, n + 2) for n in range(0, 128, 2)]) < 4) is on


def mean(*chunks: bytes) -> int:
    return sum(map(len, chunks)) // len(chunks)


def stencil(number: int) -> dict[Any, Task]:
    """Make means of each chunk and its two neighbors."""
    dsk: dict[Any, Task] = {}
    for n in range(number):
        dsk["load", n] = Task(("load", n), load, n)
    for n in range(number):
        around = range(max(n - 1, 0), min(n + 2, number))
        chunks = [TaskRef(("load", i)) for i in around]
        dsk["mean", n] = Task(("mean", n), mean, *chunks)
    means = [TaskRef(("mean", n)) for n in range(number)]
    dsk["total"] = Task("total", sum, List(*means))
    return dsk


def test_stencil() -> None:
    """Chunks that use their neighbors are loaded in stretches."""
    pairs = [range(n, n + 2) for n in range(95)]
    counts = {on: torn(play(stencil(96), on), pairs) for on in (True, False)}
    # Not those of the first wave, of which nothing is known, nor the last
    assert counts[True] < 2 / 3 * counts[False], counts


def weights(*args: object) -> np.ndarray[Any, Any]:
    return np.ones(32)


def multiply(chunk: bytes, weights: object) -> bytes:
    return bytes(len(chunk))


def weighted_means(number: int, width: int) -> dict[Any, Task]:
    """Make means of chunks by their weights, each of ``width``."""
    dsk: dict[Any, Task] = {}
    means = []
    for n in range(number):
        products, some = [], []
        for i in range(n * width, (n + 1) * width):
            dsk["load", i] = Task(("load", i), load, i)
            dsk["weights", i] = Task(("weights", i), weights, i)
            dsk["multiply", i] = Task(
                ("multiply", i),
                multiply,
                TaskRef(("load", i)),
                TaskRef(("weights", i)),
            )
            products.append(TaskRef(("multiply", i)))
            some.append(TaskRef(("weights", i)))
        dsk["sum", n] = Task(("sum", n), len, List(*products))
        dsk["norm", n] = Task(("norm", n), len, List(*some))
        dsk["mean", n] = Task(
            ("mean", n), max, TaskRef(("sum", n)), TaskRef(("norm", n))
        )
        means.append(TaskRef(("mean", n)))
    dsk["total"] = Task("total", sum, List(*means))
    return dsk


@pytest.mark.parametrize("cluster", PLAYED)
@pytest.mark.parametrize("on", [True, False])
def test_weighted_means(on: bool, cluster: str) -> None:
    """Chunks and their weights meet where they were loaded."""
    played = play(weighted_means(32, 4), on, PLAYED[cluster])
    assert (played.moved < 128 * CHUNK_NBYTES / 4) is on


# -- Clusters ------------------------------------------------------------------------


@pytest.mark.parametrize("marks", [True, False])
@policy_cluster(FOUR_WORKERS)
async def test_chunks_in_memory(c: Any, s: Any, *workers: Any, marks: bool) -> None:
    """Families do not lead a worker far ahead of the order."""
    seen = await watch(s, "load")
    dsk = tree(160, 4)
    if marks:
        for n in range(160):
            dsk["load", n] = Task(("load", n), load, n, _data_producer=True)
    [total] = c.get(dsk, ["total"], sync=False)
    await total
    assert seen.peak_chunks <= 3 * slots(s), (seen.peak_chunks, slots(s))
