"""Git, as the commands here call it."""

from __future__ import annotations

import os
import subprocess

from continuous_integration.fork import ForkError

#: What a git that was started by another, such as in a hook, would work on.
_STEERING = {"GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"}


def run_git(*arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run git, whatever its exit code, and return what it printed.

    Parameters
    ----------
    *arguments
        Of git.
    **variables
        Environment variables to add.

    Raises
    ------
    ForkError
        When there is no git.
    """
    environ = {key: value for key, value in os.environ.items() if key not in _STEERING}
    try:
        return subprocess.run(
            ["git", *arguments],
            # It must not ask for a password
            env={**environ, "GIT_TERMINAL_PROMPT": "0", **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise ForkError("git is needed: install it") from None
