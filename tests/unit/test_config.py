"""Tests of relay.config: what starts, what is refused, and how it is said."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from relay._toml_positions import key_lines
from relay.config import (
    CacheConfig,
    Config,
    HttpConfig,
    MainlineConfig,
    Quota,
    RateLimiterConfig,
    load_config,
)
from relay.config import (
    testnet_config as settings_of_testnet,
)
from relay.errors import ConfigError
from tests.support.given import FIRST_CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[2]
TRANSCRIPTS = REPOSITORY.parent / "shared" / "transcripts"

LIMITER = """\
[rate_limiter]
behind_proxy = false
quota = "2r/s"
dht_quota = "2r/s"
user_dht_quota = "2r/s"
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    """Load a text as ``config.toml``, with environment variables as keyword arguments."""

    def load(text: str | bytes, **environ: str) -> Config:
        path = tmp_path / "config.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        variables = {f"PKARR_RELAY__{name}": value for name, value in environ.items()}
        return load_config(path, variables)

    return load


@pytest.fixture
def refusal(load: Callable[..., Config], tmp_path: Path) -> Callable[..., str]:
    """Return the error's text with the folder cut off."""

    def refusal(text: str | bytes, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(text, **environ)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return refusal


def test_seed_file_starts_as_it_stands(load: Callable[..., Config], tmp_path: Path) -> None:
    config = load(FIRST_CONFIG)
    assert config == Config(
        http=HttpConfig(port=8080),
        mainline=MainlineConfig(port=6881),
        cache=CacheConfig(
            path=Path("/cache"), capacity_packets=100_000, ttl_min_s=300, ttl_max_s=86400
        ),
        rate_limiter=RateLimiterConfig(
            behind_proxy=False,
            http=Quota(interval_s=2.0, burst=10),
            user_dht=None,
            dht=None,
        ),
        source=tmp_path / "config.toml",
    )


def test_empty_file_means_defaults_and_no_limits(load: Callable[..., Config]) -> None:
    config = load("")
    assert config.http == HttpConfig()
    assert config.http.port == 6881
    assert config.mainline == MainlineConfig()
    assert config.cache == CacheConfig()
    assert config.rate_limiter is None
    assert config.warnings == ()


def test_no_file_means_the_built_in_limits() -> None:
    config = load_config(None, {})
    quota = Quota(interval_s=0.5, burst=2)
    assert config.rate_limiter == RateLimiterConfig(
        behind_proxy=False, http=quota, user_dht=quota, dht=quota
    )
    assert config.source is None


def test_testnet_is_on_loopback_without_limits_or_disk() -> None:
    config = settings_of_testnet()
    assert config.http.bind == ("127.0.0.1",)
    assert config.http.port == 15411
    assert config.mainline.bind_address == "127.0.0.1"
    assert config.mainline.bootstrap == ()
    assert config.mainline.server_mode is True
    assert config.cache.path is None
    assert config.rate_limiter is None


def test_every_key_reaches_its_place(load: Callable[..., Config]) -> None:
    config = load("""
[http]
bind = ["127.0.0.1", "::1", "::ffff:10.0.0.1", "127.0.0.1"]
port = 0
max_connections = 5
max_connection_age_seconds = 7.5
trusted_proxies = ["10.0.0.0/8", "2001:db8::/32", "::ffff:192.0.2.0/120", "192.0.2.1"]
max_connections_per_address = 0
[mainline]
port = 65535
bind_address = "127.0.0.1"
bootstrap = ["router.example:6881", "10.0.0.1:1"]
server_mode = false
public_ip = "203.0.113.7"
request_timeout_seconds = 3
[cache]
path = "data/packets"
size = 0
minimum_ttl = 0
maximum_ttl = 4294967295
serve_stale_seconds = 60
[rate_limiter]
behind_proxy = true
quota = "3r/m"
burst = 5
user_dht_quota = "4r/h"
dht_quota = "1r/d"
dht_burst = 7
ipv6_prefix = 56
exempt = ["127.0.0.1/32"]
""")
    assert config.http == HttpConfig(
        bind=("127.0.0.1", "::1", "10.0.0.1"),
        port=0,
        max_connections=5,
        max_connection_age_s=7.5,
        trusted_proxies=(
            IPv4Network("10.0.0.0/8"),
            IPv6Network("2001:db8::/32"),
            IPv4Network("192.0.2.0/24"),
            IPv4Network("192.0.2.1/32"),
        ),
        max_connections_per_address=0,
    )
    assert config.mainline == MainlineConfig(
        port=65535,
        bind_address="127.0.0.1",
        bootstrap=(("router.example", 6881), ("10.0.0.1", 1)),
        server_mode=False,
        public_ip=IPv4Address("203.0.113.7"),
        request_timeout_s=3.0,
    )
    assert config.source is not None
    assert config.cache == CacheConfig(
        path=config.source.parent / "data/packets",
        capacity_packets=0,
        ttl_min_s=0,
        ttl_max_s=2**32 - 1,
        serve_stale_s=60,
    )
    assert config.rate_limiter == RateLimiterConfig(
        behind_proxy=True,
        http=Quota(interval_s=20.0, burst=5),
        user_dht=Quota(interval_s=900.0, burst=4),
        dht=Quota(interval_s=86400.0, burst=7),
        ipv6_prefix=56,
        exempt=(IPv4Network("127.0.0.1/32"),),
    )
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Wrong type, wrong range, wrong form: each names its line.
        (
            '[http]\nport = "8080"\n',
            'config.toml, line 2: http.port = "8080" is refused;'
            " allowed: an integer from 0 to 65535",
        ),
        ("[http]\n\n\nport = 65536", "line 4: http.port = 65536 is refused"),
        ("[http]\nport = -1", "line 2: http.port = -1 is refused"),
        ("[http]\nport = true", "line 2: http.port = true is refused"),
        ("[http]\nport = 1.0", "line 2: http.port = 1.0 is refused"),
        ("[http]\nport = 1979-05-27", 'http.port = "1979-05-27" is refused'),
        ("http.port = 70000", "line 1: http.port = 70000 is refused"),
        ("\nhttp = {port = 70000}", "line 2: http.port = 70000 is refused"),
        ('["http"]\n"port" = 70000', "line 2: http.port = 70000 is refused"),
        ("http = 3", "line 1: http = 3 is refused; allowed: a table"),
        ("[[http]]\nport = 1", "line 1: http = "),
        ("[http]\nmax_connections = 0", "allowed: an integer from 1 to 4294967295"),
        ("[http]\nmax_connection_age_seconds = 0", "allowed: a number of seconds from 1 to"),
        ("[http]\nmax_connection_age_seconds = nan", "allowed: a number of seconds from 1 to"),
        ("[http]\nmax_connection_age_seconds = inf", "allowed: a number of seconds from 1 to"),
        (
            "[http]\nmax_connection_age_seconds = 0.99",
            "(too short); allowed: a number of seconds from",
        ),
        ("[http]\nbind = ['::', 'ff02::1']", "ff02::1 is the address of no single machine"),
        ("[http]\nbind = ['::ffff:224.0.0.1']", "224.0.0.1 is the address of no single machine"),
        ("[mainline]\nbind_address = '224.0.0.1'", "224.0.0.1 is the address of no single machine"),
        ("[mainline]\npublic_ip = '255.255.255.255'", "is the address of no single machine"),
        ("[mainline]\npublic_ip = '0.0.0.0'", "0.0.0.0 is the address of no single machine"),
        ("[http]\nbind = []", "an empty list would listen nowhere"),
        ("[http]\nbind = '::'", "allowed: a list of IP addresses"),
        ("[http]\nbind = ['localhost']", "'localhost' does not appear to be"),
        ("[http]\nbind = [1]", "1 is no string"),
        ("[http]\ntrusted_proxies = ['10.0.0.1/8']", "10.0.0.1/8 has host bits set"),
        ("[http]\ntrusted_proxies = '10.0.0.0/8'", "allowed: a list of addresses or CIDR"),
        ("[mainline]\nbind_address = '::1'", "the DHT node speaks IPv4 only"),
        ("[mainline]\npublic_ip = '2001:db8::1'", "the DHT node speaks IPv4 only"),
        ("[mainline]\npublic_ip = 'x'", "allowed: an IPv4 address"),
        ("[mainline]\nbootstrap = ['router']", "does not end in a port"),
        ("[mainline]\nbootstrap = ['router:0']", "does not end in a port"),
        ("[mainline]\nbootstrap = ['router:65536']", "does not end in a port"),
        ("[mainline]\nbootstrap = [':1']", "does not begin with a name"),
        ("[mainline]\nbootstrap = ['[::1]:1']", "does not begin with a name"),
        ("[mainline]\nserver_mode = 'on'", 'allowed: "auto", true or false'),
        ("[mainline]\nserver_mode = 1", 'allowed: "auto", true or false'),
        ("[mainline]\nrequest_timeout_seconds = -1", "allowed: a number of seconds above 0"),
        ("[cache]\npath = ''", "allowed: the path of a folder"),
        ('[cache]\npath = "a\\u0000b"', "allowed: the path of a folder"),
        ("[cache]\nsize = -1", "line 2: cache.size = -1 is refused"),
        ("[cache]\nsize = 9223372036854775808", "line 2: cache.size"),
        (f"[cache]\nsize = 0x{'f' * 9000}", "a value too large to show"),
        (
            "[cache]\nminimum_ttl = 10\nmaximum_ttl = 5",
            "line 2: cache.minimum_ttl must be less than or equal to cache.maximum_ttl (10 > 5)",
        ),
        ("[cache]\n\nmaximum_ttl = 5", "line 3: cache.minimum_ttl must be less"),
        # The rate limiter: strict about its keys, in one dialect at a time.
        (f"{LIMITER}burts = 3", "line 6: unknown key rate_limiter.burts is refused; allowed: "),
        (f'{LIMITER}"a\\nb" = 3', 'unknown key rate_limiter."a\\nb" is refused'),
        (f"{LIMITER}per_second = 3", "line 6: rate_limiter.per_second and rate_limiter.quota"),
        (f"{LIMITER}burst = 0", "line 6: rate_limiter.burst = 0 is refused"),
        (f"{LIMITER}ipv6_prefix = 0", "line 6: rate_limiter.ipv6_prefix = 0 is refused"),
        (f"{LIMITER}ipv6_prefix = 129", "allowed: an integer from 1 to 128"),
        ("[rate_limiter]\nbehind_proxy = false", "line 1: rate_limiter.quota is missing"),
        ("[rate_limiter]\nburst_size = 1\nper_second = 1", "rate_limiter.behind_proxy is missing"),
        (
            "[rate_limiter]\nbehind_proxy = false\nburst_size = 1",
            "line 1: rate_limiter.per_second is missing",
        ),
        (
            "[rate_limiter]\nbehind_proxy = false\nburst_size = 0\nper_second = 0",
            "line 4: rate_limiter.per_second = 0 is refused",
        ),
        (LIMITER.replace("2r/s", "2r/w", 1), 'no such unit of time: "w"'),
        (LIMITER.replace("2r/s", "0r/s", 1), "no rate"),
        (LIMITER.replace("2r/s", "2/s", 1), "no rate"),
        (LIMITER.replace("2r/s", "٣r/s", 1), "no rate"),
        (LIMITER.replace("2r/s", "4294967296r/d", 1), "no rate"),
        (LIMITER.replace("2r/s", "4294967295r/s", 1), "the rate is too high"),
        (LIMITER.replace('"2r/s"', "2", 1), "2 is no string"),
        # Not TOML at all.
        ("[http\nport = 1\n", "config.toml, line 1, column 6: not TOML: Expected ']'"),
        ("[http]\nport = 1\nport = 2\n", "config.toml, line 3, column 9: not TOML: "),
        (b"a = 1\nb = '\xff'\n", "config.toml, line 2: not UTF-8"),
        (f"a = {'9' * 5000}", "config.toml: not TOML: "),
        (f"a = {'[' * 20_000}", "config.toml: nested too deeply"),
        (b"#" * 2_000_000, "config.toml: larger than 1048576 bytes"),
    ],
)
def test_refusals_name_place_key_and_what_is_allowed(
    refusal: Callable[..., str], text: str | bytes, expected: str
) -> None:
    message = refusal(text)
    assert message.startswith("config.toml")
    assert expected in message
    assert len(message) < 500
    assert message.isprintable()


