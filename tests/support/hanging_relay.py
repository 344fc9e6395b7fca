"""The relay's command, with ways to hang: SIGUSR1 stops its event loop, SIGUSR2 its front lane.

    python -m tests.support.hanging_relay python -m relay -c config.toml

It takes a relay's whole command as its arguments, so that it can be a wrapper of `RelayProcess`.
"""

from __future__ import annotations

import signal
import sys
import time

from relay import cli
from relay.http.front import FrontServer


def main() -> int:
    """Run the relay."""
    turn = FrontServer._turn
    stuck = False

    def hang(number: int, frame: object) -> None:
        time.sleep(3600)  # a signal's handler runs in the event loop's thread

    def stick(number: int, frame: object) -> None:
        nonlocal stuck
        stuck = True

    def turn_unless_stuck(server: FrontServer, *, alone: bool) -> None:
        if not stuck:
            turn(server, alone=alone)

    FrontServer._turn = turn_unless_stuck  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, hang)
    signal.signal(signal.SIGUSR2, stick)
    return cli.main(sys.argv[sys.argv.index("relay") + 1 :])


if __name__ == "__main__":
    sys.exit(main())
