"""Builds the fork, tests the build, and measures what the fork does."""