def test_a_value_that_is_long_is_cut(refusal: Callable[..., str]) -> None:
    assert f'"{"x" * 76}... is refused' in refusal(f"[http]\nport = '{'x' * 1000}'")


def test_fastest_and_slowest_quota(load: Callable[..., Config]) -> None:
    limiter = load(
        LIMITER.replace("2r/s", "1000000000r/s", 1).replace("2r/s", "4294967295r/m", 1)
    ).rate_limiter
    assert limiter is not None
    assert limiter.http == Quota(interval_s=1e-9, burst=10**9)
    assert limiter.dht == Quota(interval_s=pytest.approx(60 / (2**32 - 1)), burst=2**32 - 1)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    for path, reason in (
        (missing, "No such file or directory"),
        (Path("a\0b"), "embedded null byte"),
    ):
        with pytest.raises(ConfigError, match=f"failed to read .*{reason}"):
            load_config(path, {})


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    """Docker makes one where the file that is to be mounted is missing."""
    with pytest.raises(ConfigError, match=f"{tmp_path} is a folder, not a file: Docker makes"):
        load_config(tmp_path, {})


def test_unknown_tables_and_keys_are_warnings(load: Callable[..., Config]) -> None:
    config = load('loose = 1\n[http]\nhost = "x"\nport = 1\n[foo]\nx = 1\n[cache]\n"a b" = 1\n')
    path = config.source
    assert config.warnings == (
        f"{path}, line 1: unknown key loose is ignored",
        f"{path}, line 3: unknown key http.host is ignored",
        f"{path}, line 5: unknown table [foo] is ignored",
        f'{path}, line 8: unknown key cache."a b" is ignored',
    )


