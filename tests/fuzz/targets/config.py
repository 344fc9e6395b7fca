"""Configuration: any file and any environment is a configuration, or an error of one clear line.

A file, and behind each zero byte a variable: ``SECTION__KEY=VALUE``.
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from relay._kernels import RateCells
from relay.config import Config, Quota, load_config
from relay.errors import ConfigError
from relay.logs import parse_filter

SHIPPED = (Path(__file__).resolve().parents[3] / "config.toml").read_text()
TABLES = re.findall(r"(?m)^\[(\w+)\]$", SHIPPED)
KEYS = sorted(set(re.findall(r"(?m)^(?:# )?(\w+) = ", SHIPPED)))
OLD_DIALECT = "[rate_limiter]\nbehind_proxy = true\nper_second = 2\nburst_size = 10\n"
DICTIONARY = (
    *(f"\n[{table}]\n".encode() for table in TABLES),
    *(f"\n{key} = ".encode() for key in KEYS),
    *(f"\0{table}__x=".upper().encode() for table in TABLES),
    *(b'"""', b"'''", b"{a = 1}", b"[[", b"]]", b"0x", b"1e400", b"nan", b"inf", b"1979-05-27"),
    *(b"true", b'"2r/s"', b'"10.0.0.0/8"', b'"::ffff:0:0/97"', b'"[::1]:80"', b"\\U0010ffff"),
)
INPUT_BYTES_MAX = 2000

_FOLDER = Path(tempfile.mkdtemp(prefix="pkarr-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def seeds() -> Iterable[bytes]:
    """The shipped file whole and in parts, each line alone, each key in the environment."""
    yield from (b"", OLD_DIALECT.encode(), b"\xef\xbb\xbf[http]\nport = 1\n")
    for table, content in re.findall(r"(?ms)^\[(\w+)\]$(.*?)(?=^\[|\Z)", SHIPPED):
        yield f"[{table}]{content}".encode()[:INPUT_BYTES_MAX]
        for key, value in re.findall(r"(?m)^(?:# )?(\w+) = ([^\n\[]+|\[.*\])$", content):
            yield f"[{table}]\n{key} = {value}\n".encode()
            yield f"\0{table}__{key}={value}".upper().encode() + value.encode()


def target(data: bytes) -> None:
    """Load."""
    text, *variables = data.split(b"\0")
    environ = {}
    for variable in variables:
        name, _, value = variable.decode("utf-8", "surrogateescape").partition("=")
        environ[f"PKARR_RELAY__{name}"] = value
    path = _FOLDER / "config.toml"
    path.write_bytes(text)
    for source in (path, None):
        try:
            config = load_config(source, environ)
        except ConfigError as error:
            assert str(error).isprintable(), error
            assert len(str(error)) < 3000
            continue
        assert all(warning.isprintable() for warning in config.warnings)
        _check(config)


def _check(config: Config) -> None:
    """What a reader of a configuration may believe."""
    assert 0 <= config.http.port < 65536
    assert config.http.max_connections > 0
    assert config.http.max_connections_per_address >= 0
    assert 1 <= config.http.max_connection_age_s < 1e9
    assert config.http.bind is None or config.http.bind
    assert config.mainline.port is None or 0 <= config.mainline.port < 65536
    assert config.mainline.server_mode in (True, False, "auto")
    assert 0 < config.mainline.request_timeout_s < 1e9
    assert all(0 < port < 65536 for _, port in config.mainline.bootstrap or ())
    assert config.cache.path is None or config.cache.path.is_absolute()
    assert 0 <= config.cache.ttl_min_s <= config.cache.ttl_max_s < 2**32
    assert 0 <= config.cache.capacity_packets < 2**63
    limiter = config.rate_limiter
    for quota in () if limiter is None else (limiter.http, limiter.user_dht, limiter.dht):
        assert quota is None or _makes_sense(quota)
    for complaint in parse_filter(config.log.filter or "")[1]:
        assert complaint.isprintable()


def _makes_sense(quota: Quota) -> bool:
    RateCells(quota.interval_s, quota.burst, 16)  # what limits are made of bears them all
    return 0 < quota.interval_s < 1e10 and 0 < quota.burst < 2**32
