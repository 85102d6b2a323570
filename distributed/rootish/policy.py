"""Which tasks are root-ish: held back by the scheduler until a thread is free for them.

A task is root-ish when running it *brings data into the cluster* and *it does not
matter where it runs*. Sent out all at once, such tasks fill the cluster with their
output before anything has consumed it; and there is no reason to send them to one
worker rather than to another. Every other task is sent, as soon as it can run, to a
worker that holds its inputs.

Whether it matters where a task runs is a question of price. Root-ish tasks go to
whichever worker is free, so in the end each of their inputs lies on every worker, or on
as many as it has users. The **price** of a task is its share of these copies, in bytes.
It is weighed against what the copies buy:

data
    A task may cost up to a fixed part of what it brings in. A path, an opened file, an
    asset table or a small table of weights costs next to nothing, at any depth of the
    graph and however many of them there are. A chunk to be sliced costs as much as
    comes out.
work
    Where a group has fewer inputs than the cluster has workers, keeping its tasks
    beside their inputs leaves workers idle. Copying is worth the time that these would
    save.

Bytes decide, not the number of groups that a task depends on, and not who wrote the
loader. What a task brings in is the mean output of its group so far; inputs are in
memory when the question is asked, so that their sizes are known.

Two more things are needed. There must be *more tasks than the cluster runs at once*,
counted over groups of one prefix, or that feed one group, since loaders often make one
group per file: holding back fewer changes nothing. And the supply must *not be
throttled already*: a task per opened file follows an opening that is itself held back,
and belongs beside it. Tasks that clearly outnumber their inputs, and tasks without any,
are not throttled by anything; neither is a group that runs on all threads and has more
to run.

The mark ``Task.data_producer``, set by some collections, replaces these last two
conditions, but does not make a large input cheap.

See the page "How the decision is made" of the documentation for the evidence.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import dask
from dask._task_spec import DataNode
from dask.sizeof import sizeof

if TYPE_CHECKING:
    # Circular dependencies
    from distributed.scheduler import (
        SchedulerState,
        TaskGroup,
        TaskPrefix,
        TaskState,
        WorkerState,
    )

#: A group is larger than the cluster when it has more tasks than this for each thread.
TASKS_PER_THREAD = 2

#: Bytes of copies that a task may cost for each byte that it brings in. Of the measured
#: shapes on four workers, those that gain from being held back cost at most 0.1, and
#: those that lose by it at least 0.4.
DATA_PRICE = 0.25

#: Output assumed for a task as long as none of its group has finished, in bytes.
UNKNOWN_OUTPUT = 2**20

#: As long as that is assumed, and there are more inputs per task than this, tasks are
#: rather taken for consumers: their price must be negligible, and nothing that they
#: depend on be held back itself.
INPUTS_PER_UNKNOWN_TASK = 0.25

#: What it costs to copy an input, however small, in bytes.
MESSAGE_BYTES = 2**14

#: A price that is negligible whatever the output: in bytes, and as a part of the time
#: that the task takes.
NEGLIGIBLE_BYTES = 2**16
NEGLIGIBLE_TIME = 0.01

#: An input of this size for each of its users binds them to the workers that hold it.
BINDING_BYTES = 2**20

#: Tasks outnumber their inputs clearly from this number of inputs per task downwards.
INPUTS_PER_TASK = 0.5

#: Part of ``distributed.scheduler.unknown-task-duration`` that is assumed for a task
#: that may be worth copying for: the default of 500 ms is a guess on the safe side for
#: occupancy, and on the other side here.
UNKNOWN_DURATION_PART = 0.1

#: Restricted tasks that a worker keeps when others are called back, as a multiple of
#: the root-ish tasks that it holds.
CALLED_BACK = 2

#: Topic of the events that tell of verdicts
TOPIC = "rootish"

#: Default of ``distributed.scheduler.rootish-taskgroup`` and
#: ``rootish-taskgroup-dependencies``.
DEFAULT_COUNT = 5


@dataclass(frozen=True, eq=False, slots=True)
class Verdict:
    """Whether a task is root-ish, and why. There is one object for each reason.

    Attributes
    ----------
    rootish
        Whether the task is held back until a thread is free for it.
    reason
        Name of the reason; the same for all tasks that were judged alike.
    explanation
        The reason as a sentence for people.
    """

    rootish: bool
    reason: str
    explanation: str


RESTRICTED = Verdict(False, "restricted", "It may run on some workers only.")
ACTOR = Verdict(False, "actor", "It is an actor.")
FEW = Verdict(False, "few", "The cluster can run all of its tasks at once.")
DEAR = Verdict(
    False, "dear", "Copying its inputs to other workers costs more than it buys."
)
THROTTLED = Verdict(
    False,
    "throttled",
    "Its inputs arrive one by one; it runs where its input is.",
)
EDGE = Verdict(
    False,
    "edge",
    "Its inputs are small, but of groups of large ones: data rather than handles.",
)
STAND_IN = Verdict(
    False,
    "stand-in",
    "It is an object of the graph that stands for data, and others wait for it.",
)
WAITING = Verdict(False, "waiting", "The sizes of its inputs are not known yet.")
ROOT = Verdict(True, "root", "It has no inputs and brings data in.")
PRODUCER = Verdict(
    True,
    "producer",
    "Its inputs cost next to nothing beside the data that it brings in.",
)
UNTHROTTLED = Verdict(
    True,
    "unthrottled",
    "Its inputs are all there at once and cost next to nothing beside the data that it "
    "brings in.",
)
WORK = Verdict(
    True, "work", "Few workers hold its inputs; copying them sets the others to work."
)
COUNTED = Verdict(True, "counted", "It has fewer dependencies than the settings say.")
NOT_COUNTED = Verdict(
    False,
    "not-counted",
    "The cluster can run all of its tasks at once, or it has more dependencies than "
    "the settings say.",
)
MARKED = Verdict(True, "marked", "It is marked as a data producer.")
BASE = Verdict(True, "p2p", "It unpacks a P2P shuffle, which spreads it itself.")
NOT_BASE = Verdict(False, "not-p2p", "A P2P shuffle places it.")


def mean_output(tasks: TaskGroup | TaskPrefix) -> float | None:
    """Return the mean output of the tasks that have finished so far, in bytes.

    A task that is run again, because its output was released or lost, adds to the types
    but not to the bytes. There are never more outputs than tasks.

    Parameters
    ----------
    tasks
        A group, or a prefix.

    Returns
    -------
    float or None
        None as long as no task has finished.
    """
    finished = min(sum(tasks._types.values()), tasks._size)
    return tasks.nbytes_total / finished if finished else None


def expected_duration(state: SchedulerState, prefix: TaskPrefix) -> float:
    """Return how long a task takes, in seconds; a little if that is not known.

    Parameters
    ----------
    state
        Knows what is assumed of it.
    prefix
        The prefix of the task.
    """
    duration = state._get_prefix_duration(prefix)
    if prefix.duration_average < 0 and prefix.max_exec_time <= 0:
        duration *= UNKNOWN_DURATION_PART
    return duration


def _holders(inputs: Iterable[TaskState]) -> set[WorkerState]:
    """Return the workers that hold any of the inputs."""
    return set().union(*[dts.who_has or () for dts in inputs])


def _was_loaded(ts: TaskState) -> bool:
    """Whether an output is a chunk that was held back itself, and no handle."""
    verdict = ts.group.rootish_facts.verdict
    return bool(verdict and verdict.rootish) and ts.nbytes > NEGLIGIBLE_BYTES


def stands_for_data(run_spec: object) -> bool:
    """Whether a task is an object of the graph that only stands for data.

    Arrays, tables and containers are data: dask can tell how large they are.

    Parameters
    ----------
    run_spec
        ``TaskState.run_spec``
    """
    return isinstance(run_spec, DataNode) and sizeof.dispatch(
        run_spec.typ
    ) is sizeof.dispatch(object)


class GroupFacts:
    """What is known of a task group, kept with it and reviewed as it grows.

    Attributes
    ----------
    verdict
        The last one on a task of the group, None as long as there was none.
    count
        How often it was given since there was another.
    data
        Price that a task may cost for the data that it brings in, in bytes.
    allowed
        Price that a task may cost for that, or that is negligible, in bytes.
    allowed_marked
        The same for a task that is marked as a data producer.
    work
        Bytes that a worker can receive in the time that a task takes.
    most
        Price that no task may cost, whatever it brings in or does, in bytes.
    guessed
        Whether nothing is known of the output, neither of the group nor of its prefix.
    review_at
        Value of ``TaskGroup.nbytes_total`` from which on the facts are out of date.
    output_until_joined
        Output of a task, and what is made of it before it is combined, in bytes; see
        :func:`distributed.rootish.families.output_until_joined`.
    output_review_at
        Value of ``TaskPrefix.nbytes_total`` from which on that is out of date.
    confirmed_until
        Value of ``TaskGroup.nbytes_total`` from which on queued tasks are judged again
        when they leave the queue. They are not if their inputs were never weighed, or
        one of the group was found to be root-ish by these facts.
    """

    __slots__ = (
        "_earlier",
        "allowed",
        "allowed_marked",
        "confirmed_until",
        "count",
        "data",
        "guessed",
        "most",
        "output_review_at",
        "output_until_joined",
        "review_at",
        "verdict",
        "work",
    )

    verdict: Verdict | None
    count: int
    #: Verdicts before the last one -> how often they were given
    _earlier: dict[Verdict, int] | None
    data: float
    allowed: float
    allowed_marked: float
    work: float
    most: float
    guessed: bool
    review_at: int
    output_until_joined: tuple[float, float]
    output_review_at: int
    confirmed_until: float

    def __init__(self) -> None:
        self.verdict = None
        self.count = 0
        self._earlier = None
        self.data = self.allowed = self.allowed_marked = self.work = self.most = 0
        self.guessed = True
        self.review_at = self.output_review_at = 0
        self.output_until_joined = (1.0, 1.0)
        self.confirmed_until = math.inf

    @property
    def decisions(self) -> dict[Verdict, int]:
        """Verdict -> how often it was given to a task of the group."""
        decisions = dict(self._earlier or ())
        if self.verdict:
            decisions[self.verdict] = decisions.get(self.verdict, 0) + self.count
        return decisions

    def _to_dict(self, *, exclude: Container[str] = ()) -> dict[str, Any]:
        """Return what is in a dump of the cluster's state.

        Parameters
        ----------
        exclude
            Names of attributes that are left out.
        """
        verdict = self.verdict
        facts = {
            name: getattr(self, name)
            for name in sorted(self.__slots__)
            if not name.startswith("_")
        }
        facts["verdict"] = asdict(verdict) if verdict else None
        facts["decisions"] = {
            verdict.reason: count for verdict, count in self.decisions.items()
        }
        return {name: fact for name, fact in facts.items() if name not in exclude}

    def change(self, verdict: Verdict) -> bool:
        """Note a verdict other than the last; return whether the group never had it."""
        if self.verdict:
            self._earlier = self.decisions
        self.verdict = verdict
        self.count = 1
        return not self._earlier or verdict not in self._earlier

    def review(self, state: SchedulerState, tg: TaskGroup) -> None:
        """Weigh anew what a task of the group may cost.

        Parameters
        ----------
        state
            Knows how long tasks take, and how fast the network is.
        tg
            The group.
        """
        prefix = tg.prefix
        known = mean_output(tg) if tg.nbytes_total else None
        if known is None and not any(dep.prefix is prefix for dep in tg.dependencies):
            # Others of the prefix are alike, unless this is the next of several steps
            known = mean_output(prefix)
        self.guessed = known is None
        output = UNKNOWN_OUTPUT if known is None else known
        self.work = state.bandwidth * expected_duration(state, prefix)
        self.data = DATA_PRICE * output
        negligible = min(NEGLIGIBLE_BYTES, NEGLIGIBLE_TIME * self.work)
        self.allowed = max(self.data, negligible)
        self.allowed_marked = max(self.data, NEGLIGIBLE_BYTES)
        self.most = max(self.allowed, self.work)
        # The first output is news; later ones are when they might change the mean.
        self.review_at = 2 * tg.nbytes_total or 1
        self.confirmed_until = 0


def within_count(state: SchedulerState, tg: TaskGroup, limit: float = math.inf) -> bool:
    """Whether a group is root-ish by the number of its tasks and dependencies alone.

    Parameters
    ----------
    state
        Holds the size of the cluster and the settings
        ``distributed.scheduler.rootish-taskgroup`` and
        ``distributed.scheduler.rootish-taskgroup-dependencies``.
    tg
        The group to judge.
    limit
        Bound on both settings.
    """
    ngroups = min(state.rootish_tg_threshold, limit)
    ntasks = min(state.rootish_tg_dependencies_threshold, limit)
    return (
        len(tg) > TASKS_PER_THREAD * state.total_nthreads
        and len(tg.dependencies) < ngroups
        and sum(map(len, tg.dependencies)) < ntasks
    )


def larger_than_cluster(ts: TaskState, nthreads: float) -> bool:
    """Whether there are more tasks like ``ts`` than the cluster runs at once.

    Parameters
    ----------
    ts
        A task.
    nthreads
        Number of threads of the workers that may run it.

    Notes
    -----
    Its group counts. Loaders often make one small group per file, all of one prefix:
    the prefix counts, too, but for tasks of other groups that are kept in memory
    (persisted) and so done with. And where each file has a function of its own, the
    groups count which feed the same group as the one of ``ts``.
    """
    enough = TASKS_PER_THREAD * nthreads
    if ts.group._size > enough:
        return True
    prefix = ts.group.prefix
    states = prefix.states
    done = states["forgotten"] + states["erred"] + states["memory"]
    return prefix._size - done > enough or any(
        len(dts.group.dependencies) > enough for dts in ts.dependents
    )


class RootishPolicy(ABC):
    """A rule for what is root-ish.

    Parameters
    ----------
    state
        The scheduler's state. Policies read it and never change it.

    Attributes
    ----------
    decisions
        Verdict -> how often it was given, since the scheduler started.
    """

    #: Value of ``distributed.scheduler.rootish-policy``
    name: ClassVar[str]
    #: Whether the queue may leave the order of the base
    #: (see ``distributed.scheduler.rootish-co-assignment``)
    co_assigns: ClassVar[bool] = False

    __slots__ = ("_told", "decisions", "state", "unsure")

    decisions: defaultdict[Verdict, int]
    #: Groups of restricted tasks that were sent at once, as nothing was known of them
    unsure: dict[TaskGroup, None]
    #: Name of a prefix -> what was told of first verdicts
    _told: defaultdict[str, set[Verdict]]

    def __init__(self, state: SchedulerState):
        self.state = state
        self.decisions = defaultdict(int)
        self._told = defaultdict(set)
        self.unsure = {}

    def is_rootish(self, ts: TaskState) -> bool:
        """Judge a task for the scheduler, and keep the verdict with its group.

        A change to a verdict that the group did not have before is logged as an event
        under the topic ``rootish``, and so is the first verdict of a group, if no group
        of its prefix began with that.

        Parameters
        ----------
        ts
            The task.
        """
        verdict = self.verdict(ts)
        facts = ts.group.rootish_facts
        before = facts.verdict
        if verdict is before:
            facts.count += 1
        elif facts.change(verdict):
            self._tell(ts.group, verdict, before)
        self.decisions[verdict] += 1
        return verdict.rootish

    def _tell(self, tg: TaskGroup, verdict: Verdict, before: Verdict | None) -> None:
        """Log an event for a verdict that a group did not have before.

        Loaders often make one group per file: of their first verdicts, the first of
        each kind is told, as all have the same name.
        """
        if before is None:
            told = self._told[tg.prefix.name]
            if verdict in told:
                return
            told.add(verdict)
        self.state.log_event(
            TOPIC,
            {
                "action": "verdict",
                "group": tg.name,
                "policy": self.name,
                **asdict(verdict),
                "before": before.reason if before else None,
            },
        )

    @abstractmethod
    def verdict(self, ts: TaskState) -> Verdict:
        """Judge a task that is about to leave the state ``waiting``.

        Parameters
        ----------
        ts
            The task. Sizes of its inputs are known when they are in memory, as they are
            whenever the scheduler asks.
        """

    def place(self, ts: TaskState) -> WorkerState | None:
        """Return the worker for a task that is not root-ish, if the policy has a say.

        Parameters
        ----------
        ts
            The task. All its inputs are in memory.

        Returns
        -------
        WorkerState or None
            None if the base is to choose.
        """
        return None

    def overdue(self) -> list[TaskState]:
        """Return tasks that were sent to a worker and are to be called back."""
        return []


class Producers(RootishPolicy):
    """Root-ish is what brings in data and may run anywhere. See the module's docstring.

    Costs O(dependencies of the task), and stops at the first that is too dear.
    """

    name = "producers"
    co_assigns = True

    __slots__ = ("_raised",)

    #: Whether the user raised the settings that bound the count of dependencies
    _raised: bool

    def __init__(self, state: SchedulerState):
        super().__init__(state)
        self._raised = (
            max(state.rootish_tg_threshold, state.rootish_tg_dependencies_threshold)
            > DEFAULT_COUNT
        )

    def verdict(self, ts: TaskState) -> Verdict:
        state = self.state
        nthreads: float = state.total_nthreads
        if ts.resource_restrictions or ts.worker_restrictions or ts.host_restrictions:
            nthreads = self._threads_to_wait_for(ts)
            if not nthreads:
                return RESTRICTED
        if ts.actor:
            return ACTOR
        if not ts._queueable:
            return BASE if state._is_rootish_marked(ts) else NOT_BASE
        tg = ts.group
        run_spec = ts.run_spec
        marked = run_spec is not None and run_spec.data_producer
        facts = tg.rootish_facts
        if (
            tg.nbytes_total < facts.review_at
            and not (facts.guessed or self._raised)
            and (verdict := self._like_the_last(ts, facts, marked))
        ):
            return verdict
        # A queued task stays where it is when the cluster grows, unless by its price
        if not (marked or ts._state == "queued" or larger_than_cluster(ts, nthreads)):
            return FEW
        if not ts.dependencies:
            if len(ts.dependents) > 1 and stands_for_data(run_spec):
                return STAND_IN
            return MARKED if marked else ROOT
        if ts.waiting_on and not marked:
            return WAITING
        verdict = self._weigh(ts, facts, marked)
        if self._raised and not verdict.rootish and self._asked_for(tg):
            return COUNTED
        return verdict

    def _threads_to_wait_for(self, ts: TaskState) -> float:
        """Return for how many threads a restricted task waits, 0 if it goes at once.

        As long as nothing is known of its output, it waits if its graph says who needs
        it. Otherwise it goes to where it is bound, and is called back if tasks like it
        turn out to bring in data (:meth:`overdue`). Small outputs are never waited for.
        """
        state = self.state
        queue: Any = state.queued
        if not self.co_assigns or not hasattr(queue, "pool"):
            return 0
        if math.isinf(state.WORKER_SATURATION) or ts.actor or not ts._queueable:
            return 0
        output = mean_output(ts.group)
        if output is None:
            output = mean_output(ts.prefix)
        if output is None:
            marked = ts.run_spec is not None and ts.run_spec.data_producer
            if not (ts.dependents or marked):
                self.unsure[ts.group] = None
                return 0
        elif output <= NEGLIGIBLE_BYTES:
            return 0
        pool = queue.pool(ts)
        return pool.nthreads if pool.workers else 0

    def overdue(self) -> list[TaskState]:
        """Return tasks that were sent to a worker and are to be called back.

        Restricted tasks of which nothing was known were sent to where they are bound,
        all at once. When the first has brought in data, those are called back that are
        not about to run: beyond twice what a worker holds of root-ish tasks, by their
        priority.
        """
        groups = self.state.task_groups
        known = [
            tg for tg in self.unsure if tg.nbytes_total or groups.get(tg.name) is not tg
        ]
        late: list[TaskState] = []
        queue: Any = self.state.queued
        for tg in known:
            del self.unsure[tg]
            if (mean_output(tg) or 0) <= NEGLIGIBLE_BYTES:
                continue
            for ws in self.state.running:
                mine = [
                    ts
                    for ts in ws.processing
                    if ts.group is tg and ts not in ws.long_running
                ]
                mine.sort(key=operator.attrgetter("priority"))
                slots = math.ceil(self.state.WORKER_SATURATION * ws.nthreads)
                kept = CALLED_BACK * max(slots, 1)
                for ts in mine[:kept]:
                    queue.note(ts)
                late += mine[kept:]
        return late

    def place(self, ts: TaskState) -> WorkerState | None:
        """Return the worker beside those inputs which are dear to copy.

        The handle of a read that is fused with its consumer ends up on every worker. It
        must not draw the task away from the chunk that it consumes, unless the worker
        that holds the chunk has more than its share of the work.

        Of several workers, the one is taken on which the base expects the task to start
        first. That is asked here since the base looks at every input once for each of
        them; neighbours are combined on one worker as a rule, and there is no question.
        """
        dependencies = ts.dependencies
        if (
            not dependencies
            or ts.actor
            or ts.resource_restrictions
            or ts.worker_restrictions
            or ts.host_restrictions
        ):
            return None
        state = self.state
        running = state.running
        if len(dependencies) == 1:
            # Most tasks have one input, on one worker
            [dts] = dependencies
            if dts.who_has and len(dts.who_has) == 1:
                [ws] = dts.who_has
                return ws if ws in running else None
        dear = [
            dts
            for dts in dependencies
            if dts.nbytes > BINDING_BYTES * len(dts.dependents)
        ]
        holders: set[WorkerState] = set()
        if dear and len(dear) < len(dependencies):
            holders = (_holders(dear) & running) - state.saturated
        if not holders:
            holders = _holders(dependencies) & running
        if len(holders) < 2:
            return next(iter(holders), None)

        total = 0
        held: defaultdict[WorkerState, int] = defaultdict(int)
        for dts in dependencies:
            nbytes = dts.get_nbytes()
            total += nbytes
            who_has = dts.who_has or set()
            for ws in who_has if len(who_has) < 2 else who_has & holders:
                held[ws] += nbytes

        def starts(ws: WorkerState) -> tuple[float, int]:
            """See ``SchedulerState.worker_objective``."""
            backlog = ws.occupancy / ws.nthreads
            return backlog + (total - held[ws]) / state.bandwidth, ws.nbytes

        return min(holders, key=starts)

    def _like_the_last(
        self, ts: TaskState, facts: GroupFacts, marked: bool
    ) -> Verdict | None:
        """Return the last verdict on a group, if a glance tells that it still holds.

        It is the same that weighing all inputs would come to, and more often than not
        this is enough.
        """
        if facts.verdict is DEAR and not marked:
            # One input is enough to say so: its copies cost at least half of it
            for dts in ts.dependencies:
                users = len(dts.dependents)
                if (
                    dts.nbytes > 2 * (facts.data if users == 1 else facts.most)
                    and dts.who_has
                    and len(dts.who_has) == 1
                    and (users == 1 or users <= len(self.state.workers))
                ):
                    return DEAR
        elif facts.verdict is PRODUCER and marked and len(ts.dependencies) == 1:
            [dts] = ts.dependencies
            if (
                dts.nbytes + MESSAGE_BYTES <= facts.data
                and ts.group.nbytes_total < facts.confirmed_until
            ):
                return PRODUCER
        return None

    def _weigh(self, ts: TaskState, facts: GroupFacts, marked: bool) -> Verdict:
        """Weigh the price of the inputs of ``ts`` against what copying them buys."""
        state = self.state
        tg = ts.group
        if tg.nbytes_total >= facts.review_at or (
            facts.guessed and tg.prefix.nbytes_total
        ):
            facts.review(state, tg)

        # A single worker has nothing to copy, but the cluster may grow
        nworkers = len(state.workers)
        if nworkers < 2:
            nworkers = 2
        allowed = facts.allowed_marked if marked else facts.allowed
        price = 0.0
        # Inputs of the task, each shared out among its users
        inputs = 0.0
        for dts in ts.dependencies:
            users = len(dts.dependents)
            inputs += 1 / users
            # What is everywhere already costs nothing. Replicas short of that do not
            # count, lest a group that is not held back drift into being so.
            who_has = dts.who_has
            if not who_has or len(who_has) < nworkers:
                nbytes = (dts.nbytes + MESSAGE_BYTES) * (nworkers - 1)
                price += nbytes / (users if users > nworkers else nworkers)
                if price > allowed and inputs * tg._size >= nworkers:
                    return DEAR

        if not marked and inputs > INPUTS_PER_TASK:
            if price > facts.data:
                return DEAR
            if ts._state != "queued" and not self._unthrottled(tg):
                return THROTTLED
            return EDGE if self._cut_off(ts, allowed) else UNTHROTTLED
        if facts.guessed and not marked:
            if inputs > INPUTS_PER_UNKNOWN_TASK:
                if price > NEGLIGIBLE_BYTES:
                    return DEAR
                if any(dts.group.states["queued"] for dts in ts.dependencies):
                    return THROTTLED
            elif any(map(_was_loaded, ts.dependencies)):
                return DEAR
        if (
            state.rootish_tg_threshold <= 0
            and not marked
            and inputs * tg._size < nworkers
            and (facts.guessed or price > facts.data)
        ):
            # The user wants no group spread for the sake of its number, and nothing
            # else is known that speaks for this one
            return DEAR
        if price <= allowed:
            if not marked and self._cut_off(ts, allowed):
                return EDGE
            if (
                not facts.guessed
                and tg.nbytes_total >= facts.confirmed_until
                # That it is everywhere already says nothing about the others
                and (
                    price
                    or allowed
                    >= sum(
                        (dts.nbytes + MESSAGE_BYTES) / len(dts.dependents)
                        for dts in ts.dependencies
                    )
                )
            ):
                # What the prefix makes is believed until the group makes something
                facts.confirmed_until = math.inf if tg.nbytes_total else 1
            return PRODUCER
        # Tasks with fewer inputs than there are workers would leave some idle. Time
        # that copying takes on the workers that hold them, and time that it saves. (A
        # worker waits for half of the copies on average. The other half is for the
        # memory that they take.)
        done = tg.states["memory"] + tg.states["forgotten"] + tg.states["erred"]
        idle = 1 - inputs * (len(tg) - done) / nworkers
        if state.rootish_tg_threshold > 0 and price <= facts.work * idle:
            return WORK
        return DEAR

    def _cut_off(self, ts: TaskState, allowed: float) -> bool:
        """Whether the inputs of ``ts`` are cheap only as small ones of large groups.

        Padding, or cutting edges off, makes a group of small outputs beside large ones.
        What becomes of an edge is as small, whatever others of its group bring in.
        """
        tg = ts.group
        nworkers = len(self.state.workers)
        share = 0.0
        for dts in ts.dependencies:
            group = dts.group
            if (
                group.nbytes_total > allowed
                # One function for every step makes both handles and data
                and group is not tg
                and (not dts.who_has or len(dts.who_has) < nworkers)
            ):
                share += (mean_output(group) or 0) / len(dts.dependents)
        return share > allowed

    def _unthrottled(self, tg: TaskGroup) -> bool:
        """Whether more tasks of a prefix run than the cluster has threads for.

        Without a queue there is nothing to be held back in.
        """
        state = self.state
        return tg.prefix.states[
            "processing"
        ] > TASKS_PER_THREAD * state.total_nthreads and not math.isinf(
            state.WORKER_SATURATION
        )

    def _asked_for(self, tg: TaskGroup) -> bool:
        """Whether the settings take in this group only because the user raised them.

        What the defaults take in is decided by bytes, which know better. Beyond them,
        the settings are a demand of the user: the published way around #8969 is to
        raise them to the number of files.
        """
        state = self.state
        return within_count(state, tg) and not within_count(state, tg, DEFAULT_COUNT)


class Marked(RootishPolicy):
    """The rule of the base: marked as a data producer, or few dependencies."""

    name = "marked"

    __slots__ = ()

    def verdict(self, ts: TaskState) -> Verdict:
        if not self.state._is_rootish_marked(ts):
            return NOT_COUNTED
        return MARKED if ts.run_spec and ts.run_spec.data_producer else COUNTED


class Heuristic(RootishPolicy):
    """Few dependencies, as in distributed 2024.12 and before; marks do not count."""

    name = "heuristic"

    __slots__ = ()

    def verdict(self, ts: TaskState) -> Verdict:
        if ts.resource_restrictions or ts.worker_restrictions or ts.host_restrictions:
            return RESTRICTED
        return COUNTED if within_count(self.state, ts.group) else NOT_COUNTED


POLICIES: dict[str, type[RootishPolicy]] = {
    policy.name: policy for policy in (Producers, Marked, Heuristic)
}


def make_policy(state: SchedulerState) -> RootishPolicy:
    """Make the policy that the setting ``distributed.scheduler.rootish-policy`` names.

    Parameters
    ----------
    state
        The scheduler's state that the policy will judge by.

    Raises
    ------
    ValueError
        If the setting names no policy.
    """
    name = dask.config.get("distributed.scheduler.rootish-policy")
    try:
        return POLICIES[name](state)
    except (KeyError, TypeError):
        raise ValueError(
            "`distributed.scheduler.rootish-policy` must be one of "
            f"{', '.join(POLICIES)}; got {name!r}"
        ) from None
