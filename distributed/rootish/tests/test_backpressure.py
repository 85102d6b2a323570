"""What was loaded is consumed before more is loaded, and nothing waits in vain."""

from __future__ import annotations

import gc
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import dask
import pytest
from dask import delayed
from dask._task_spec import Task, TaskRef

from distributed import Event, secede, wait, worker_client
from distributed.rootish.backpressure import (
    Kind,
    Outstanding,
    find_consumer,
    finished,
    frees,
    is_about_to_run,
    is_chain,
    kind_of,
    loads_much,
    would_wait,
)
from distributed.rootish.families import FAMILY_OUTPUT, priority_of
from distributed.rootish.lanes import Pool
from distributed.rootish.policy import HANDLE_BYTES, LOOKED_AT, SMALL_PART
from distributed.rootish.queue import RootishQueue
from distributed.rootish.tests.paper import Paper
from distributed.rootish.tests.utils import (
    CHUNK_NBYTES,
    PLAYED,
    TWO_WORKERS,
    load,
    play,
    policy_cluster,
    slots,
)
from distributed.scheduler import TaskState, TaskStateState
from distributed.utils_test import async_poll_for

WAITING = "distributed.scheduler.rootish-waiting"
UNKNOWN = "distributed.scheduler.unknown-task-duration"

#: Nothing is let go since consumers take long
PATIENT = {UNKNOWN: "1h"}

#: Begun families may be finished beyond the bound: the rest of one on each worker
REST = int(FAMILY_OUTPUT) - 1


# -- On paper ------------------------------------------------------------------------


def fold(
    s: Paper,
    number: int = 40,
    nbytes: int | None = CHUNK_NBYTES,
    graph: int = 0,
    begin: int = 0,
    state: int = 1,
) -> Any:
    """Make loads that are consumed one after the other; the first consumer runs."""
    model = s.send(s.add("init", begin, graph=graph, nbytes=1))
    numbers = range(begin + 1, begin + 2 * number, 2)
    loads = [s.add("load", n, graph=graph, nbytes=nbytes) for n in numbers]
    fits = []
    for n, ts in zip(numbers, loads):
        model = s.add("fit", n + 1, model, ts, graph=graph, nbytes=state)
        fits.append(model)
    return loads, fits


@pytest.mark.parametrize("waiting", [1, 2, 3.5])
def test_bound(waiting: float) -> None:
    """So many wait for each slot, and no more until one is consumed."""
    s = Paper(2, waiting=waiting)
    loads, fits = fold(s)
    s.enqueue(*loads)
    given = s.give_all(0)
    bound = math.ceil(waiting * 4)
    assert bound <= len(given) <= bound + REST
    assert given == loads[: len(given)]
    assert s.is_held(loads[-1])
    for ts in given:
        s.finish(ts, nbytes=CHUNK_NBYTES)
    assert s.give(0) is s.give(1) is None
    # Each consumer frees one
    s.send(fits[0])
    s.finish(s.tasks["init", 0, 0], nbytes=1)
    for n in range(len(fits) - 1):
        s.finish(fits[n], nbytes=1)
        s.release(loads[n])
        s.send(fits[n + 1])
        for ts in s.give_all(1):
            given.append(ts)
            s.finish(ts, nbytes=CHUNK_NBYTES)
        # Neither much more nor less than that
        left = len(loads) - n - 1
        assert min(bound - 1, left) <= len(given) - n - 1 <= bound + REST
        assert s.give(0) is None
    assert given == loads


def test_turned_off() -> None:
    """Any number may wait if the setting says so."""
    s = Paper(2, waiting=math.inf)
    loads, _ = fold(s)
    s.enqueue(*loads)
    assert s.give_all(0) == loads
    assert not s.is_held(loads[-1])


@pytest.mark.parametrize(
    "nbytes", [None, 1, HANDLE_BYTES, HANDLE_BYTES + 1, 10 * HANDLE_BYTES]
)
def test_what_matters_for_memory(nbytes: int | None) -> None:
    """Handles, paths and what nothing is known of are not waited for."""
    s = Paper(2)
    loads, _ = fold(s, nbytes=nbytes)
    s.enqueue(*loads)
    held = nbytes is not None and nbytes > HANDLE_BYTES
    assert loads_much(loads[0]) == (nbytes if held else 0)
    assert (len(s.give_all(0)) < len(loads)) is held


def test_other_data_goes_on() -> None:
    """What is held back holds nothing else back."""
    s = Paper(2)
    loads, _ = fold(s)
    others = [s.add("other", 1000 + n, nbytes=CHUNK_NBYTES) for n in range(10)]
    s.enqueue(*loads, *others)
    given = s.give_all(0)
    assert set(others) < set(given)
    assert len(given) < len(loads)
    why = s.queue.why_waiting()
    assert why == {loads[0].group: Counter(backpressure=len(s.queue))}


def held_back(s: Paper) -> tuple[list[TaskState], list[TaskState], list[TaskState]]:
    """Give out loads until others are held back; return both, and the consumers."""
    loads, fits = fold(s)
    s.enqueue(*loads)
    given = s.give_all(0)
    assert s.queue.open.held
    return given, loads[len(given) :], fits


def test_why_tasks_wait_of_which_some_are_cancelled() -> None:
    """Who was cancelled does not wait, in a family, in a run, or held back."""
    s = Paper(2)
    _, held, _ = held_back(s)
    for ts in held[:-1]:
        s.forget(ts)
    assert s.queue.why_waiting() == {held[-1].group: Counter(backpressure=1)}
    others = [s.add("other", 1000 + n, graph=1, nbytes=10) for n in range(8)]
    s.add("combine", 2000, *others, *(s.add("late", 3000 + n) for n in range(9)))
    s.enqueue(*others)
    assert s.give(0) is others[0]
    s.forget(others[2])
    why = s.queue.why_waiting()[others[0].group]
    assert why == Counter(family=2, order=4)
    for ts in (others[1], *others[3:]):
        s.forget(ts)
    assert s.queue.why_waiting() == {held[-1].group: Counter(backpressure=1)}


def test_taken_back_when_there_is_room() -> None:
    """What was held back is not any more, though its first task was cancelled."""
    s = Paper(2)
    given, held, fits = held_back(s)
    s.forget(held[0])
    for ts in given:
        s.finish(ts, nbytes=CHUNK_NBYTES)
    for ts in fits[: len(given)]:
        s.finish(s.send(ts) if ts.state == "waiting" else ts, nbytes=1)
    for ts in given:
        s.release(ts)
    assert s.give(0) is held[1]
    assert not s.queue.open.held


def test_all_of_what_is_held_back_is_cancelled() -> None:
    """Others are given out all the same."""
    s = Paper(2)
    _, held, _ = held_back(s)
    other = s.add("other", 1000, nbytes=10)
    s.enqueue(other)
    for ts in held:
        s.forget(ts)
    assert s.give(0) is other