def test_forwarded_headers_believed_from_anybody_are_a_warning(
    load: Callable[..., Config],
) -> None:
    behind_proxy = LIMITER.replace("false", "true")
    (warning,) = load(behind_proxy).warnings
    assert "line 2: rate_limiter.behind_proxy = true without http.trusted_proxies" in warning
    assert load(f"http.trusted_proxies = ['::1']\n{behind_proxy}").warnings == ()


def test_byte_order_mark_and_windows_lines(load: Callable[..., Config]) -> None:
    config = load(b"\xef\xbb\xbf[http]\r\nport = 1\r\nx = 2\r\n")
    assert config.http.port == 1
    assert config.warnings == (f"{config.source}, line 3: unknown key http.x is ignored",)


class TestEnvironment:
    """``PKARR_RELAY__SECTION__KEY``."""

    def test_overrides_the_file(self, load: Callable[..., Config]) -> None:
        config = load(
            FIRST_CONFIG,
            HTTP__PORT="9090",
            HTTP__BIND='["127.0.0.1"]',
            MAINLINE__BOOTSTRAP="[]",
            MAINLINE__SERVER_MODE="true",
            MAINLINE__PUBLIC_IP="203.0.113.7",
            CACHE__PATH="elsewhere",
            RATE_LIMITER__BURST_SIZE="3",
        )
        assert config.http == HttpConfig(port=9090, bind=("127.0.0.1",))
        assert config.mainline == MainlineConfig(
            port=6881, bootstrap=(), server_mode=True, public_ip=IPv4Address("203.0.113.7")
        )
        assert config.source is not None
        assert config.cache.path == config.source.parent / "elsewhere"
        assert config.rate_limiter is not None
        assert config.rate_limiter.http == Quota(interval_s=2.0, burst=3)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("auto", "auto"),
            ('"auto"', "auto"),
            ("false", False),
        ],
    )
    def test_server_mode_in_all_its_forms(
        self, load: Callable[..., Config], value: str, expected: object
    ) -> None:
        assert load("", MAINLINE__SERVER_MODE=value).mainline.server_mode == expected

    @pytest.mark.parametrize("text", ["true", "2024", "/a b", '"/a b"', "'/a b'", "a = 1\nb = 2"])
    def test_a_text_needs_no_quotes(self, load: Callable[..., Config], text: str) -> None:
        path = load("", CACHE__PATH=text).cache.path
        assert path is not None
        assert path.name == text.strip("\"'").split("/")[-1]

    @pytest.mark.parametrize("other", ["CACHE__size", "Cache__Size", "cache__SIZE"])
    def test_of_two_for_one_key_the_one_in_capitals_counts_and_it_is_told(
        self, load: Callable[..., Config], other: str
    ) -> None:
        config = load("", **{other: "3", "CACHE__SIZE": "7"})
        assert config.cache.capacity_packets == 7
        variable = "environment variable PKARR_RELAY__"
        assert config.warnings == (
            f"{variable}{other} is ignored; {variable}CACHE__SIZE sets the same key",
        )
        assert load("", **{other: "3"}).cache.capacity_packets == 3

    def test_without_a_working_directory_a_path_has_to_be_absolute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        assert load_config(None, {}).cache.path is None
        variable = "PKARR_RELAY__CACHE__PATH"
        assert load_config(None, {variable: "/cache"}).cache.path == Path("/cache")
        with pytest.raises(ConfigError) as caught:
            load_config(None, {variable: "cache"})
        assert str(caught.value) == (
            f"environment variable {variable}: cache.path is relative, and there is no working"
            " directory: No such file or directory; allowed: an absolute path"
        )

    def test_works_without_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        config = load_config(
            None,
            {
                "PKARR_RELAY__CACHE__PATH": "here",
                "PKARR_RELAY__RATE_LIMITER__QUOTA": "1r/h",
                "HOME": "/",
            },
        )
        assert config.cache.path == tmp_path / "here"
        assert config.rate_limiter is not None
        assert config.rate_limiter.http == Quota(interval_s=3600.0, burst=1)
        assert config.rate_limiter.dht == Quota(interval_s=0.5, burst=2)

    def test_old_dialect_without_a_file(self) -> None:
        config = load_config(
            None,
            {
                "PKARR_RELAY__RATE_LIMITER__PER_SECOND": "4",
                "PKARR_RELAY__RATE_LIMITER__BURST_SIZE": "6",
            },
        )
        assert config.rate_limiter == RateLimiterConfig(
            behind_proxy=False, http=Quota(interval_s=4.0, burst=6), user_dht=None, dht=None
        )

    def test_errors_name_the_variable(self, refusal: Callable[..., str]) -> None:
        assert refusal(FIRST_CONFIG, HTTP__PORT="x") == (
            'environment variable PKARR_RELAY__HTTP__PORT: http.port = "x" is refused;'
            " allowed: an integer from 0 to 65535"
        )
        assert "allowed: a list of IP addresses" in refusal("", HTTP__BIND="127.0.0.1")
        assert 'http.port = "" is refused' in refusal("", HTTP__PORT="")
        assert "is refused" in refusal("", HTTP__PORT="[" * 100_000)
        assert "unknown key rate_limiter.x" in refusal(LIMITER, RATE_LIMITER__X="1")
        assert "two dialects" in refusal(FIRST_CONFIG, RATE_LIMITER__QUOTA="1r/s")

    def test_names_that_mean_nothing_are_warnings(self, load: Callable[..., Config]) -> None:
        config = load("", HTTP="1", HTTP__A__B="1", HTTP__HOST="1", X__Y="1")
        variable = "environment variable PKARR_RELAY__"
        assert set(config.warnings) == {
            f"{variable}HTTP is ignored; a name is PKARR_RELAY__SECTION__KEY",
            f"{variable}HTTP__A__B is ignored; a name is PKARR_RELAY__SECTION__KEY",
            f"{variable}HTTP__HOST: unknown key http.host is ignored",
            f"{variable}X__Y: unknown table [x] is ignored",
        }


