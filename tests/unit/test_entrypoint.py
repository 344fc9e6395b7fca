"""`relay.entrypoint`, as far as it goes outside a container; tests/containers has the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from relay import entrypoint

COMMAND = (sys.executable, "-m", "relay.entrypoint")


def enter(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PATH": "/usr/bin:/bin"}  # no folder that is closed to others
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, env=environ
    )


def test_becomes_the_command() -> None:
    with subprocess.Popen(
        [*COMMAND, "sh", "-c", "echo $$; exit 7"], stdout=subprocess.PIPE, text=True
    ) as process:
        said, _ = process.communicate()
    assert process.returncode == 7
    assert int(said) == process.pid


def test_nobody_is_root_behind_it() -> None:
    """Root becomes the relay's user, without a way back; others stay who they are."""
    done = enter("sh", "-c", "id -u; id -g; id -G; grep NoNewPrivs /proc/self/status")
    uid, gid, groups, no_new_privileges = done.stdout.splitlines()
    if os.geteuid() == 0:
        assert (uid, gid, groups) == ("10001", "10001", "10001")
        assert no_new_privileges.split() == ["NoNewPrivs:", "1"]
    else:
        assert (int(uid), int(gid)) == (os.geteuid(), os.getegid())


def test_what_cannot_be_run() -> None:
    done = enter("no-such-command", "--x")
    assert done.returncode == 127
    assert done.stderr.endswith("cannot run no-such-command: No such file or directory\n")
    done = enter()
    assert done.returncode == 1
    assert done.stderr == "pkarr-relay image: no command to run\n"


def test_whether_a_folder_can_be_written(tmp_path: Path) -> None:
    assert entrypoint._can_write(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert not entrypoint._can_write("/proc")
    assert not entrypoint._can_write(str(tmp_path / "missing"))


def test_it_starts_quickly() -> None:
    """It runs before each command, so it imports nothing of the relay."""
    tell = "import sys, relay.entrypoint; print(*sorted(m for m in sys.modules if 'relay' in m))"
    done = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True)
    imported = [name for name in done.stdout.split() if not name.startswith("__editable__")]
    assert imported == ["relay", "relay.entrypoint"]