@pytest.mark.parametrize("kind", ["load", "result", "kept", "gap", "not full"])
def test_why_a_family_waits(kind: str) -> None:
    """It waits for consumers, unless it is no load that could be held back."""
    s = Paper(2)
    loads, fits = fold(s)
    s.enqueue(*loads)
    choice = s.offer(0)
    assert choice
    chain = choice.family.kind()
    assert is_chain(chain)
    outstanding = s.queue.outstanding[chain] = Outstanding()
    outstanding.consumers = fits[0].group if kind != "not full" else None
    if kind == "result":
        choice.task.dependents.clear()
    if kind == "kept":
        choice.task.who_wants = {s.client}
    if kind == "gap":
        outstanding.latest = loads[-1].priority
    held = len(choice.family.cells) if kind == "load" else 0
    assert held < len(loads)
    why = Counter(backpressure=held, order=len(loads) - held)
    assert s.queue.why_waiting() == {loads[0].group: +why}


def test_chains_on_workers_of_their_own() -> None:
    """What is loaded for one chain says nothing of what another may load."""
    s = Paper(4)
    given = []
    for n, ws in enumerate(s.all):
        loads, _ = fold(s, graph=n)
        for ts in loads:
            ts.worker_restrictions = {ws.address}
        s.enqueue(*loads)
        given.append(len(s.give_all(n)))
        assert s.is_held(loads[-1])
    assert given == [given[0]] * 4


@pytest.mark.parametrize("nworkers", [1, 2, 4])
def test_bound_of_all_workers_that_may_load(nworkers: int) -> None:
    """Loads that are bound to one worker each have the bound of these together."""
    s = Paper(4)
    loads, _ = fold(s, 80)
    for n, ts in enumerate(loads):
        ts.worker_restrictions = {s.all[n % nworkers].address}
    s.enqueue(*loads)
    given = [ts for n in range(nworkers) for ts in s.give_all(n)]
    bound = 2 * 2 * nworkers
    assert bound <= len(given) <= bound + REST * nworkers
    # What others are ahead of fills a gap
    latest = max(given, key=priority_of)
    before = loads[: loads.index(latest)]
    for n in range(nworkers):
        given += s.give_all(n)
    assert set(before) < set(given)
    # One that joins adds to it
    s.join(4)
    more = s.add("load", 1000, nbytes=CHUNK_NBYTES)
    s.add("fit", 1001, more, loads[-1])
    more.worker_restrictions = {s.all[4].address}
    s.enqueue(more)
    assert s.give(4) is more


def test_workers_of_several_pools_count_once() -> None:
    """Loads that are open to two workers each have the bound of all, no more."""
    s = Paper(4)
    loads, _ = fold(s, 80)
    for n, ts in enumerate(loads):
        ts.worker_restrictions = {s.all[(n + i) % 4].address for i in range(2)}
    s.enqueue(*loads)
    given = [s.give(n) for _ in range(20) for n in range(4)]
    assert 16 <= len([*filter(None, given)]) <= 16 + 4 * REST


def test_bound_grows_with_the_cluster() -> None:
    """As soon as a worker has joined."""
    s = Paper(2)
    loads, _ = fold(s)
    s.enqueue(*loads)
    given = s.give_all(0)
    assert len(given) <= 8 + REST
    s.join(2)
    s.queue._count_again()
    given += s.give_all(2)
    assert 12 <= len(given) <= 12 + REST


def test_loads_for_other_consumers_go_on() -> None:
    """Only what would wait for the same consumers is held back."""
    s = Paper(2)
    loads, _ = fold(s)
    others = []
    for n, ts in enumerate(loads):
        # Of the same group, and in between
        load = s.add("load", 0, graph=n + 1)
        load.priority = (*priority_of(ts), 1)
        s.add("scale", 1000 + n, load, nbytes=CHUNK_NBYTES)
        others.append(load)
        assert load.group is ts.group
    s.enqueue(*(ts for two in zip(loads, others) for ts in two))
    given = s.give_all(0)
    assert set(others) < set(given)
    assert 2 * 4 <= len(set(given) & set(loads)) <= 2 * 4 + REST
    assert s.queue.why_waiting() == {
        loads[0].group: Counter(backpressure=len(loads) + len(others) - len(given))
    }


@pytest.mark.parametrize("settled", [False, True])
def test_consumers_that_come_later(settled: bool) -> None:
    """Loads that wait already are told apart by them."""
    s = Paper(2)
    load = s.add("load", 0, nbytes=CHUNK_NBYTES)
    loads = [s.add("load", n) for n in range(1, 100)]
    s.enqueue(load, *loads)
    if settled:
        assert s.give(0) is load
    model = s.send(s.add("init", 200, nbytes=1))
    for n, ts in enumerate(loads):
        if n % 2:
            model = s.add("fit", 300 + n, model, ts, nbytes=1)
        else:
            s.add("scale", 300 + n, ts, nbytes=CHUNK_NBYTES)
    given = s.give_all(0)
    held = [ts for ts in loads if ts not in given]
    assert all(dts in loads[1::2] for dts in held)
    assert 2 * 4 <= len(loads[1::2]) - len(held) <= 2 * 4 + REST


def test_what_is_held_back_joins_no_family() -> None:
    """Although it lies between those that meet in one."""
    s = Paper(2)
    loads, others = [], []
    model = s.send(s.add("init", 0, nbytes=1))
    for n in range(1, 400, 10):
        pair = [s.add("other", n + i, nbytes=CHUNK_NBYTES) for i in (0, 3)]
        loads.append(s.add("load", n + 1, nbytes=CHUNK_NBYTES))
        model = s.add("fit", n + 2, model, loads[-1], nbytes=1)
        s.add("combine", n + 4, *pair, nbytes=1)
        others += pair
    s.enqueue(*loads, *others)
    given = s.give_all(0)
    assert set(others) < set(given)
    assert len(set(given) & set(loads)) <= 2 * 4 + REST


@pytest.mark.parametrize(("nbytes", "is_held"), [(1, True), (CHUNK_NBYTES, False)])
def test_consumers_that_keep_what_they_get(nbytes: int, is_held: bool) -> None:
    """To wait for them frees nothing, although what they wait for is running."""
    s = Paper(2)
    model = s.send(s.add("init", 0, nbytes=1))
    loads = [s.add("load", n, nbytes=CHUNK_NBYTES) for n in range(1, 80, 2)]
    for n, ts in zip(range(2, 81, 2), loads):
        s.add("apply", n, model, ts, nbytes=nbytes)
    s.enqueue(*loads)
    assert (len(s.give_all(0)) < len(loads)) is is_held


