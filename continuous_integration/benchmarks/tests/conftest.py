"""What tests of workloads get, if they have none of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from continuous_integration.benchmarks.tests.utils import client_of
from distributed import Client


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Give a client of two workers."""
    with client_of(2) as client:
        yield client