def test_sections_check_themselves() -> None:
    with pytest.raises(ConfigError, match="minimum_ttl must be less"):
        CacheConfig(ttl_min_s=2, ttl_max_s=1)


def startup_cases() -> list[Any]:
    cases = []
    for name in ("v1cfg-startup", "v1cfg-ratelimit", "v1cfg-expiry", "v1cfg-offline"):
        document = json.loads((TRANSCRIPTS / f"{name}.json").read_text())
        cases += [
            pytest.param(case["config_toml"], case.get("started", True), id=f"{name}-{case['id']}")
            for case in document["cases"]
            if case.get("config_toml") is not None and case["id"] != "seed-config"
        ]
    return cases


@pytest.mark.parametrize(("text", "started"), startup_cases())
def test_transcripts_agree(load: Callable[..., Config], text: str, *, started: bool) -> None:
    """What started the reference starts us; what it refused, we refuse."""
    if started:
        load(text)
    else:
        with pytest.raises(ConfigError):
            load(text)


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a = '''\n]\n# x\n'''\nb = 1", ("b",), 5),
        ('a = """\nb = 2\n\\""" c = 3\n"""\nb = 1', ("b",), 5),
        ("a = '''x'''''\nb = 1", ("b",), 2),
        ("a = [ # ]\n  [1, '[' , \"]\"], { x = 1 }\n]\nb = 1", ("b",), 4),
        ("a = 1 # = [\n\n[ t . 'u.v' ] # x\nb = 1", ("t", "u.v", "b"), 4),
        ("[[t]]\na = 1\n[[t]]\na = 2\n", ("t", "a"), 2),
        ("a.b.c = 1\na.d = 2", ("a", "d"), 2),
        ("t = { 'x' = { y = [1, 2], z = '}' }, w = 1 }", ("t", "x", "z"), 1),
        ('"\\u0061" = 1', ("a",), 1),
        ("a = 2020-01-01 10:00:00\nb = 1", ("b",), 2),
        ("a = ''\nb = \"\"\nc = ''''''\nd = 1", ("d",), 4),
    ],
)
def test_lines_of_keys(text: str, path: tuple[str, ...], line: int) -> None:
    assert key_lines(text)[path] == line