def test_running_sum_is_waited_for() -> None:
    """A step frees its load, although it makes as much: it frees the step before."""
    s = Paper(2)
    total = s.send(s.add("begin", 0, nbytes=CHUNK_NBYTES))
    loads = [s.add("load", n, nbytes=CHUNK_NBYTES) for n in range(1, 80, 2)]
    for n, ts in zip(range(2, 81, 2), loads):
        total = s.add("add", n, total, ts, nbytes=CHUNK_NBYTES)
    s.enqueue(*loads)
    assert 2 * 4 <= len(s.give_all(0)) <= 2 * 4 + REST
    # It does not if it frees nothing of its own
    other = s.add("append", 101, total, loads[0], nbytes=CHUNK_NBYTES)
    assert not frees(other, loads[0], CHUNK_NBYTES)


def test_kind_of() -> None:
    """What is loaded, and for whom: the last that needs it."""
    s = Paper(2)
    ts = s.add("load", 0)
    assert kind_of(ts) == ("load", "")
    s.add("scale", 1, ts)
    assert kind_of(ts) == ("load", "scale")
    s.add("sum", 3, ts)
    s.add("mean", 2, ts)
    assert kind_of(ts) == ("load", "sum")
    for n in range(LOOKED_AT):
        s.add("use", 10 + n, ts)
    assert kind_of(ts) == ("load", "")


def test_slow_consumers_of_what_many_load() -> None:
    """What waits longest is counted, however many loads are under way."""
    nworkers = 5 * LOOKED_AT
    s = Paper(nworkers + 1)
    loads, infers = [], []
    for n in range(20 * nworkers):
        loads.append(s.add("load", 2 * n, nbytes=CHUNK_NBYTES))
        infers.append(s.add("infer", 2 * n + 1, loads[-1], nbytes=1))
        infers[-1].worker_restrictions = {s.all[-1].address}
    s.enqueue(*loads)
    most = 0
    for _ in range(30):
        # As many as workers hold at once
        given = [s.give(n) for n in range(nworkers) for _ in range(2)]
        for ts in filter(None, given):
            s.finish(ts, nbytes=CHUNK_NBYTES)
            [dts] = ts.dependents
            s.send(dts, s.all[-1])
        most = max(most, sum(ts.state == "memory" for ts in loads))
        # Those that are consumed meanwhile are few
        ts = next(ts for ts in infers if ts.state == "processing")
        s.finish(ts, nbytes=1)
        [dts] = ts.dependencies
        s.release(dts)
    bound = 2 * 2 * (nworkers + 1)
    # Beside these, each worker has its slots, and the rest of a family
    assert bound <= most <= bound + (2 + REST) * nworkers


@pytest.mark.parametrize(("chains", "waiting"), [(1, 2), (2, 8), (8, 2)])
def test_chains_of_consumers_go_on_side_by_side(chains: int, waiting: int) -> None:
    """Several have equal shares of half the bound, and two loads at least."""
    s = Paper(4, waiting=waiting)
    folds = [fold(s, begin=100 * n)[0] for n in range(chains)]
    s.enqueue(*(ts for loads in folds for ts in loads))
    given = s.give_all(0)
    bound = waiting * 8
    share = max(bound / (2 * chains), 2) if chains > 1 else bound
    for loads in folds:
        mine = [ts for ts in given if ts in loads]
        assert share <= len(mine) <= share + REST
        assert mine == loads[: len(mine)]
    assert sum(s.queue.open.pool.chains.values()) == chains


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize(
    ("state", "busy", "worker"),
    [
        (CHUNK_NBYTES + 1, 1, 0),
        # The step would run where the load is
        (CHUNK_NBYTES, 1, 1),
        # The load would wait for a thread
        (CHUNK_NBYTES + 1, 2, 1),
    ],
)
def test_loads_go_to_the_state_of_their_chain(
    state: int, busy: int, worker: int, running: bool
) -> None:
    """If it is larger than a fifth of a load, and a thread is free there."""
    assert SMALL_PART == 1 / 5
    s = Paper(2)
    s.total_nthreads = 4
    for ws in s.all:
        ws.nthreads = 2
    loads, fits = fold(s, nbytes=5 * CHUNK_NBYTES, state=state)
    s.finish(*fits[0].dependencies - {loads[0]}, nbytes=1)
    for ts, step in zip(loads[:2], fits):
        s.send(ts)
        s.finish(ts, nbytes=5 * CHUNK_NBYTES)
        s.send(step)
        if step is fits[0] or not running:
            s.finish(step, nbytes=state)
    others = [s.send(s.add("other", 1000 + n)) for n in range(busy - running)]
    assert len(s.all[0].processing) == len(others) + running == busy
    s.enqueue(*loads[2:])
    s.idle_task_count = set(s.all)
    choice = s.queue.choose()
    assert choice
    assert choice.task is loads[2]
    assert choice.worker is s.all[worker]


def test_loads_go_where_the_last_step_runs() -> None:
    """What the step before has made lies elsewhere, but is done with then."""
    s = Paper(2)
    s.all[1].nthreads = 2
    loads, [step, *steps] = fold(s, nbytes=CHUNK_NBYTES, state=CHUNK_NBYTES)
    for ts in (*loads[:2], step):
        s.send(ts, s.all[0])
    for ts in (*step.dependencies, step, loads[1]):
        s.finish(ts, nbytes=CHUNK_NBYTES)
    s.send(steps[0], s.all[1])
    s.enqueue(*loads[2:])
    s.idle_task_count = set(s.all)
    choice = s.queue.choose()
    assert choice
    assert choice.worker is s.all[1]


def test_family_of_a_chain_stays_where_it_was_begun() -> None:
    """A thread at the state that is free later makes no difference."""
    s = Paper(2)
    loads, [step, *_] = fold(s, nbytes=CHUNK_NBYTES, state=CHUNK_NBYTES)
    for ts in step.dependencies:
        if ts.state != "processing":
            s.send(ts)
        s.finish(ts, nbytes=CHUNK_NBYTES)
    s.send(step)
    s.enqueue(*loads[1:])
    assert s.give(1) is loads[1]
    s.finish(step, nbytes=CHUNK_NBYTES)
    s.finish(loads[1], nbytes=CHUNK_NBYTES)
    s.idle_task_count = set(s.all)
    s.send(s.add("other", 1000))
    s.all[0].nthreads = 2
    choice = s.queue.choose()
    assert choice
    assert choice.reason == "own"
    assert choice.worker is s.all[1]


def test_first_loads_of_a_chain_go_anywhere() -> None:
    """There is no state as yet."""
    s = Paper(2)
    s.enqueue(*fold(s)[0])
    s.idle_task_count = set(s.all)
    choice = s.queue.choose()
    assert choice
    assert choice.worker is s.all[1]


