"""Random graphs and random events for the scheduler."""

from continuous_integration.random_cases.cases import (
    Case,
    Graph,
    Layer,
    cases,
    random_case,
    script,
    shrink,
)
from continuous_integration.random_cases.cluster import Fault, play, quiet

__all__ = [
    "Case",
    "Fault",
    "Graph",
    "Layer",
    "cases",
    "play",
    "quiet",
    "random_case",
    "script",
    "shrink",
]
