"""Secret keys: what is read, what is written, and that no message repeats one."""

import os
import stat

import pytest

from relay.commands.secret_keys import read_secret_key, write_secret_key
from relay.errors import CommandError
from relay.pkarr.keys import Keypair

ALICE = Keypair.from_seed(bytes(range(200, 232)))
HEX = ALICE.seed.hex()


@pytest.fixture(params=[0o022, 0o000, 0o777])
def _umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_only_the_owner_may_read_what_is_written(tmp_path, capsys):
    path = tmp_path / "alice.key"
    write_secret_key(ALICE, str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == HEX  # without a line end: iroh takes none
    assert read_secret_key(str(path)) == ALICE
    assert capsys.readouterr().err == ""


def test_nothing_is_overwritten(tmp_path):
    path, link = tmp_path / "alice.key", tmp_path / "link"
    path.write_text("precious")
    link.symlink_to(tmp_path / "elsewhere")
    for taken in (path, link, tmp_path):
        with pytest.raises(CommandError, match="exists already and is left as it is"):
            write_secret_key(ALICE, str(taken))
    assert path.read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(CommandError, match="No such file or directory"):
        write_secret_key(ALICE, str(tmp_path / "absent" / "key"))


def test_half_a_key_is_none(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CommandError, match="No space left on device"):
        write_secret_key(ALICE, str(tmp_path / "key"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [HEX, f"{HEX}\n", f"  {HEX.upper()}\r\n"])
def test_what_is_read(tmp_path, text):
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text(text)
    assert read_secret_key(str(path)) == ALICE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o777])
def test_a_file_open_to_others_is_warned_of(tmp_path, capsys, mode):
    path = tmp_path / "key"
    path.write_text(HEX)
    path.chmod(mode)
    assert read_secret_key(str(path)) == ALICE
    said = capsys.readouterr().err
    assert said == (
        f"Warning: {path} has mode {mode:04o}: others may read the secret key; chmod 600 {path}\n"
    )


@pytest.mark.parametrize(
    "octets",
    [b"", HEX[:-1].encode(), HEX.encode() + b"0", b"g" + HEX[1:].encode(), b"\xff" * 64,
     HEX[:32].encode() + b" " + HEX[32:63].encode(), ALICE.seed, str(ALICE.public_key).encode(),
     b" " * 100_000 + HEX.encode()],
)  # fmt: skip
def test_what_is_no_secret_key(tmp_path, octets):
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(octets)
    with pytest.raises(CommandError) as caught:
        read_secret_key(str(path))
    assert str(caught.value) == f"{path} holds no secret key, which has 64 hexadecimal digits"


def test_a_key_as_an_argument_is_refused_and_not_repeated():
    with pytest.raises(CommandError, match="never an argument") as caught:
        read_secret_key(HEX)
    assert HEX not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CommandError, match=f"failed to read {path}: "):
            read_secret_key(str(path))
