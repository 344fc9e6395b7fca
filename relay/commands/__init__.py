"""The subcommands of ``pkarr-relay``, one module each.

A module has `add_parser`, which adds the command's arguments, and the function that they are
handed to. The module is imported for every ``pkarr-relay``, whatever the command, so it imports
late what only its own work needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from relay.commands import (
    backup,
    check,
    check_config,
    export,
    health,
    import_,
    inspect_payload,
    keygen,
    publish,
    purge,
    resolve,
)

if TYPE_CHECKING:
    import argparse


class Command(Protocol):
    """What a module here has to offer."""

    def add_parser(self, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        """Add the command's parser, with ``run`` set to a function from arguments to exit code.

        What `run` raises of `ConfigError`, `StartupError`, `StoreError` and `CommandError` is
        said on standard error, and the exit code is 1.
        """
        ...


COMMANDS: Final[tuple[Command, ...]] = (
    check_config,
    health,
    resolve,
    inspect_payload,
    publish,
    keygen,
    backup,
    check,
    export,
    import_,
    purge,
)
