"""The container image's first process: give up root, then become the command.

    python -I -m relay.entrypoint COMMAND [ARGUMENT ...]

Docker makes a missing bind-mounted folder as root, and a relay that is not root could not write
there. So the container starts as root, and before anything else this

1. gives ``/cache`` itself, not what is in it, to the relay's user, if that user cannot write there;
2. gives up every group, user and way back (``no_new_privs``: a set-uid program is none either);
3. becomes the command, as the same process, so that signals reach it.

Started as another user (``user:``, ``--user``) it changes nothing and says what to do where
``/cache`` cannot be written. Nothing here ends the container but a root that cannot be given up
and a command that does not exist: without its cache the relay still serves from memory.

Leaf module of few imports: it runs before every command.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

RELAY_UID: Final = 10001
"""The relay's user and group in the image; the Dockerfile makes a name for it."""
CACHE: Final = "/cache"
ENDED_BY_ERROR: Final = 1
NOT_FOUND: Final = 127
"""What shells, and Docker itself, answer for a command that does not exist."""

_PR_SET_NO_NEW_PRIVS: Final = 38
_PROBE: Final = ".pkarr-relay-can-write"


def main(arguments: list[str]) -> int:
    """Prepare ``/cache``, give up root, and become the command; return only if that fails."""
    if not arguments:
        return _fail("no command to run", ENDED_BY_ERROR)
    if os.geteuid() == 0:
        if os.path.isdir(CACHE):
            _hand_over(CACHE)
        try:
            _give_up_root()
        except OSError as error:
            return _fail(
                f"cannot become user {RELAY_UID}: {error.strerror}; leave the container the"
                f" capabilities CHOWN, SETUID and SETGID, or start it with"
                f" user: {RELAY_UID}:{RELAY_UID}",
                ENDED_BY_ERROR,
            )
    elif os.path.isdir(CACHE) and not _can_write(CACHE):
        uid, gid = os.geteuid(), os.getegid()
        _say(
            f"user {uid} cannot write to {CACHE}; on the host, give the folder mounted there"
            f" to that user (sudo chown {uid}:{gid} FOLDER), or leave out `user:`"
        )
    try:
        os.execvp(arguments[0], arguments)  # noqa: S606  # becoming the command is the purpose
    except OSError as error:
        return _fail(f"cannot run {arguments[0]}: {error.strerror}", NOT_FOUND)


def _hand_over(folder: str) -> None:
    """Make `folder` writable for the relay's user by owning it, if it is not yet."""
    try:
        if _relay_can_write(folder):
            return
        os.chown(folder, RELAY_UID, RELAY_UID)
        if _relay_can_write(folder):
            return
        reason = "it is mounted read-only, or its mode forbids it"
    except OSError as error:
        reason = str(error.strerror)
    _say(
        f"{folder} cannot be given to the relay's user {RELAY_UID} ({reason}); on the host, make"
        f" the folder mounted there writable for it (sudo chown {RELAY_UID}:{RELAY_UID} FOLDER)"
    )


def _relay_can_write(folder: str) -> bool:
    """Try to write as the relay's user, then be root again.

    Modes do not tell: mounts of Docker Desktop show owners that mean nothing.
    """
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(RELAY_UID)
    os.seteuid(RELAY_UID)
    try:
        return _can_write(folder)
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _can_write(folder: str) -> bool:
    """Make a file and remove it."""
    probe = os.path.join(folder, f"{_PROBE}-{os.getpid()}")
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
    except FileExistsError:
        return True  # what a killed container left, and what that one could write
    except OSError:
        return False
    return True


def _give_up_root() -> None:
    """Become the relay's user for good.

    Raises:
        OSError: the kernel does not let us, for want of a capability.
    """
    os.setgroups([])
    os.setresgid(RELAY_UID, RELAY_UID, RELAY_UID)
    os.setresuid(RELAY_UID, RELAY_UID, RELAY_UID)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.environ["HOME"] = "/nonexistent"  # and not root's, which is closed to us


def _say(sentence: str) -> None:
    print(f"pkarr-relay image: {sentence}", file=sys.stderr, flush=True)


def _fail(sentence: str, code: int) -> int:
    _say(sentence)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
