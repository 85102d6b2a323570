"""Run as ``python -m continuous_integration.upstream``."""

from __future__ import annotations

import click

from continuous_integration.upstream import suite
from continuous_integration.upstream.pull_request import pull_request


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Test the fork as the project that it comes from does, and offer it there."""


main.add_command(suite.command)
main.add_command(pull_request)


if __name__ == "__main__":
    main(prog_name="python -m continuous_integration.upstream")
