"""The client's HTTP: what it sends, how much it reads, what it takes for an answer."""

import ssl

import pytest
import trio

from relay._http_request import Answer, BaseUrl, RequestFailedError, request

CIPHERS = "AECDH-AES256-SHA:@SECLEVEL=0"
"""TLS without any certificate: enough to see that it is spoken."""


@pytest.mark.parametrize(
    ("url", "authority", "text"),
    [
        ("http://relay.example", "relay.example", "http://relay.example"),
        ("http://relay.example:80/", "relay.example", "http://relay.example"),
        ("https://relay.example:80/a/b/", "relay.example:80", "https://relay.example:80/a/b"),
        ("https://[::1]:443", "[::1]", "https://[::1]"),
        ("http://relay.example.", "relay.example.", "http://relay.example."),
        (f"http://{'a' * 63}.example", f"{'a' * 63}.example", f"http://{'a' * 63}.example"),
        ("HTTP://Relay.Example:15411", "relay.example:15411", "http://relay.example:15411"),
    ],
)
def test_base_urls(url, authority, text):
    base = BaseUrl.parse(url)
    assert (base.authority, str(base)) == (authority, text)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relay.example",
        "ftp://relay.example",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://user:secret@relay.example",
        "http://relay.example/?q",
        "http://relay.example/#f",
        "http://relay.example:99999",
        "http://relay.example:port",
        "http://relay.example/\r\nx: y",
        "http://relay.example/a b",
        "http://bücher.example",
        "http://[::1",
    ],
)
def test_what_is_no_relays_url(url):
    with pytest.raises(ValueError):  # noqa: PT011 -- several texts, one kind
        BaseUrl.parse(url)


@pytest.mark.parametrize(
    ("host", "what"),
    [
        ("relay..example", "labels of 1 to 63"),
        (".example", "labels of 1 to 63"),
        (".", "labels of 1 to 63"),
        (f"{'a' * 64}.example", "labels of 1 to 63"),
        (".".join(["a" * 63] * 4), "253 in all"),
        ("relay.example:0", "port is 1 to 65535"),
        ("relay.example:65536", "port is 1 to 65535"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_hosts_and_ports_that_nobody_can_have_are_named(scheme, host, what):
    with pytest.raises(ValueError, match=what) as caught:
        BaseUrl.parse(f"{scheme}://{host}/")
    assert repr(f"{scheme}://{host}/") in str(caught.value)
    assert not isinstance(caught.value, UnicodeError)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_name_that_cannot_be_encoded_fails_as_one_that_is_not_found(scheme):
    with pytest.raises(RequestFailedError, match="label"):
        await get(BaseUrl(scheme, "relay..example", 80, ""))


@pytest.fixture
def serve(nursery):
    """Start a server that answers every connection with fixed bytes and keeps what it was sent."""

    async def start(answer, context=None):
        requests = []

        async def handle(stream):
            if context is not None:
                stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            try:
                requests.append(bytes(await stream.receive_some(65536)))
                await stream.send_all(answer)
                await stream.aclose()
            except trio.BrokenResourceError:  # the client had enough
                await trio.aclose_forcefully(stream)

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        scheme = "http" if context is None else "https"
        url = f"{scheme}://127.0.0.1:{listener.socket.getsockname()[1]}/base"
        return BaseUrl.parse(url), requests

    return start


async def get(base, **options):
    with trio.fail_after(30):
        return await request("GET", base, "/path?q", body_bytes_max=10, **options)


async def test_what_a_get_sends(serve):
    base, requests = await serve(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Y: z\r\n\r\nok")
    answer = await get(base, headers=[("x-a", "b")])
    assert answer == Answer(200, ((b"content-length", b"2"), (b"x-y", b"z")), b"ok")
    assert answer.header(b"x-y") == b"z"
    assert answer.header(b"x-z") is None
    assert requests == [
        b"GET /base/path?q HTTP/1.1\r\nhost: %b\r\naccept: */*\r\nx-a: b\r\n"
        b"connection: close\r\n\r\n" % base.authority.encode()
    ]


async def test_a_body_is_sent_with_its_length(serve):
    base, requests = await serve(b"HTTP/1.1 204 No Content\r\n\r\n")
    with trio.fail_after(30):
        answer = await request("PUT", base, "/k", body=b"payload", body_bytes_max=10)
    assert (answer.status, answer.body) == (204, b"")
    assert requests[0].endswith(b"content-length: 7\r\n\r\npayload")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nto the end",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nto the end\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + b"HTTP/1.1 200 OK\r\n\r\nto the end",
    ],
)
async def test_forms_of_answers(serve, answer):
    base, _ = await serve(answer)
    assert (await get(base)).body == b"to the end"


async def test_redirects_are_answers_like_others(serve):
    base, requests = await serve(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n")
    assert (await get(base)).status == 302
    assert len(requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nelevenbytes",
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100_000),
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 999999 What\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nbytes of x",
    ],
)
async def test_no_usable_answer(serve, answer):
    base, _ = await serve(answer)
    with pytest.raises(RequestFailedError) as caught:
        await get(base)
    assert str(caught.value)


async def test_nobody_there():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(RequestFailedError, match=rf"^http://127\.0\.0\.1:{port}: "):
        await get(BaseUrl.parse(f"http://127.0.0.1:{port}"))


@pytest.fixture
def without_certificates():
    def context(purpose):
        context = ssl.SSLContext(purpose)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        return context

    return context(ssl.PROTOCOL_TLS_SERVER), context(ssl.PROTOCOL_TLS_CLIENT)


async def test_https(serve, without_certificates):
    server_side, client_side = without_certificates
    base, requests = await serve(b"HTTP/1.1 200 OK\r\n\r\nsecret", server_side)
    assert (await get(base, ssl_context=client_side)).body == b"secret"
    assert requests[0].startswith(b"GET /base/path?q")


async def test_https_without_trust(serve, without_certificates):
    base, requests = await serve(b"HTTP/1.1 200 OK\r\n\r\nsecret", without_certificates[0])
    with pytest.raises(RequestFailedError, match=r"(?i)ssl|handshake"):
        await get(base)
    assert requests == []