def test_loads_through_handles_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not join the families of these beyond the bound, nor is each asked."""
    s = Paper(2)
    model = s.send(s.add("init", 0, nbytes=1))
    handles, loads = [], []
    for n in range(1, 120, 3):
        handles.append(s.add("open", n, nbytes=100))
        loads.append(s.add("load", n + 1, handles[-1], nbytes=CHUNK_NBYTES))
        model = s.add("fit", n + 2, model, loads[-1], nbytes=1)
    s.enqueue(*handles)
    given = []
    while (ts := s.give(0)) is not None:
        if ts in handles:
            s.finish(ts, nbytes=100)
            s.enqueue(loads[handles.index(ts)])
        else:
            given.append(ts)
    assert 2 * 4 <= len(given) <= 2 * 4 + REST
    assert sorted(given, key=priority_of) == loads[: len(given)]
    asked = []
    monkeypatch.setattr(RootishQueue, "is_held", lambda *of: not asked.append(of))
    assert s.offer(1) is None
    assert len(asked) <= 2


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", ["load", "mask"])
def test_what_joins_the_family_of_a_chain(name: str, begun: bool) -> None:
    """It counts as what it is, and not as one for the chain."""
    s = Paper(2)
    loads, _ = fold(s)
    ts = s.add(name, 4, nbytes=CHUNK_NBYTES)
    s.add("scale", 1000, ts, nbytes=1)
    s.enqueue(*loads)
    assert s.give(0) if begun else s.offer(0)
    s.enqueue(ts)
    [family] = [family for family in s.queue.open.families() if ts in family.tasks()]
    assert (family.worker is not None) is begun
    assert family.head() in loads
    cell, _ = s.queue._cells[ts]
    assert cell[1] == (name, "scale")


def test_end_of_a_chain() -> None:
    """What is left of others has its share, and nothing is kept of it."""
    s = Paper(2)
    folds = [fold(s, begin=100 * n)[0] for n in range(2)]
    s.enqueue(*(ts for loads in folds for ts in loads))
    before = s.give_all(0)
    for ts in folds[0]:
        if ts in s.queue:
            s.forget(ts)
    more = s.give_all(0)
    assert set(more) < set(folds[1])
    assert 2 * 4 <= len(set(before + more) & set(folds[1])) <= 2 * 4 + REST
    assert len(more) >= 4
    assert s.queue.open.pool.chains == {"load": 1}
    for ts in folds[0]:
        if ts.state == "processing":
            s.forget(ts)
    s.queue.slacken(0)
    assert list(s.queue.outstanding) == [line.kind for line in s.queue.open.held]


def test_what_comes_after_a_chain() -> None:
    """Other loads of the group are not for it: they are not held back with it."""
    s = Paper(2)
    loads, _ = fold(s)
    others = [s.add("load", 100 + n) for n in range(8)]
    for n, ts in enumerate(others):
        s.add("use", 200 + n, ts, nbytes=1)
    s.enqueue(*loads, *others)
    given = s.give_all(0)
    assert loads[-1] not in given
    assert set(others) < set(given)


@pytest.mark.parametrize(
    ("shape", "chained"),
    [
        ("fold", True),
        ("fold of two", True),
        ("fold of what is cleaned", True),
        ("tree", False),
        ("each", False),
        ("one", False),
        ("window", False),
        ("pairs", False),
        ("turn about", False),
    ],
)
def test_what_is_a_chain(shape: str, chained: bool) -> None:
    """Consumers of which each needs what the one before has made."""
    s = Paper(2)
    loads = [s.add("load", n, nbytes=CHUNK_NBYTES) for n in range(96)]
    cleaned = loads
    if shape == "fold of what is cleaned":
        cleaned = [s.add("clean", 100 + n, ts) for n, ts in enumerate(loads)]
    width = {"fold of two": 2, "tree": 4, "one": 96, "pairs": 2}.get(shape, 1)
    uses: list[TaskState] = []
    for n in range(0, len(loads), width):
        inputs = cleaned[n : n + (3 if shape == "window" else width)]
        if shape.startswith("fold") or shape == "turn about":
            inputs += uses[-1:]
        name = "other" if shape == "turn about" and n % 2 else "use"
        uses.append(s.add(name, 200 + n, *inputs))
    if shape == "pairs":
        for n, pair in enumerate(zip(uses[::2], uses[1::2])):
            s.add("use", 300 + n, *pair)
    s.enqueue(*loads)
    assert s.offer(0)
    assert s.queue.open.pool.chains == ({"load": 1} if chained else {})


def test_what_is_beside_a_chain() -> None:
    """Another load for a consumer of that name is of the kind without a number."""
    s = Paper(2)
    loads, _ = fold(s)
    other = s.add("load", 200, nbytes=CHUNK_NBYTES)
    s.add("fit", 201, other, nbytes=1)
    numbers = {s.queue.kind_of(ts)[1] for ts in loads}
    assert len(numbers) == 1
    assert s.queue.kind_of(other) == ("load", "fit")


def test_what_comes_to_a_line_that_is_held_back() -> None:
    """It waits there, and is no second time among those that may go."""
    s = Paper(2)
    loads, _ = fold(s)
    s.enqueue(*loads[:-1])
    s.give_all(0)
    assert s.queue.open.held
    s.enqueue(loads[-1])
    assert list(s.queue.open.lines()) == s.queue.open.held


def test_only_chains_are_counted() -> None:
    """When a line ends as well."""
    s = Paper(1)
    s.enqueue(s.add("mask", 0), s.add("load", 1), s.add("load", 2))
    for _ in range(2):
        assert s.give(0)
    assert not s.queue.open.pool.chains


def test_held_back_or_not_it_joins_a_family_that_is_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s = Paper(1)
    loads = [s.add("load", n, nbytes=CHUNK_NBYTES) for n in range(4)]
    s.add("sum", 4, *loads, nbytes=1)
    s.enqueue(loads[0], loads[3])
    choice = s.offer(0)
    assert choice
    monkeypatch.setattr(RootishQueue, "is_held", lambda *of: True)
    s.enqueue(loads[1])
    assert loads[1] in choice.family.tasks()


@pytest.mark.parametrize(
    ("state", "over"),
    [
        ("queued", False),
        ("processing", False),
        ("memory", False),
        ("released", True),
        ("forgotten", True),
    ],
)
def test_what_is_loaded_is_over(state: TaskStateState, over: bool) -> None:
    s = Paper(2)
    ts = s.add("load", 0)
    outstanding = Outstanding()
    assert outstanding.is_over()
    outstanding.add(ts, Pool(s))
    s.move(ts, state)
    assert outstanding.is_over() == over
    del s.tasks[ts.key], ts
    assert outstanding.is_over()


def test_what_is_held_back_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first of a prefix is looked at, however its tasks became ready."""
    s = Paper(2)
    loads, _ = fold(s, 400)
    for n, ts in enumerate(loads):
        # One of a group, as it is with many files
        ts.group = s.add(f"load-{n:032x}", 1000 + n, nbytes=CHUNK_NBYTES).group
    s.enqueue(*loads[::-1])
    s.give_all(0)
    assert s.is_held(loads[-1])
    asked = []

    def ask(queue: RootishQueue, ts: TaskState, pool: Pool, kind: Kind) -> bool:
        asked.append(ts)
        return is_held(queue, ts, pool, kind)

    is_held = RootishQueue.is_held
    monkeypatch.setattr(RootishQueue, "is_held", ask)
    assert s.give(1) is None
    assert 0 < len(asked) < 10


