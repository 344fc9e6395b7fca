"""No secret in what the relay and its commands say: logs at every level, answers, errors, figures.

The secrets are known here, so every channel is searched for each of them in every form in which
bytes are commonly written. Those that the relay makes for itself (for tokens, hash tables, cookies
of any kind) are learned by listening at its source of randomness.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay._http_request import BaseUrl
from tests.support import peers
from tests.support.commands import command
from tests.support.packets import Author, zbase32
from tests.support.relay import RelayProcess, fetch, free_port, wait_until

pytestmark = [pytest.mark.slow]

PASSWORD = "hunter2-kZ81xQ"  # noqa: S105  # to be looked for
RECORD_RANDOMNESS = """\
import os, random
_fetch = os.urandom
def _listen(count):
    octets = _fetch(count)
    if count >= 16 and count != 20:  # those are ids of nodes, which are public
        with open(os.environ["RANDOMNESS"], "a") as file:
            file.write(octets.hex() + "\\n")
    return octets
os.urandom = random._urandom = _listen
"""


def forms(secret: bytes) -> dict[str, bytes]:
    """Return the ways in which a secret might be written."""
    found = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "base64": base64.b64encode(secret).rstrip(b"="),
        "base64, for URLs": base64.urlsafe_b64encode(secret).rstrip(b"="),
        "base32": base64.b32encode(secret).rstrip(b"="),
        "repr": repr(secret)[2:-1].encode(),
        "list": str(list(secret))[1:-1].encode(),
        "number": str(int.from_bytes(secret)).encode(),
        "JSON": json.dumps(secret.decode("latin-1"))[1:-1].encode(),
    }
    if len(secret) == 32:
        found["z-base-32"] = zbase32(secret).encode()
    return found


def leaks(said: dict[str, bytes], secrets: dict[str, bytes]) -> list[str]:
    """Return every place where a secret is said."""
    folded = {channel: text.lower() for channel, text in said.items()}
    return [
        f"{name} in {channel}, as {form}"
        for name, secret in secrets.items()
        for form, written in forms(secret).items()
        for channel, text in folded.items()
        if written.lower() in text
    ]


def test_the_search_finds_what_is_there() -> None:
    secret = bytes(range(32))
    for form, written in forms(secret).items():
        found = leaks({"here": b"x" + written + b"y", "there": b"nothing"}, {"it": secret})
        assert f"it in here, as {form}" in found
    assert leaks({"there": b"nothing"}, {"it": secret}) == []


# ---- The relay ----


@pytest.fixture
def net() -> Iterator[peers.Peer]:
    with peers.own_net(8) as net:
        yield net


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_relay_says_no_secret(tmp_path: Path, net: peers.Peer, form: str) -> None:
    listener, randomness = tmp_path / "listener", tmp_path / "randomness"
    listener.mkdir()
    (listener / "sitecustomize.py").write_text(RECORD_RANDOMNESS)
    metrics = free_port()
    relay = RelayProcess(
        tmp_path,
        bootstrap=net.bootstrap,
        sections={
            "metrics": f'bind = "127.0.0.1:{metrics}"',
            "log": 'filter = "trace"\nclient_addresses = "full"',
            "http": f'password = "{PASSWORD}"',  # no such key: it is reported
        },
        wrapper=(
            "env",
            f"PYTHONPATH={listener}",
            f"RANDOMNESS={randomness}",
            f"PKARR_RELAY__HTTP__API_TOKEN={PASSWORD}",  # no such key either
            f"DATABASE_PASSWORD={PASSWORD}",
            *("sh", "-c", f'exec "$@" --log-format {form}', "sh"),
        ),
    )
    owner = Author(b"\x07" * 16 + os.urandom(16))
    said: dict[str, bytes] = {}
    with relay:
        relay.wait_bootstrapped()
        packet = owner.packet("hello")
        fields = {"Authorization": f"Bearer {PASSWORD}", "Cookie": f"session={PASSWORD}"}
        asked = {
            "PUT": ("PUT", owner.key, packet.payload),
            "PUT of a secret key": ("PUT", owner.key, owner.seed.hex().encode()),
            "PUT of a secret key, raw": ("PUT", owner.key, owner.seed * 4),
            "GET": ("GET", owner.key, None),
            "GET of nothing": ("GET", Author().key, None),
            "GET of a word": ("GET", "word", None),
            "POST": ("POST", owner.key, PASSWORD.encode()),
            "a query": ("GET", f"{owner.key}?policy=CacheOnly&token={PASSWORD}", None),
            "index": ("GET", "", None),
            "stats": ("GET", "stats", None),
            "health": ("GET", "health", None),
        }
        for name, (method, path, body) in asked.items():
            answer = relay.request(path, method, body, fields)
            # A page may tell a client its own mistake; nobody else gets to read it.
            said[name] = json.dumps(dict(answer.headers)).encode() + answer.body
        relay.config_path.write_text(f'{relay.config_path.read_text()}\n[http\n"{PASSWORD}"')
        os.kill(relay.pid, signal.SIGHUP)
        wait_until(lambda: "reload" in relay.log().rpartition("SIGHUP")[2].lower(), "the reload")
        said["metrics"] = fetch(f"http://127.0.0.1:{metrics}/metrics").body
        relay.config_path.write_text(
            relay.config_path.read_text().replace(f'\n[http\n"{PASSWORD}"', "")
        )
        for name in ("check", "export", "backup", "purge"):
            rest = {"backup": [tmp_path / "copy.sqlite3"], "purge": [Author().key]}.get(name, [])
            done = command("-c", relay.config_path, name, *rest)
            said[name] = done.stdout + done.stderr
    log = relay.log()
    said["log"] = log.encode()
    made = {bytes.fromhex(line) for line in randomness.read_text().split()}
    assert made, "the relay asked for no randomness"
    secrets = {f"randomness {number}": octets for number, octets in enumerate(made)}
    secrets |= {"the owner's key": owner.seed, "the password": PASSWORD.encode()}
    assert "filter='trace'" in log  # in a line that is told at debug
    assert log.count("DEBUG") > len(asked)
    assert log.startswith("{") == (form == "json")
    assert leaks(said, secrets) == []


# ---- The commands ----


@pytest.fixture
def owner(tmp_path: Path) -> tuple[Author, Path]:
    author, path = Author(), tmp_path / "secret.key"
    path.write_text(author.seed.hex())
    path.chmod(0o600)
    return author, path


def test_no_command_says_a_secret(tmp_path: Path, owner: tuple[Author, Path]) -> None:
    author, path = owner
    secrets = {"the key": author.seed, "the password": PASSWORD.encode()}
    wrong = tmp_path / "wrong.key"
    wrong.write_text(author.seed.hex() + "0")  # one digit too many
    config = tmp_path / "config.toml"
    config.write_text(f"[http]\nport = 1\n{author.seed.hex()}\n")
    sound = tmp_path / "sound.toml"
    sound.write_text(f"[cache]\npath = {json.dumps(os.fspath(tmp_path / 'cache'))}\n")
    nowhere = ("--timeout", "1", "--bootstrap", "127.0.0.1:1")
    unwell = f"http://user:{PASSWORD}@127.0.0.1:1/"
    calls: dict[str, tuple[object, ...]] = {
        "publish": ("publish", path, "--txt", "@=x", *nowhere),
        "publish, JSON": ("publish", path, "--txt", "@=x", "--json", *nowhere),
        "publish to a file": ("publish", path, "--txt", "@=x", "--output", tmp_path / "payload"),
        "publish with a broken key": ("publish", wrong, "--empty"),
        "publish, no record": ("publish", path, "--a", "@=nonsense"),
        "the key's file as a payload": ("publish", "--payload", path, *nowhere),
        "the key's file as a payload of a key": (
            *("publish", "--payload", path, "--key", author.key, *nowhere),
        ),
        "inspect of the key's file": ("inspect", path),
        "the key's file as a configuration": ("check-config", path),
        "a configuration with a key in it": ("check-config", config),
        "a relay run with it": ("-c", config),
        "a relay run with the key's file": ("-c", path),
        "import of the key's file": ("-c", sound, "import", path),
        "a password in a URL": ("resolve", author.key, "--relay", unwell, "--timeout", "1"),
        "a password in a URL, JSON": (
            *("publish", path, "--empty", "--relay", unwell, "--timeout", "1", "--json"),
        ),
        "keygen over it": ("keygen", path),
        "keygen": ("keygen", tmp_path / "new.key", "--json"),
    }
    said = {}
    for name, arguments in calls.items():
        done = command(*arguments, env={"RUST_LOG": "trace", "SOME_TOKEN": PASSWORD})
        assert b"Traceback" not in done.stderr, (name, done.stderr)
        said[name] = done.stdout + b"\n" + done.stderr
    done = command("publish", "-", "--empty", *nowhere, stdin=author.seed.hex().encode() + b"00")
    said["a broken key on standard input"] = done.stdout + done.stderr
    new = bytes.fromhex((tmp_path / "new.key").read_text())
    assert leaks(said, {**secrets, "the new key": new}) == []


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{PASSWORD}@relay.example:99999/",
        f"http://user:{PASSWORD}/x@relay.example/",
        f"ftp://user:{PASSWORD}@relay.example/",
        f"http://user:{PASSWORD}@relay.example/?q=1",
        f"http://user:{PASSWORD}@rel ay.example/",
        f"user:{PASSWORD}@relay.example",
    ],
)
def test_a_bad_url_is_quoted_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as raised:
        BaseUrl.parse(url)
    assert PASSWORD not in str(raised.value)
    assert "relay.example" in str(raised.value) or "rel ay" in str(raised.value)


def test_a_process_that_holds_a_secret_key_leaves_no_core(owner: tuple[Author, Path]) -> None:
    script = (
        "import ctypes, sys; from relay.commands.secret_keys import read_secret_key;"
        "before = ctypes.CDLL(None).prctl(3); read_secret_key(sys.argv[1]);"
        "print(before, ctypes.CDLL(None).prctl(3))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, owner[1]], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "0"]
