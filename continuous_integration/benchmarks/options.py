"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from continuous_integration.benchmarks.measure import BUILD

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def together(*options: Decorator) -> Decorator:
    """Return one decorator for several options.

    Parameters
    ----------
    options
        In the order of the help.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def contender_options(
    default: Sequence[str] = ("base", "fork"), timeout: float = 600.0
) -> Decorator:
    """Return the options of a command that has several ``distributed`` take part.

    They are its parameters ``names_``, ``parent``, ``fresh`` and ``timeout``.

    Parameters
    ----------
    default
        Who takes part.
    timeout
        Longest time that one run may take, in seconds.
    """
    return together(
        click.option(
            "--contender",
            "names_",
            multiple=True,
            metavar="base|again|fork|fork:SETTING=VALUE|RELEASE",
            default=default,
            help="Who takes part; give it several times. 'again' is the base once "
            "more, to see the noise; SETTING one of distributed.scheduler; RELEASE a "
            f"version of distributed.  [default: {', '.join(default)}]",
        ),
        click.option(
            "--environments",
            "parent",
            type=click.Path(file_okay=False, path_type=Path),
            default=BUILD / "environments",
            help="Folder of the environments.  "
            "[default: build/benchmarks/environments]",
        ),
        click.option("--fresh", is_flag=True, help="Forget what was measured before."),
        click.option(
            "--timeout", default=timeout, show_default=True, help="Seconds a run."
        ),
    )
