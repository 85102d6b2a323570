"""Prometheus metrics of what is held back, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from distributed.http.prometheus import PrometheusCollector
from distributed.rootish.monitor import why_waiting

if TYPE_CHECKING:
    from distributed.rootish import Verdict
    from distributed.rootish.monitor import RootishMonitor
    from distributed.scheduler import Scheduler

_LABELS = ("rootish", "reason")


class RootishMetricCollector(PrometheusCollector):
    """Metrics ``dask_rootish_*``; none if the scheduler lacks the extension.

    Parameters
    ----------
    server
        The scheduler.
    """

    server: Scheduler

    def __init__(self, server: Scheduler):
        super().__init__(server)
        self.subsystem = "rootish"

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield the metrics as they are now."""
        monitor: RootishMonitor | None = self.server.extensions.get("rootish")
        if monitor is None:
            return
        groups = GaugeMetricFamily(
            self.build_name("groups"),
            "Task groups that the scheduler knows, by the last decision on them",
            labels=_LABELS,
        )
        _add(groups, monitor.count_groups())
        yield groups

        yield GaugeMetricFamily(
            self.build_name("queued_tasks"),
            "Tasks that are held back until a thread is free for them",
            value=len(self.server.queued),
        )

        waiting = GaugeMetricFamily(
            self.build_name("waiting_tasks"),
            "Tasks that are held back, by what they wait for",
            labels=("reason",),
        )
        waits: Counter[str] = Counter()
        for counts in why_waiting(self.server).values():
            waits.update(counts)
        for reason, count in waits.items():
            waiting.add_metric([reason], count)
        yield waiting

        decisions = CounterMetricFamily(
            self.build_name("decisions"),
            "Decisions whether a task is held back",
            labels=_LABELS,
        )
        _add(decisions, self.server.rootish_policy.decisions)
        yield decisions


def _add(
    family: GaugeMetricFamily | CounterMetricFamily, counts: Mapping[Verdict, int]
) -> None:
    """Give a family a value for each verdict."""
    for verdict, count in counts.items():
        family.add_metric([str(verdict.rootish).lower(), verdict.reason], count)