def test_data_that_must_be_held_is_not_held_back() -> None:
    """An anomaly needs the mean of all that is loaded first."""
    s = Paper(2)
    loads = [s.add("load", n, nbytes=CHUNK_NBYTES) for n in range(40)]
    mean = s.add("mean", 100, *loads, nbytes=1)
    for n, ts in enumerate(loads):
        s.add("subtract", 101 + n, ts, mean, nbytes=1)
    s.enqueue(*loads)
    for ts in loads:
        assert s.give(0) is ts
        s.finish(ts, nbytes=CHUNK_NBYTES)


def test_persisted_data_is_not_held_back() -> None:
    """What a client wants stays, whoever else needs it."""
    s = Paper(2)
    loads, _ = fold(s)
    for ts in loads:
        ts.who_wants = {s.client}
    s.enqueue(*loads)
    assert s.give_all(0) == loads


def test_gaps_are_filled() -> None:
    """What comes before all that was loaded is what consumers wait for."""
    s = Paper(2)
    loads, _ = fold(s)
    s.enqueue(*loads[1:])
    s.give_all(0)
    assert s.is_held(loads[-1])
    s.enqueue(loads[0])
    assert not s.is_held(loads[0])
    assert s.give(1) is loads[0]


def test_nothing_runs() -> None:
    """Where no consumer could free anything, the next is loaded."""
    s = Paper(2)
    loads, _ = fold(s)
    s.enqueue(*loads)
    given = s.give_all(0)
    for ts in given:
        s.finish(ts, nbytes=CHUNK_NBYTES)
    assert s.give(0) is None
    # The first consumer is lost, and nothing else is running
    first = s.tasks["init", 0, 0]
    assert first.processing_on
    first.processing_on.processing.clear()
    first.processing_on = None
    s.move(first, "no-worker")
    s.idle_task_count = set(s.all)
    choice = s.queue.choose()
    assert choice
    assert choice.task is loads[len(given)]


def test_finished() -> None:
    s = Paper(2)
    tasks = [s.add("fit", n) for n in range(4)]
    assert finished(tasks[0].group) == 0
    s.finish(s.send(tasks[0]), nbytes=1)
    s.finish(s.send(tasks[1]), nbytes=1)
    s.release(tasks[1])
    s.move(tasks[2], "erred")
    assert finished(tasks[0].group) == 3


def test_find_consumer() -> None:
    """The last that needs what was loaded, under whatever name."""
    s = Paper()
    ts = s.send(s.add("load", 0, nbytes=100))
    assert find_consumer(ts, 100) == (ts, None)
    alias = s.add("convert", 1, ts, nbytes=100)
    first = s.add("min", 2, alias, nbytes=1)
    last = s.add("max", 3, alias, nbytes=1)
    assert find_consumer(ts, 100) == (alias, last)
    s.finish(ts, nbytes=100)
    s.send(alias)
    assert find_consumer(ts, 100) == (alias, last)
    s.finish(alias, nbytes=100)
    s.release(ts)
    s.finish(s.send(last), nbytes=1)
    assert find_consumer(ts, 100) == (alias, first)
    s.finish(s.send(first), nbytes=1)
    s.release(alias)
    assert find_consumer(ts, 100) == (None, None)


def test_consumers_that_consume_nothing() -> None:
    """What cuts up, merges, or is not alone with so many, frees no memory."""
    s = Paper()
    cut = s.send(s.add("cut-up", 0, nbytes=100))
    for n in range(2):
        s.add("piece", 1 + n, cut, nbytes=50)
    assert find_consumer(cut, 100) == (cut, None)

    merged = [s.send(s.add("merged", 10 + n, nbytes=100)) for n in range(2)]
    merge = s.add("merge", 12, *merged, nbytes=200)
    assert find_consumer(merged[0], 100) == (merged[0], merge)
    assert not frees(merge, merged[0], 100)
    # As long as nothing is known of it, what takes several is believed to merge
    unknown = [s.send(s.add("unknown", 20 + n, nbytes=100)) for n in range(2)]
    assert not frees(s.add("many", 22, *unknown), unknown[0], 100)
    other = s.add("one", 23, s.add("model", 24, nbytes=1), unknown[0])
    assert frees(other, unknown[0], 100)

    shared = s.send(s.add("shared", 30, nbytes=100))
    for n in range(LOOKED_AT + 1):
        s.add("use", 31 + n, shared, nbytes=1)
    assert find_consumer(shared, 100) == (shared, None)

    kept = s.send(s.add("kept", 100, nbytes=100))
    s.add("read", 101, kept, nbytes=1)
    assert find_consumer(kept, 100)[1]
    kept.who_wants = {s.client}
    assert find_consumer(kept, 100) == (kept, None)


def test_frees_of_all_that_it_needs() -> None:
    """Other inputs count by their size, or as one more load if that is not known."""
    s = Paper()
    load = s.send(s.add("load", 0, nbytes=100))
    table = s.add("table", 1, nbytes=10_000)
    assert frees(s.add("join", 2, load, table, nbytes=100), load, 100)
    unknown = s.add("unknown", 3)
    assert frees(s.add("sum", 4, load, unknown, nbytes=30), load, 100)
    assert not frees(s.add("pack", 5, load, unknown, nbytes=50), load, 100)
    # Others of its name may make more
    few, many = "reduce-" + 32 * "1", "reduce-" + 32 * "2"
    consumer = s.add(few, 6, load, nbytes=1)
    s.add(many, 7, nbytes=1000)
    assert consumer.prefix.nbytes_total == 1001
    assert frees(consumer, load, 100)


def test_consumer_is_not_looked_for_too_far() -> None:
    s = Paper()
    ts = first = s.send(s.add("load", 0, nbytes=100))
    for n in range(LOOKED_AT):
        ts = s.add("convert", 1 + n, ts, nbytes=100)
    s.add("mean", 100, ts, nbytes=1)
    assert find_consumer(first, 100)[1] is None
    last = first.dependents.copy().pop()
    assert find_consumer(last, 100)[1]


