"""Partial module: the part of ``distributed.http.scheduler.prometheus.core`` of ours.

The build puts these definitions into the base's module; what happens to which name is
written down in ``continuous_integration/fork/divergence.json``.
"""

from __future__ import annotations

from distributed.http.scheduler.prometheus.rootish import RootishMetricCollector

COLLECTORS.append(RootishMetricCollector)
