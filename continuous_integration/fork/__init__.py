"""Builds the fork: a release of ``distributed``, the *base*, with our files over it.

======================  ==============================================================
module                  what it does
======================  ==============================================================
``project``             what ``pyproject.toml`` and ``divergence.json`` say
``base``                the released ``distributed``, wherever a copy of it is
``syntax``              finds definitions in a module and fingerprints them
``merge``               a base's module + a partial module -> the fork's module
``fragments``           a base's YAML file + a fragment -> the fork's YAML file
``tree``                all of it: the files of the fork, in memory or in a folder
``hooks``               hatchling's hooks: metadata, wheel, sdist, editable wheel
``startup``             what an editable install runs in every Python that starts
``releases``            other bases: got from the package index, chosen, dropped
``report``              differences between fork and base, and between two bases
``__main__``            ``python -m continuous_integration.fork``
======================  ==============================================================
"""

from __future__ import annotations


class ForkError(Exception):
    """The fork cannot be made; the message says why, in one line."""