def about_to_run(ts: TaskState, gaps: Any = ()) -> bool:
    return is_about_to_run(ts, set(), lambda dts: dts in gaps)


def test_about_to_run_when_others_have_ended() -> None:
    """Tasks that it waits for are running, or wait for nothing else."""
    s = Paper()
    loaded = s.send(s.add("load", 0))
    first = s.add("first", 1)
    second = s.add("second", 2, first)
    consumer = s.add("consume", 3, loaded, second)
    s.finish(loaded, nbytes=1)
    # Nothing is running
    assert not about_to_run(consumer)
    s.send(first)
    assert about_to_run(consumer)
    s.finish(first, nbytes=1)
    s.send(second)
    assert about_to_run(consumer)
    s.finish(second, nbytes=1)
    s.send(consumer)
    assert about_to_run(consumer)


@pytest.mark.parametrize("state", ["queued", "no-worker", "erred", "released"])
def test_not_about_to_run(state: Any) -> None:
    """It waits for what is not running, and would not be for all that is."""
    s = Paper()
    running, other = s.send(s.add("first", 0)), s.add("other", 1)
    consumer = s.add("consume", 2, running, other)
    s.move(other, state)
    assert not about_to_run(consumer)


def test_about_to_run_behind_gaps() -> None:
    """Loads that are not held back do not keep it from running, but are no reason."""
    s = Paper()
    gap, others = s.add("load", 0), s.send(s.add("other", 1))
    consumer = s.add("consume", 2, gap, others)
    s.enqueue(gap)
    assert not about_to_run(consumer)
    assert about_to_run(consumer, {gap})
    s.queue.discard(gap)
    s.send(gap)
    assert about_to_run(consumer, {gap})
    s.finish(others, nbytes=1)
    # It waits for nothing but a load
    assert not about_to_run(consumer, {gap})


def test_a_gap_is_no_reason_for_the_next_consumer() -> None:
    """What is known of one consumer are those that wait before it, not the loads."""
    s = Paper()
    gap, others = s.send(s.add("load", 0)), s.send(s.add("other", 1))
    known: set[TaskState] = set()
    first = s.add("first", 2, gap, others)
    assert is_about_to_run(first, known, lambda ts: ts is gap)
    assert not is_about_to_run(s.add("second", 3, gap), known, lambda ts: ts is gap)


def test_about_to_run_behind_one_that_has_seceded() -> None:
    """Such a task waits for others: it counts neither as consumer nor before one."""
    s = Paper()
    first = s.send(s.add("first", 0))
    consumer = s.add("consume", 1, first)
    assert about_to_run(consumer)
    s.all[0].long_running.add(first)
    assert not about_to_run(consumer)
    s.finish(first, nbytes=1)
    s.send(consumer)
    assert about_to_run(consumer)
    s.all[0].long_running.add(consumer)
    assert not about_to_run(consumer)


def test_about_to_run_is_not_looked_for_too_far() -> None:
    """However long a fold is, what is known of one consumer is used for the next."""
    s = Paper()
    ts = s.send(s.add("init", 0))
    chain = [ts := s.add("fit", 1 + n, ts) for n in range(3 * LOOKED_AT)]
    assert not about_to_run(chain[-1])
    known: set[TaskState] = set()
    for ts in chain:
        assert is_about_to_run(ts, known, lambda dts: False)
        assert ts in known


def test_would_wait() -> None:
    """A consumer that could run once all is loaded is what is loaded for."""
    s = Paper(2)
    ts = s.add("load", 0)
    consumer = s.add("consume", 1, ts)
    assert not would_wait(consumer, ts, 1)
    others = [s.send(s.add("consume", 2 + n)) for n in range(2)]
    assert would_wait(consumer, ts, 2)
    assert not would_wait(consumer, ts, 3)
    assert not would_wait(s.add("combine", 10, ts, s.add("load", 9)), ts, 3)
    assert would_wait(s.add("combine", 11, ts, others[0]), ts, 3)


@pytest.mark.parametrize("clean", [False, True])
def test_what_waits_for_loads_alone_is_loaded(clean: bool) -> None:
    """Nothing is held back for what each of many workers can combine."""
    s = Paper(8)
    loads = []
    for n in range(0, 1000, 100):
        inputs = [s.add("load", n + i, nbytes=CHUNK_NBYTES) for i in range(32)]
        loads += inputs
        if clean:
            inputs = [
                s.add("clean", n + 40 + i, ts, nbytes=CHUNK_NBYTES)
                for i, ts in enumerate(inputs)
            ]
        median = s.add("median", n + 80, *inputs, nbytes=1)
        if n < 200:
            # Inputs of the first are on their way to them
            for ts in loads[-32:] + clean * inputs:
                s.finish(s.send(ts), nbytes=CHUNK_NBYTES)
                if ts in loads:
                    s.queue.note(ts)
            s.send(median)
    loads = [ts for ts in loads if ts.state == "waiting"]
    s.enqueue(*loads)
    given = [ts for n in range(8) for ts in (s.give(n), s.give(n)) if ts]
    assert len(given) == 16


def test_outstanding_keeps_no_task_alive() -> None:
    """And counts one only that is still there."""
    s = Paper(2)
    loads, fits = fold(s)
    outstanding = Outstanding()
    for ts in loads[:8]:
        outstanding.add(s.send(ts), s.queue.pool(ts))
    assert outstanding.is_full(8, CHUNK_NBYTES)
    assert outstanding.slots == 4
    refs = list(outstanding.tasks)
    assert [ref() for ref in refs] == loads[:8]
    for ts in loads:
        ts.dependents.clear()
    for ts in fits:
        ts.dependencies.clear()
        assert ts.waiting_on is not None
        ts.waiting_on.clear()
    for ws in s.all:
        ws.processing.clear()
    for ts in loads:
        del s.tasks[ts.key]
    del loads, ts
    gc.collect()
    assert {ref() for ref in refs} == {None}
    outstanding.count_again()
    assert not outstanding.is_full(8, CHUNK_NBYTES)
    # Nor where no worker is left that may run them
    outstanding.count_again()
    assert not outstanding.is_full(0, CHUNK_NBYTES)


def test_what_is_consumed_is_not_outstanding() -> None:
    """As soon as all are counted again."""
    s = Paper(2)
    loads, fits = fold(s)
    outstanding = Outstanding()
    for ts in loads[:8]:
        outstanding.add(s.send(ts), s.queue.open.pool)
        s.finish(ts, nbytes=CHUNK_NBYTES)
    s.finish(s.tasks["init", 0, 0], nbytes=1)
    for n in range(3):
        s.finish(s.send(fits[n]), nbytes=1)
        s.release(loads[n])
    s.send(fits[3])
    assert outstanding.is_full(5, CHUNK_NBYTES)
    assert [ref() for ref in outstanding.tasks] == loads[3:8]


