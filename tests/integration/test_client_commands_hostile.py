"""The client commands against relays that lie, flood, send away, or say nothing."""

from __future__ import annotations

import ssl
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.chance import seeded
from tests.support.commands import command
from tests.support.packets import Author
from tests.support.scripted_server import be_silent, drip, say, say_for_ever, serving

AUTHOR = Author.numbered(1)
PACKET = AUTHOR.packet("the truth")
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/pkarr.org/relays#payload\r\n"
GOOD = OK + b"content-length: %d\r\n\r\n" % len(PACKET.payload) + PACKET.payload


def ok(body: bytes) -> bytes:
    return OK + b"content-length: %d\r\n\r\n" % len(body) + body


def resolve(url: str, *options: object, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = command("resolve", AUTHOR.key, "--relay", url, *options, env=env)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_an_honest_one_is_believed() -> None:
    with serving(say(GOOD)) as server:
        code, shown, _ = resolve(server.url)
    assert (code, "the truth" in shown) == (0, True)
    (request,) = server.requests
    lines = request.split(b"\r\n")
    assert lines[0] == b"GET /%s?policy=CacheFirst HTTP/1.1" % AUTHOR.key.encode()
    names = {line.partition(b":")[0] for line in lines[1:] if line}
    assert names == {b"host", b"accept", b"connection"}  # nothing that tells of its user


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(Author.numbered(2).packet("a lie").payload, id="another key's packet"),
        pytest.param(PACKET.payload[:-1] + b"?", id="a changed record"),
        pytest.param(bytes([PACKET.payload[0] ^ 1]) + PACKET.payload[1:], id="another signature"),
        pytest.param(PACKET.payload[:64] + bytes(8) + PACKET.payload[72:], id="another time"),
        pytest.param(AUTHOR.sign(b"no DNS").payload, id="signed, and no DNS"),
        pytest.param(b"x" * 1104, id="as much as is read"),
        pytest.param(b"<html>\x1b]0;pwned\x07</html>", id="a page"),
        pytest.param(seeded("noise").randbytes(500), id="noise"),
    ],
)
def test_what_is_not_signed_by_the_key_is_not_shown(body: bytes) -> None:
    with serving(say(ok(body))) as server:
        code, shown, said = resolve(server.url)
    assert (code, shown) == (1, "")
    assert said.startswith(f"Error: {server.url} sent no valid packet: ")
    assert "\x1b" not in said


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nobody_is_sent_elsewhere(status: int) -> None:
    with serving(say(GOOD)) as target:
        head = f"HTTP/1.1 {status} Elsewhere\r\nlocation: {target.url}/{AUTHOR.key}\r\n"
        with serving(say(f"{head}content-length: 0\r\n\r\n".encode())) as server:
            code, shown, said = resolve(server.url)
            published = command("publish", "--payload", "-", "--relay", server.url,
                                stdin=PACKET.payload)  # fmt: skip
    assert (code, shown) == (1, "")
    assert said == (
        f"Error: {server.url} answered with status {status}; redirects are not followed\n"
    )
    assert published.returncode == 1
    assert b"redirects are not followed" in published.stderr
    assert target.requests == []


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(say(ok(b"x" * 1105)), id="a byte too much"),
        pytest.param(say_for_ever(OK + b"content-length: 999999999999\r\n\r\n", b"x" * 65536),
                     id="announced"),
        pytest.param(say_for_ever(OK + b"\r\n", b"x" * 65536), id="until it ends"),
        pytest.param(say_for_ever(OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 999),
                     id="in small chunks"),
    ],
)  # fmt: skip
def test_too_much_is_not_read(act) -> None:
    with serving(act) as server:
        code, shown, said = resolve(server.url)
    assert (code, shown) == (1, "")
    assert said == f"Error: {server.url}: an answer of more than 1104 bytes\n"


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(say_for_ever(b"HTTP/1.1 200 OK\r\n", b"x-more: y\r\n" * 99), id="headers"),
        pytest.param(say_for_ever(b"HTTP/1.1 200 ", b"O" * 65536), id="a status line"),
        pytest.param(say(b"\0\1\2\3\x1b[2J\r\n\r\n"), id="noise"),
        pytest.param(say(b"HTTP/1.1 200 OK\r\ncontent-length: 300\r\n\r\nshort"), id="cut off"),
        pytest.param(say(b""), id="nothing"),
        pytest.param(say(b"HTTP/1.1 999 \x1b[2J\r\ncontent-length: 0\r\n\r\n"), id="a status"),
        pytest.param(say(ok(b"")), id="an empty answer, twice"),
    ],
)
def test_what_is_no_answer(act) -> None:
    with serving(act) as server:
        code, shown, said = resolve(server.url)
    assert (code, shown) == (1, "")
    (line,) = said.splitlines()
    assert line.startswith(f"Error: {server.url}")
    assert line.isprintable()
    assert len(line) < 400


@pytest.mark.parametrize("act", [be_silent, drip(GOOD)], ids=["silent", "a byte now and then"])
def test_patience_ends(act) -> None:
    with serving(act) as server:
        start = time.monotonic()
        code, shown, said = resolve(server.url, "--timeout", 1)
        took_s = time.monotonic() - start
        assert took_s < 15  # of which most is a busy machine's
    assert (code, shown) == (1, "")
    assert "within 1 s" in said
    with serving(act) as server:
        done = command("publish", "--payload", "-", "--relay", server.url, "--timeout", 1,
                       stdin=PACKET.payload)  # fmt: skip
    assert done.returncode == 1
    assert b"within" in done.stderr


def test_a_liar_costs_an_honest_one_nothing() -> None:
    lie = ok(Author.numbered(2).packet("a lie").payload)
    with serving(say(GOOD)) as honest, serving(say(lie)) as liar, serving(be_silent) as silent:
        options = ("--relay", honest.url, "--relay", silent.url, "--timeout", 2)
        code, shown, said = resolve(liar.url, *options, "--policy", "NetworkOnly")
    assert code == 0
    assert "the truth" in shown
    assert "a lie" not in shown
    assert liar.url in said
    assert silent.url in said


def test_a_count_that_is_none() -> None:
    for count in (b"-1", b"many", b"9" * 30, b"\xff"):
        head = b"HTTP/1.1 204 No Content\r\npkarr-dht-stored-nodes: " + count + b"\r\n\r\n"
        with serving(say(head)) as server:
            done = command("publish", "--payload", "-", "--relay", server.url,
                           stdin=PACKET.payload)  # fmt: skip
        assert done.returncode == 1
        assert b"sent no number of nodes" in done.stderr


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody trusts, and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key, own = path.with_name("key.pem"), path.with_name("cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=relay", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", own],
        check=True,
        capture_output=True,
    )  # fmt: skip
    path.write_text(key.read_text() + own.read_text())
    return path


def test_tls_is_verified(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    trusted = {"SSL_CERT_FILE": str(certificate.with_name("cert.pem"))}
    with serving(say(GOOD), context) as server:
        assert resolve(server.url, env=trusted)[0] == 0
        code, shown, said = resolve(server.url)
        assert (code, shown) == (1, "")
        assert "certificate" in said.lower()
        elsewhere = server.url.replace("127.0.0.1", "localhost")
        code, shown, said = resolve(elsewhere, env=trusted)
        assert (code, shown) == (1, "")
        assert "certificate" in said.lower()
    assert len(server.requests) == 1
