"""Secret keys come from files or standard input and go into files that only their owner reads.

The format is that of the reference's ``Keypair::write_secret_key_file``: the 64 hexadecimal
digits of the seed, and nothing else. iroh writes its secret keys in the same digits. A secret
key is never an argument, where every user of the machine could read it, and never in a message.
A process that holds one leaves no core dump, and no other process of its user may look into it.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.errors import CommandError

if TYPE_CHECKING:
    from relay.pkarr.keys import Keypair

STANDARD_STREAM: Final = "-"
FILE_BYTES_MAX: Final = 1024
"""A key has 64 digits; white space around them is no fault, a film is."""
_DIGITS: Final = 64
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_PR_SET_DUMPABLE: Final = 4
"""prctl(2)."""


def read_secret_key(source: str) -> Keypair:
    """Read a key pair from a file, or from standard input if `source` is ``-``.

    A file that others can read is warned of on standard error, not refused: on file systems
    without modes, as those of Windows under WSL, and in containers' secrets, all files can be.

    Raises:
        CommandError: it cannot be read, or holds no secret key.
    """
    from relay.pkarr.keys import Keypair

    keep_memory_private()
    text = sys.stdin.buffer.read(FILE_BYTES_MAX + 1) if source == STANDARD_STREAM else _read(source)
    where = "standard input" if source == STANDARD_STREAM else source
    digits = text.strip()
    try:
        seed = bytes.fromhex(digits.decode("ascii"))
    except ValueError:  # of which UnicodeDecodeError is one
        seed = b""
    if len(digits) != _DIGITS or len(seed) != _DIGITS // 2:
        raise CommandError(f"{where} holds no secret key, which has 64 hexadecimal digits")
    return Keypair.from_seed(seed)


def keep_memory_private() -> None:
    """Let nobody but root read this process's memory, neither while it runs nor from its core.

    Where the system has no such call nothing happens: what follows is no less right without.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _read(source: str) -> bytes:
    if len(source) == _DIGITS and not set(source) - set("0123456789abcdefABCDEF"):
        raise CommandError(
            "a secret key is never an argument, where all users of this machine can read it:"
            " name the file that holds it, or - for standard input"
        )
    try:
        with Path(source).open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_mode & _OTHERS:
                mode = stat.S_IMODE(status.st_mode)
                print(
                    f"Warning: {source} has mode {mode:04o}: others may read the secret key;"
                    f" chmod 600 {source}",
                    file=sys.stderr,
                )
            return file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CommandError(f"failed to read {source}: {error.strerror}") from error


def write_secret_key(keypair: Keypair, path: str) -> None:
    """Write a key pair into a new file of mode 0600, in the reference's format.

    Raises:
        CommandError: something of that name exists already, or it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CommandError(f"{path} exists already and is left as it is") from None
    except OSError as error:
        raise CommandError(f"failed to write {path}: {error.strerror}") from error
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            file.write(keypair.seed.hex().encode())
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        Path(path).unlink()  # half a key is none
        raise CommandError(f"failed to write {path}: {error.strerror}") from error