def test_consumers_free_several_outputs() -> None:
    """All are counted again when so many have finished as should make room."""
    s = Paper(2)
    gate = s.send(s.add("init", 0, nbytes=1))
    outstanding = Outstanding()
    users = []
    for n in range(10, 40, 10):
        loads = [s.add("load", n + i, nbytes=CHUNK_NBYTES) for i in range(4)]
        users.append(s.add("use", n + 9, gate, *loads, nbytes=1))
        for ts in loads:
            outstanding.add(s.send(ts), s.queue.open.pool)
        s.finish(*loads, nbytes=CHUNK_NBYTES)
    assert outstanding.is_full(8, CHUNK_NBYTES)
    s.finish(gate, nbytes=1)
    for ts in users[:2]:
        assert outstanding.is_full(8, CHUNK_NBYTES)
        s.finish(s.send(ts), nbytes=1)
        for dts in ts.dependencies - {gate}:
            s.release(dts)
    assert not outstanding.is_full(8, CHUNK_NBYTES)


def test_first_consumers_are_waited_for() -> None:
    """Outputs are counted again as soon as those that come first have finished."""
    s = Paper(2)
    model = s.send(s.add("init", 0, nbytes=1))
    outstanding = Outstanding()
    groups = []
    for n in range(8):
        ts = s.add("load", 2 * n + 1, nbytes=CHUNK_NBYTES)
        model = s.add("fit" if n < 4 else "refine", 2 * n + 2, model, ts, nbytes=1)
        groups.append(model.group)
        outstanding.add(s.send(ts), s.queue.open.pool)
    assert outstanding.is_full(6, CHUNK_NBYTES)
    assert outstanding.consumers is groups[0] is not groups[-1]


def test_what_waits_longest_is_not_forgotten() -> None:
    """However many others there are that must be held anyway."""
    s = Paper(2)
    loads, _ = fold(s, 8)
    others = [s.add("load", 100 + n, nbytes=CHUNK_NBYTES) for n in range(80)]
    s.add("mean", 201, *others, s.add("load", 200), nbytes=1)
    outstanding = Outstanding()
    for ts in loads + others:
        outstanding.add(s.send(ts), s.queue.open.pool)
        s.finish(ts, nbytes=CHUNK_NBYTES)
    assert outstanding.is_full(8, CHUNK_NBYTES)
    left = [ref() for ref in outstanding.tasks]
    assert left == loads + others[-8 - LOOKED_AT :]


def test_outstanding_is_bounded() -> None:
    """Data that must be held is not counted over and over."""
    s = Paper(2)
    loads = [s.add("load", n, nbytes=100) for n in range(1000)]
    s.add("mean", 1000, *loads, nbytes=1)
    outstanding = Outstanding()
    for n, ts in enumerate(loads):
        outstanding.add(s.send(ts), s.queue.open.pool)
        assert outstanding.latest == ts.priority
        if n % 10 == 0:
            assert not outstanding.is_full(8, 100)
    assert len(outstanding.tasks) <= 2 * 8 + LOOKED_AT + 10


def test_slacken() -> None:
    """Twice as many each time, as long as no consumer finishes; then none."""
    s = Paper(2)
    loads, fits = fold(s)
    outstanding = Outstanding()

    def slack(now: float) -> int:
        outstanding.slacken(now, 4, 2, 1)
        outstanding.count_again()
        return outstanding.slack

    assert slack(0) == 0
    for ts in loads[:8]:
        outstanding.add(s.send(ts), s.queue.open.pool)
    assert outstanding.is_full(8, CHUNK_NBYTES)
    # Nothing is known of how long consumers take: 1 s
    for now, more in ((10, 0), (10.9, 0), (11, 4)):
        assert slack(now) == more
        assert outstanding.is_full(8, CHUNK_NBYTES) == (not more)
    for ts in loads[8:12]:
        outstanding.add(s.send(ts), s.queue.open.pool)
    for now, more in ((11.5, 4), (12.9, 4), (13, 8)):
        assert outstanding.is_full(8, CHUNK_NBYTES)
        assert slack(now) == more
    # One finishes
    for ts in loads[12:16]:
        outstanding.add(s.send(ts), s.queue.open.pool)
    assert outstanding.is_full(8, CHUNK_NBYTES)
    s.finish(s.send(fits[0]), nbytes=1)
    s.send(fits[1])
    fits[0].prefix.duration_average = 10
    assert slack(100) == 0
    # What waits for a slot is consumed within twice the time of a consumer
    for now, more in ((119, 0), (120, 4)):
        assert outstanding.is_full(8, CHUNK_NBYTES)
        assert slack(now) == more


def test_slackens_more_and_more() -> None:
    """What others wait for is let go after a while, however late it is."""
    s = Paper()
    outstanding = Outstanding()
    slack = []
    for now in (0, 1, 3, 7, 15):
        outstanding.consumers = s.add("fit", now).group
        outstanding.slacken(now, 4, 2, 1)
        slack.append(outstanding.slack)
    assert slack == [0, 4, 8, 16, 32]


# -- Clusters ------------------------------------------------------------------------


def fit(model: int, chunk: bytes, event: Event | None = None) -> int:
    if event is not None:
        event.wait()
    return model + len(chunk)


def fold_of_loads(number: int, event: Event | None = None) -> Any:
    model: Any = 0
    for n in range(number):
        chunk = delayed(load)(n, dask_key_name=("load", n))
        model = delayed(fit)(model, chunk, event, dask_key_name=("fit", n))
    return model


def loaded(s: Any) -> int:
    """How many chunks are in memory, or will be without any further decision."""
    if "load" not in s.task_prefixes:
        return 0
    states = s.task_prefixes["load"].states
    number: int = states["memory"] + states["processing"]
    return number


async def settled(s: Any, consumers: str) -> None:
    """Wait until nothing is loaded any more but behind a consumer that runs."""

    def running(name: str) -> list[Any]:
        tasks = s.tasks.values()
        return [
            ts.processing_on
            for ts in tasks
            if ts.prefix.name == name and ts.state == "processing"
        ]

    await async_poll_for(
        lambda: (
            (consuming := running(consumers)) and set(running("load")) <= set(consuming)
        ),
        timeout=60,
    )


@pytest.mark.parametrize("waiting", [2, ".inf"])
def test_fold(waiting: Any) -> None:
    """Two chunks a slot wait for a serial consumer, and what runs."""
    dsk: dict[Any, Task] = {"model": Task("model", int)}
    for n in range(100):
        dsk["load", n] = Task(("load", n), load, n)
        model, chunk = TaskRef(("fit", n - 1) if n else "model"), TaskRef(("load", n))
        dsk["fit", n] = Task(("fit", n), fit, model, chunk)
    played = play(
        dsk,
        [("fit", 99)],
        {"load": CHUNK_NBYTES},
        cluster=replace(PLAYED["4x1"], workers=2),
        config={WAITING: waiting},
    )
    assert played.seen.computed.total() == 100
    bound = 2 * played.slots + 2 + 2 * REST
    assert (played.seen.peak_chunks <= bound) is (waiting == 2)


