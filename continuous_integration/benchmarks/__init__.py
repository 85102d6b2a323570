"""Workloads that show what the fork changes, measured beside the base as released."""
