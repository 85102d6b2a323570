"""Which tasks are root-ish: held back by the scheduler until a thread is free for them.

Two questions, two answers:

when
    A task is held back if it *brings in more than it frees*, and there is more of that
    than the cluster runs at once. Sent out all at once, such tasks would fill the
    cluster with their output before anything has consumed it.
where
    It may go to any worker, unless its inputs are *expensive to move*; then it waits
    beside them.

Both are counted in bytes. What a task brings in is the mean output of its group so far.
What it frees is its share of its inputs, each shared out among the tasks of its name
that use it; a path, an opened file, or a table that thousands of reads need is next to
nothing, at any depth of the graph and however many of them there are. An input that a
client keeps is not freed at all, unless it wants the output as well. To move an input
means that in the end it lies on every worker, or on as many as it has users. A fifth of
the output is the bound on both.
Where more than a fifth of a collection's group frees as much as it brings in, so does
the rest: the mean output of a group that pads chunks is not that of an edge.

As long as no output of a group is known, its tasks are taken for loads if nothing that
they depend on is data, and for consumers otherwise. They are judged again when more is
known: those that are queued when they leave the queue, and those that were sent, and
may have to come back, when the group turns out to bring in data, or to make little of
a few large inputs.

Every other task is sent, as soon as it can run, to a worker that holds its inputs. Who
wrote the loader, how many groups it depends on, how long its tasks take and how busy
the machine is make no difference.

See the page "How the decision is made" of the documentation for the evidence.
"""

from __future__ import annotations

import itertools
import math
import operator
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import dask
from dask._task_spec import DataNode

from distributed.sizeof import safe_sizeof

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

#: What is less than this part of something counts for little beside it.
SMALL_PART = 0.2

#: Output assumed for a task as long as nothing is known of it, in bytes.
UNKNOWN_OUTPUT = 2**20

#: Up to this size, in bytes, an output is a handle or a number: it is not worth to be
#: held back. What is larger is data, if it is one of many.
HANDLE_BYTES = 2**15

#: No more tasks than this are looked at to learn something about another: its
#: dependents, the inputs of a reduction, the steps on the way there.
LOOKED_AT = 32

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


PRODUCER = Verdict(
    True, "producer", "It brings in far more than it frees, and may run anywhere."
)
BESIDE = Verdict(
    True,
    "beside",
    "It brings in far more than it frees, but its inputs are expensive to move: it "
    "waits beside them.",
)
CONSUMER = Verdict(
    False,
    "consumer",
    "It frees as much as it brings in, as far as is known; it runs beside its inputs.",
)
FEW = Verdict(False, "few", "The cluster can run all of its tasks at once.")
STAND_IN = Verdict(
    False,
    "stand-in",
    "It is a small object that the graph brings with it, and others wait for it.",
)
PLACED = Verdict(
    False, "placed", "It is an actor, or its restrictions say where it runs."
)
COUNTED = Verdict(
    True, "counted", "It is marked, or has fewer dependencies than the settings say."
)
NOT_COUNTED = Verdict(
    False,
    "not-counted",
    "The cluster can run all of its tasks at once, or it has more dependencies than "
    "the settings say.",
)


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
    finished = sum(tasks._types.values())
    if not finished:
        return None
    size = tasks._size
    return tasks.nbytes_total / (finished if finished < size else size)


def expected_output(ts: TaskState) -> float | None:
    """Return what a task is expected to make, in bytes: the mean of its group.

    As long as none of that has finished, what others of its name have made counts.

    Parameters
    ----------
    ts
        The task.

    Returns
    -------
    float or None
        None as long as nothing is known.
    """
    group = ts.group
    output = mean_output(group)
    return mean_output(group.prefix) if output is None else output


def _holders(inputs: Iterable[TaskState]) -> set[WorkerState]:
    """Return the workers that hold any of the inputs."""
    return set().union(*[dts.who_has or () for dts in inputs])


def _is_data(dts: TaskState, nbytes: float, inputs: float) -> bool:
    """Whether an input is rather data than a handle, for all that is known.

    It is if it is one of many that is large; or of which others are still to come, and
    each has few users. What stands for data, or is few, goes out at once.

    Parameters
    ----------
    dts
        The input.
    nbytes
        Its size, or that of others of its group.
    inputs
        How many inputs the task has so far, each shared out among its users.
    """
    tg = dts.group
    if tg.rootish_facts.verdict in (None, FEW, STAND_IN):
        return False
    states = tg.states
    return nbytes > HANDLE_BYTES or bool(
        inputs > SMALL_PART
        and (states["queued"] or states["processing"] or states["waiting"])
    )


