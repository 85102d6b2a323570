"""Play a graph in a process of its own, while this one plays it under another policy.

Python runs one thread at a time, so that two policies take twice as long as one. A
process is worth its start where graphs are large. It is a new interpreter that is given
what the scheduler looks at: keys, edges, marks, sizes; no function of the user's and no
data. Nothing of the program that asks is run again in it, so scripts need no guard, and
it works in notebooks. Whatever goes wrong with it, there is no answer, and the graph is
played here.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import dask.config
from dask._task_spec import DataNode, GraphNode
from dask.system import CPU_COUNT

from distributed.rootish.policy import HANDLE_BYTES, is_small_data
from distributed.rootish.simulation import SimulationError

if TYPE_CHECKING:
    from dask.typing import Key

    from distributed.rootish.prediction import Plan, Played

#: Graphs of fewer tasks are played before another process has begun.
LEAST = 20_000

#: How often somebody who waits is asked whether to go on, in seconds.
PATIENCE = 0.1

#: Takes the place of data that is not small.
_LARGE = bytes(HANDLE_BYTES + 1)

#: What the process runs. What is imported may print, so the answer goes elsewhere.
_PROGRAM = """
import os, pickle, sys
answer = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
sys.path[:] = pickle.load(sys.stdin.buffer)
from distributed.rootish.apart import main
main(sys.stdin.buffer, answer)
"""


class NoAnswer(Exception):
    """The process has failed, or what it needs cannot be sent."""


class Bare(GraphNode):
    """What the scheduler looks at of a task.

    Parameters
    ----------
    key, dependencies
        Of the task.
    data_producer
        Whether it is marked.
    """

    __slots__ = ("_data_producer",)

    def __init__(self, key: Key, dependencies: frozenset[Key], data_producer: bool):
        self.key = key
        self._dependencies = dependencies
        self._data_producer = data_producer

    @property
    def data_producer(self) -> bool:
        return self._data_producer


class _Packed(NamedTuple):
    """A graph without its functions and data, quick to send.

    Attributes
    ----------
    keys
        Of all tasks.
    dependencies
        Keys that each depends on.
    marked
        Whether each is marked.
    data
        Number of a task that is data in the graph -> whether it is small.
    """

    keys: Sequence[Key]
    dependencies: Sequence[frozenset[Key]]
    marked: Sequence[bool]
    data: Mapping[int, bool]

    def unpack(self) -> dict[Key, GraphNode]:
        """Return tasks by their key."""
        tasks: dict[Key, GraphNode] = {
            key: Bare(key, dependencies, marked)
            for key, dependencies, marked in zip(
                self.keys, self.dependencies, self.marked
            )
        }
        for number, is_small in self.data.items():
            key = self.keys[number]
            tasks[key] = DataNode(key, None if is_small else _LARGE)
        return tasks


def _pack(tasks: Mapping[Key, GraphNode]) -> _Packed:
    nodes = tasks.values()
    return _Packed(
        list(tasks),
        [node.dependencies for node in nodes],
        [node.data_producer for node in nodes],
        {
            n: is_small_data(node)
            for n, node in enumerate(nodes)
            if isinstance(node, DataNode)
        },
    )


def worthwhile(tasks: int, policies: Sequence[str]) -> list[str]:
    """Return the policies under which a graph had better be played apart.

    Parameters
    ----------
    tasks
        Number of its tasks.
    policies
        All of them.
    """
    # Of something else that was made with Python, it would start that
    if tasks < LEAST or not sys.executable or getattr(sys, "frozen", False):
        return []
    return [*policies[1:CPU_COUNT]]


class Apart:
    """A process that plays a graph.

    It is started at once, since it has much to import.
    """

    def __init__(self) -> None:
        self._answer: Future[bytes] = Future()
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False
        with contextlib.suppress(OSError, ValueError):
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Ties are broken by the order in sets: to get the same answer twice
                env={"PYTHONHASHSEED": "0", **os.environ},
                # Else a window may open
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )

    def ask(self, plan: Plan, policy: str) -> None:
        """Tell it what to play.

        Parameters
        ----------
        plan
            What is played.
        policy
            Name of the policy.
        """
        process = self._process
        if process is None:
            return
        try:
            # Objects of the program itself are unknown elsewhere
            question = pickle.dumps(
                (
                    dask.config.config,
                    _pack(plan.graph.tasks),
                    replace(plan, graph=replace(plan.graph, tasks={})),
                    policy,
                ),
                pickle.HIGHEST_PROTOCOL,
            )
        except Exception:
            # Whatever somebody else's keys raise
            self.stop()
            return

        def exchange() -> None:
            answer = b""
            with contextlib.suppress(OSError, ValueError):
                answer, _ = process.communicate(pickle.dumps(sys.path) + question)
            self._answer.set_result(answer)

        self._asked = True
        threading.Thread(target=exchange, name="explain-rootish", daemon=True).start()

    def answer(self, check: Callable[[], None]) -> Played:
        """Wait for what it has played.

        Parameters
        ----------
        check
            Called now and then; raises if it has to stop.

        Raises
        ------
        NoAnswer
            If the process has failed.
        SimulationError
            If the simulation has.
        """
        if self._process is None:
            raise NoAnswer
        while True:
            check()
            try:
                text = self._answer.result(PATIENCE)
            except TimeoutError:
                continue
            try:
                result = pickle.loads(text)
            except Exception:
                raise NoAnswer from None
            if isinstance(result, SimulationError):
                raise result
            played: Played = result
            return played

    def stop(self) -> None:
        """End it, if it still runs."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            # Else the thread that waits for it does
            if not self._asked:
                process.communicate()


def main(question: Any, answer: Any) -> None:
    """Play what is asked for.

    Parameters
    ----------
    question, answer
        Files to read from and to write to.
    """
    from distributed.rootish.prediction import play

    # It lives as long as there is something to keep
    gc.disable()
    config, packed, plan, policy = pickle.load(question)
    dask.config.config.clear()
    dask.config.config.update(config)
    plan = replace(plan, graph=replace(plan.graph, tasks=packed.unpack()))
    try:
        result: Any = play(plan, policy, lambda: None)
    except SimulationError as error:
        result = error
    with answer:
        pickle.dump(result, answer)