def test_lines_of_what_is_not_toml_are_those_before_it() -> None:
    assert key_lines("a = 1\nb = 'x\nc = 2") == {("a",): 1, ("b",): 2}


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("[::1]:9100", ("::1", 9100)),
        ("[2001:DB8:0::1]:1", ("2001:db8::1", 1)),
        ("192.0.2.1:0", ("192.0.2.1", 0)),
        ("[::ffff:10.0.0.1]:65535", ("10.0.0.1", 65535)),
    ],
)
def test_metrics_have_an_address_of_their_own(
    load: Callable[..., Config], text: str, bind: tuple[str, int]
) -> None:
    assert load(f'[metrics]\nbind = "{text}"').metrics.bind == bind
    assert load("", METRICS__BIND=text).metrics.bind == bind


def test_metrics_are_off_unless_bound(load: Callable[..., Config]) -> None:
    assert load("").metrics.bind is None
    assert load("[metrics]").metrics.bind is None
    assert load("[metrics]\nport = 1").warnings == (
        f"{load('').source}, line 2: unknown key metrics.port is ignored",
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("9100", ""),
        ('["127.0.0.1:9100"]', ""),
        ('"127.0.0.1"', " does not end in a port from 0 to 65535"),
        ('"127.0.0.1:65536"', " does not end in a port from 0 to 65535"),
        ('"127.0.0.1:\u0663"', " does not end in a port from 0 to 65535"),
        ('":9100"', ""),
        ('"localhost:9100"', "'localhost' does not appear to be an IPv4 or IPv6 address"),
        ('"::1:9100"', "an IPv6 address stands in brackets, an IPv4 address does not"),
        ('"[127.0.0.1]:9100"', "an IPv6 address stands in brackets, an IPv4 address does not"),
    ],
)
def test_what_is_no_address_for_metrics(
    refusal: Callable[..., str], value: str, reason: str
) -> None:
    message = refusal(f"\n[metrics]\nbind = {value}")
    assert message.startswith("config.toml, line 3: metrics.bind = ")
    assert reason in message
    assert message.endswith(
        'allowed: an IP address and a port, such as "127.0.0.1:9100" or "[::1]:9100"'
    )