@pytest.mark.parametrize("waiting", [2, ".inf"])
def test_fold_that_does_not_go_on(waiting: Any) -> None:
    """Loads wait for a consumer that takes its time, unless the setting says else."""

    @policy_cluster(far=False, config={**PATIENT, WAITING: waiting})
    async def run(c: Any, s: Any, a: Any, b: Any) -> None:
        event = Event()
        result = c.compute(fold_of_loads(60, event))
        if waiting == ".inf":
            await async_poll_for(lambda: loaded(s) == 60, timeout=60)
        else:
            await settled(s, "fit")
            assert 2 * slots(s) <= loaded(s) + 1
            assert loaded(s) <= 2 * slots(s) + s.total_nthreads + 2 * REST
            assert len(s.queued) == 60 - loaded(s)
            why = s.queued.why_waiting()
            [waits] = why.values()
            # The rest of a family waits for its worker, which the consumer keeps busy
            assert "backpressure" in waits
            assert set(waits) <= {"backpressure", "family"}
        await event.set()
        assert await result == 60 * CHUNK_NBYTES

    run()


def consume(chunk: bytes, event: Event) -> int:
    event.wait()
    return len(chunk)


def load_when(event: Event, i: int) -> bytes:
    event.wait()
    return bytes(CHUNK_NBYTES)


POOLS: Any = [("127.0.0.1", 1, {"resources": {"CPU": 1}})] * 3 + [
    ("127.0.0.1", 1, {"resources": {"GPU": 1}})
]

#: Slots of the workers that load
CPU_SLOTS = 3 * 2


@policy_cluster(POOLS, far=False, config=PATIENT)
async def test_one_slow_consumer_in_one_graph(c: Any, s: Any, *workers: Any) -> None:
    """Where a pool of workers loads and one consumes, loads wait (#9164)."""
    event = Event()
    with dask.annotate(resources={"CPU": 1}):
        loads = [delayed(load)(n, dask_key_name=("load", n)) for n in range(60)]
    with dask.annotate(resources={"GPU": 1}):
        sizes = [delayed(consume)(chunk, event) for chunk in loads]
    results = c.compute(sizes, optimize_graph=False)
    await settled(s, "consume")
    assert loaded(s) <= 2 * CPU_SLOTS + 3 + 3 * REST
    assert s.queued
    await event.set()
    assert await c.gather(results) == [CHUNK_NBYTES] * 60


@policy_cluster(POOLS, far=False, config=PATIENT)
async def test_one_slow_consumer_in_two_submissions(
    c: Any, s: Any, *workers: Any
) -> None:
    """Loads go at once at first, and are called back when the first is there."""
    go, event = Event(), Event()
    loads = c.map(
        load_when,
        [go] * 60,
        range(60),
        key=[("load", n) for n in range(60)],
        resources={"CPU": 1},
    )
    sizes = c.map(consume, loads, [event] * 60, resources={"GPU": 1})
    del loads
    await async_poll_for(lambda: len(s.tasks) == 120, timeout=60)
    # As in a release
    assert s.task_prefixes["load"].states["processing"] == 60
    await go.set()
    await settled(s, "consume")
    # Twice what they hold was about to run
    assert loaded(s) <= 2 * CPU_SLOTS + 3 * 2 * 2
    assert s.queued
    await event.set()
    assert await c.gather(sizes) == [CHUNK_NBYTES] * 60


def anomaly(chunk: bytes, mean: int) -> int:
    return len(chunk) - mean


def mean(chunks: list[bytes]) -> int:
    return sum(map(len, chunks)) // len(chunks)


@pytest.mark.parametrize("persist", [True, False])
@policy_cluster(config=PATIENT)
async def test_data_that_must_be_held_anyway(
    c: Any, s: Any, a: Any, b: Any, persist: bool
) -> None:
    """No thread is free while anything waits, where that would gain nothing."""
    idle: list[int] = []
    transitions = s._transitions

    def transitions_and_look(*args: Any, **kwargs: Any) -> None:
        transitions(*args, **kwargs)
        if s.queued:
            idle.append(len(s.idle_task_count))

    s._transitions = transitions_and_look
    loads = [delayed(load)(n, dask_key_name=("load", n)) for n in range(60)]
    if persist:
        futures = c.compute([delayed(anomaly)(chunk, 0) for chunk in c.persist(loads)])
    else:
        norm = delayed(mean)(loads)
        futures = c.compute([delayed(anomaly)(chunk, norm) for chunk in loads])
    await wait(futures)
    assert idle
    assert not any(idle)


def set_when_last(event: Event, i: int, last: int) -> bytes:
    if i == last:
        event.set()
    return bytes(CHUNK_NBYTES)


def fit_when(model: int, chunk: bytes, event: Event, how: str) -> int:
    if how != "block":
        Event("held back").wait()
    if how == "secede":
        secede()
    if how == "worker_client":
        with worker_client():
            event.wait()
    else:
        event.wait()
    return model + len(chunk)


def fold_that_waits(number: int, event: Event, how: str) -> Any:
    """Make a fold, the first step of which waits for the last load."""
    model: Any = 0
    for n in range(number):
        chunk = delayed(set_when_last)(event, n, number - 1, dask_key_name=("load", n))
        model = delayed(fit_when)(model, chunk, event, how, dask_key_name=("fit", n))
    return model


@pytest.mark.parametrize("how", ["secede", "worker_client"])
@policy_cluster(
    TWO_WORKERS,
    far=False,
    config={"distributed.scheduler.default-task-durations": {"fit": "1h"}},
)
async def test_consumer_that_has_seceded(
    c: Any, s: Any, a: Any, b: Any, how: str
) -> None:
    """It waits for others, so that nothing is held back for it any more."""
    result = c.compute(fold_that_waits(40, Event(), how))
    await settled(s, "fit")
    assert s.queued
    await Event("held back").set()
    assert await result == 40 * CHUNK_NBYTES


@policy_cluster(TWO_WORKERS, far=False, slackens=True, config={UNKNOWN: "10ms"})
async def test_consumer_that_waits_for_what_is_held_back(
    c: Any, s: Any, a: Any, b: Any
) -> None:
    """Holding back ends when nothing has finished for longer than consumers take."""
    result = c.compute(fold_that_waits(40, Event(), "block"))
    assert await result == 40 * CHUNK_NBYTES