def _users_alike(dts: TaskState, tasks: TaskGroup | TaskPrefix) -> float:
    """Return how many tasks of a group, or of a name, use an output.

    What other tasks need of it does not make it less: it is freed when the last of them
    is done, whichever that is.

    Parameters
    ----------
    dts
        The task whose output it is.
    tasks
        The group or prefix of the tasks, of which there is one at least.
    """
    some = list(itertools.islice(dts.dependents, LOOKED_AT))
    alike = sum(tasks is user.group or tasks is user.prefix for user in some)
    return max(alike * len(dts.dependents) / len(some), 1.0)


def is_small_data(run_spec: object) -> bool:
    """Whether a task is a small object of the graph, such as a handle or indices.

    Its size is known before it runs, by the same count as that of outputs.

    Parameters
    ----------
    run_spec
        ``TaskState.run_spec``
    """
    return (
        isinstance(run_spec, DataNode) and safe_sizeof(run_spec.value) <= HANDLE_BYTES
    )


class GroupFacts:
    """What is known of a task group, kept with it.

    Attributes
    ----------
    verdict
        The last one on a task of the group, None as long as there was none.
    count
        How often it was given since there was another.
    guessed
        Whether nothing was known of the output when it was given.
    weighed
        How many tasks were weighed when the output was known.
    freeing
        How many of those free as much as they bring in.
    output_until_reduced
        Output of a task, and what is made of it before it is combined, in bytes; see
        :func:`distributed.rootish.families.output_until_reduced`.
    output_review_at
        Value of ``TaskPrefix.nbytes_total`` from which on that is out of date.
    """

    __slots__ = (
        "_earlier",
        "count",
        "freeing",
        "guessed",
        "output_review_at",
        "output_until_reduced",
        "verdict",
        "weighed",
    )

    verdict: Verdict | None
    count: int
    weighed: int
    freeing: int
    #: Verdicts before the last one -> how often they were given
    _earlier: dict[Verdict, int] | None
    guessed: bool
    output_until_reduced: tuple[float, float]
    output_review_at: int

    def __init__(self) -> None:
        self.verdict = None
        self.count = 0
        self.weighed = self.freeing = 0
        self._earlier = None
        self.guessed = False
        self.output_review_at = 0
        self.output_until_reduced = (1.0, 1.0)

    @property
    def in_doubt(self) -> bool:
        """Whether a task of the group is judged again when it leaves the queue.

        It is if nothing was known of its output when it was queued, or others of its
        group were found not to be root-ish meanwhile.
        """
        return self.guessed or not (self.verdict and self.verdict.rootish)

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

    def count_weighed(self, frees: bool) -> None:
        """Count a task that was weighed, if its output is known.

        Parameters
        ----------
        frees
            Whether it frees as much as it brings in.
        """
        if not self.guessed:
            self.weighed += 1
            self.freeing += frees

    def change(self, verdict: Verdict) -> bool:
        """Note a verdict other than the last; return whether the group never had it."""
        if self.verdict:
            self._earlier = self.decisions
        self.verdict = verdict
        self.count = 1
        return not self._earlier or verdict not in self._earlier


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
    #: Groups of tasks that were sent at once, as little was known of them
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
    """Root-ish is what brings in more than it frees. See the module's docstring.

    Costs O(dependencies of the task), and stops as soon as they are too large.
    """

    name = "producers"
    co_assigns = True

    __slots__ = ("_raised",)

    #: Whether the user raised the setting that bounds the count of dependencies
    _raised: bool

    def __init__(self, state: SchedulerState):
        super().__init__(state)
        # The other makes no difference alone, since each group has a task
        self._raised = state.rootish_tg_dependencies_threshold > DEFAULT_COUNT

    def verdict(self, ts: TaskState) -> Verdict:
        state = self.state
        restricted = (
            ts.resource_restrictions or ts.worker_restrictions or ts.host_restrictions
        )
        # A P2P shuffle, which spreads its tasks itself, or there is no queue
        at_once = not ts._queueable or math.isinf(state.WORKER_SATURATION)
        if ts.actor or (restricted and at_once):
            return PLACED
        if at_once:
            # All that this decides is which of the release's two ways finds a worker
            return COUNTED if state._is_rootish_marked(ts) else NOT_COUNTED
        nthreads: float = state.total_nthreads
        if restricted:
            nthreads = self._threads_to_wait_for(ts)
            if not nthreads:
                return PLACED
        run_spec = ts.run_spec
        is_shared = len(ts.dependents) > 1 and isinstance(run_spec, DataNode)
        # What is in the graph has the mark as well
        is_marked = run_spec is not None and run_spec.data_producer and not is_shared
        # A queued task stays where it is when the cluster grows
        if not (
            is_marked or ts._state == "queued" or larger_than_cluster(ts, nthreads)
        ):
            return FEW
        if not ts.dependencies:
            if is_shared and is_small_data(run_spec):
                return STAND_IN
            return PRODUCER
        if ts.waiting_on:
            # The sizes of its inputs are not known yet
            return PRODUCER if is_marked else CONSUMER
        verdict = self._weigh(ts)
        if self._raised and not verdict.rootish and self._asked_for(ts.group):
            return COUNTED
        return verdict

    def _weigh(self, ts: TaskState) -> Verdict:
        """Weigh what a task brings in against what it frees, and against copies."""
        state = self.state
        tg = ts.group
        known = expected_output(ts)
        facts = tg.rootish_facts
        facts.guessed = known is None
        output = UNKNOWN_OUTPUT if known is None else known
        bound = SMALL_PART * output
        is_small = output <= HANDLE_BYTES
        # A single worker has nothing to copy, but the cluster may grow
        nworkers = max(len(state.workers), 2)
        frees = copies = inputs = 0.0
        for dts in ts.dependencies:
            users = len(dts.dependents)
            if (group := dts.group).rootish_facts.verdict is not STAND_IN:
                # Other groups may use it as well, each of them on its own
                inputs += 1 / (_users_alike(dts, tg) if is_small else users)
            # Small outputs are held back for the work alone, if beside their inputs
            # workers idle
            if is_small and inputs * tg._size >= nworkers:
                self._doubt(tg)
                return CONSUMER
            nbytes: float = dts.nbytes
            if group is not tg:
                # Padding, or cutting edges off, makes small outputs beside large ones:
                # what becomes of an edge is as small
                nbytes = max(nbytes, mean_output(group) or 0)
            if known is None and _is_data(dts, nbytes, inputs):
                self._doubt(tg)
                return CONSUMER
            # Whoever wants both has to hold the output in any case
            if not (is_small or (dts.who_wants and not ts.who_wants)):
                share = nbytes / users
                if frees + share < bound <= frees + nbytes:
                    share = nbytes / _users_alike(dts, tg.prefix)
                frees += share
                if frees >= bound:
                    if known is None:
                        self._doubt(tg)
                    facts.count_weighed(True)
                    return CONSUMER
            if len(dts.who_has or ()) < nworkers:
                copies += nbytes * (nworkers - 1) / max(users, nworkers)
        if (
            state.rootish_tg_threshold <= 0
            and (is_small or known is None)
            and inputs * tg._size < nworkers
        ):
            # The user wants no tasks spread for the sake of their number
            return CONSUMER
        facts.count_weighed(False)
        # Other keys are all calls of a function, whatever it is called for
        if type(ts.key) is tuple and facts.freeing > SMALL_PART * facts.weighed:
            return CONSUMER
        return PRODUCER if copies < max(bound, HANDLE_BYTES) else BESIDE

    def _threads_to_wait_for(self, ts: TaskState) -> float:
        """Return for how many threads a restricted task waits, 0 if it goes at once.

        As long as nothing is known of its output, it waits if its graph says who needs
        it. Otherwise it goes to where it is bound, and is called back if tasks like it
        turn out to bring in data (:meth:`overdue`). Small outputs are never waited for.
        """
        queue: Any = self.state.queued
        if not hasattr(queue, "pool"):
            return 0
        output = expected_output(ts)
        if output is None:
            if not ts.dependents:
                self.unsure[ts.group] = None
                return 0
        elif output <= HANDLE_BYTES:
            return 0
        nthreads: float = queue.pool(ts).nthreads
        return nthreads

    def _doubt(self, tg: TaskGroup) -> None:
        """Remember a group of which so many are sent that they should be no loads.

        The queue of the base calls nothing back.
        """
        state = self.state
        many = tg.states["processing"] > TASKS_PER_THREAD * state.total_nthreads
        if many and hasattr(state.queued, "note"):
            self.unsure[tg] = None

    def overdue(self) -> list[TaskState]:
        """Return tasks that were sent to a worker and are to be called back.

        Many were sent at once of which nothing was known, or of which others had small
        outputs. When they turn out to bring in data, those are called back that do not
        run yet. So are those that were sent to a few large inputs, and turn out to make
        little of them: other workers may help.
        """
        late: list[TaskState] = []
        for tg in list(self.unsure):
            output = mean_output(tg)
            if not tg.states["processing"]:
                del self.unsure[tg]
            elif output is None:
                continue
            elif output > HANDLE_BYTES:
                del self.unsure[tg]
                late += self._call_back(tg, PRODUCER)
            elif tg.rootish_facts.guessed:
                # Once, as they are judged by what is known from now on
                late += self._call_back(tg, BESIDE)
        return late

    def _call_back(self, tg: TaskGroup, verdict: Verdict) -> list[TaskState]:
        """Return the tasks of a group that were sent, if they are judged so by now.

        All but one for each thread, by their priority. Those that bring in data, but
        whose inputs are expensive to move, stay where these are.
        """
        queue: Any = self.state.queued
        late: list[TaskState] = []
        for ws in self.state.running:
            sent = [
                ts
                for ts in ws.processing
                if ts.group is tg and ts not in ws.long_running
            ]
            sent.sort(key=operator.attrgetter("priority"))
            if sent and self.verdict(sent[-1]) is not verdict:
                break
            for ts in sent[: ws.nthreads]:
                queue.note(ts)
            late += sent[ws.nthreads :]
        return late

    def place(self, ts: TaskState) -> WorkerState | None:
        """Return the worker beside the largest of its inputs that are no handles.

        The handle of a read that is fused with its consumer ends up on every worker. It
        must not draw the task away from the chunk that it consumes.

        Of several workers, the one is taken on which the base expects the task to start
        first; what waits in the queue for a worker counts as its work as well. That is
        asked here since the base looks at every input once for each of them; neighbors
        are combined on one worker as a rule, and there is no question.
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
        # By what each task that still needs an input would have of it
        shares = {dts: dts.nbytes / len(dts.waiters or (ts,)) for dts in dependencies}
        bound = max((1 - SMALL_PART) * max(shares.values()), HANDLE_BYTES)
        large = [dts for dts, nbytes in shares.items() if nbytes > bound]
        holders = _holders(large) & running
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

        queue: Any = state.queued
        waits = getattr(queue, "occupancy", None)

        def starts(ws: WorkerState) -> tuple[float, int]:
            """See ``SchedulerState.worker_objective``."""
            occupancy = ws.occupancy + (waits(ws) if waits else 0.0)
            backlog = occupancy / ws.nthreads
            return backlog + (total - held[ws]) / state.bandwidth, ws.nbytes

        return min(holders, key=starts)

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
        return COUNTED if self.state._is_rootish_marked(ts) else NOT_COUNTED


class Heuristic(RootishPolicy):
    """Few dependencies, as in distributed 2024.12 and before; marks do not count."""

    name = "heuristic"

    __slots__ = ()

    def verdict(self, ts: TaskState) -> Verdict:
        if ts.resource_restrictions or ts.worker_restrictions or ts.host_restrictions:
            return PLACED
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
        If the setting names no policy, or one that bounds the count is no number.
    """
    for setting, value in (
        ("rootish-taskgroup", state.rootish_tg_threshold),
        ("rootish-taskgroup-dependencies", state.rootish_tg_dependencies_threshold),
    ):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or math.isnan(value):
            raise ValueError(
                f"`distributed.scheduler.{setting}` must be a number; got {value!r}"
            )
    name = dask.config.get("distributed.scheduler.rootish-policy")
    if not isinstance(name, str) or name not in POLICIES:
        raise ValueError(
            "`distributed.scheduler.rootish-policy` must be one of "
            f"{', '.join(POLICIES)}; got {name!r}"
        )
    return POLICIES[name](state)
