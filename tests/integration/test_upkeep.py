"""backup, check, export, import and purge as an operator runs them: on a relay, and on none."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, cast
from zlib import crc32

import pytest

from relay.store.packets import Changes, PacketCache
from tests.support.faults import part
from tests.support.packets import Author, Packet
from tests.support.peers import ROOT
from tests.support.relay import RelayProcess, exchange, wait_until

DATABASE: Final = "pkarr-relay.sqlite3"
SOCKET: Final = "pkarr-relay.sock"
COMMAND_S: Final = 120.0
BIG_PACKETS: Final = 60_000
"""Of 1 KB: a backup of them takes long enough to be met under way."""


def line(packet: Packet, **more: object) -> str:
    payload = b64encode(packet.payload).decode()
    return json.dumps({"key": packet.key, "payload": payload, **more}) + "\n"


def packets(count: int, label: str = "author") -> list[Packet]:
    return [Author.numbered(n, label).packet(f"{label} {n}") for n in range(count)]


class Setting:
    """A relay's folder, and commands on it."""

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay
        self.folder = relay.folder

    def start(
        self, *arguments: object, wrapper: Sequence[str] = (), stdin: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*wrapper, sys.executable, "-m", "relay", *map(str, arguments)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(
        self, command: str, *arguments: object, text: str = "", wrapper: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(command, "-c", self.relay.config_path, *arguments, wrapper=wrapper)
        out, err = process.communicate(text, COMMAND_S)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def done(self, command: str, *arguments: object, text: str = "") -> str:
        """Run a command that must succeed and say nothing on standard error."""
        done = self.run(command, *arguments, text=text)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def refused(self, command: str, *arguments: object, text: str = "") -> str:
        """Run a command that must fail with a line of its own; return the line."""
        done = self.run(command, *arguments, text=text)
        assert done.returncode == 1, done
        assert done.stderr.startswith("Error: "), done
        assert done.stderr.count("\n") == 1
        return done.stderr

    def exported(self) -> dict[str, bytes]:
        entries = map(json.loads, self.done("export", "-").splitlines())
        return {entry["key"]: entry["payload"] for entry in entries}


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    relay = RelayProcess(tmp_path)
    yield relay
    if relay.alive:
        relay.kill()


@pytest.fixture(params=["running", "alone"])
def setting(request: pytest.FixtureRequest, relay: RelayProcess) -> Iterator[Setting]:
    """Each test twice: the command asks a relay, or there is none."""
    setting = Setting(relay)
    if request.param == "alone":
        yield setting
        return
    with relay:
        yield setting
        assert relay.alive
        assert "Traceback" not in relay.log()


def served(setting: Setting, packet: Packet) -> bytes | None:
    """What a relay on the folder answers for a key, from its cache alone."""
    if not setting.relay.alive:
        setting.relay.start()
    answer = setting.relay.get(packet.key, "CacheOnly")
    return answer.body if answer.status == 200 else None


def test_packets_go_out_and_in(setting: Setting, tmp_path: Path) -> None:
    many = packets(530)
    text = "".join(map(line, many))
    assert setting.done("import", "-", text=text).startswith("530 packets stored, 0 were")
    assert setting.done("import", "-", text=text).startswith("0 packets stored, 530 were")
    file = tmp_path / "packets.jsonl"
    assert setting.done("export", file) == f"{file}: 530 packets\n"
    assert file.stat().st_mode & 0o777 == 0o600
    lines = file.read_text()
    assert lines == setting.done("export", "-")
    assert [json.loads(entry)["key"] for entry in lines.splitlines()] == [p.key for p in many]
    assert "--force replaces it" in setting.refused("export", file)
    setting.done("export", "--force", file)
    assert "packets: 530\n" in setting.done("check")
    assert "packets: 530\n" in setting.done("check", "--quick")
    other = Setting(RelayProcess(make(tmp_path / "other")))
    other.done("import", file)
    assert other.done("export", "-") == lines, "also when each was last seen"
    for packet in (many[0], many[-1]):
        assert served(setting, packet) == packet.payload


def test_a_cache_is_not_replaced_by_what_is_taken_from_it(setting: Setting) -> None:
    (packet,) = packets(1)
    setting.done("import", "-", text=line(packet))
    database = setting.relay.cache / DATABASE
    before = database.stat()
    for command in ("backup", "export"):
        assert f"{database} cannot be written: it is a file of a relay's cache" in (
            setting.refused(command, "--force", database)
        )
    assert os.path.samestat(before, database.stat())
    os.mkfifo(setting.folder / "pipe")
    for command in ("backup", "export"):
        assert "no regular file" in setting.refused(command, "--force", setting.folder / "pipe")
    assert served(setting, packet) == packet.payload


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    """Of the cache folder and of files: bytes, as Linux has them."""
    folder, copy, text, missing = (
        tmp_path / os.fsdecode(name) for name in (b"c\xe9", b"b\xe9", b"e\xe9", b"m\xe9/b")
    )
    wrapper = ("env", f"PKARR_RELAY__CACHE__PATH={os.fspath(folder)}")
    strict = (*wrapper, "PYTHONIOENCODING=utf-8:strict")
    setting = Setting(RelayProcess(tmp_path, wrapper=wrapper))

    def run(command: str, *arguments: object, lines: str = "") -> tuple[int, str, str]:
        done = setting.run(command, *arguments, text=lines, wrapper=strict)
        return done.returncode, done.stdout, done.stderr

    def use(lines: str) -> None:
        assert run("import", "-", lines=lines)[0] == 0
        code, out, _ = run("backup", "--force", copy)
        assert (code, out.partition(": ")[0]) == (0, f"{tmp_path}/b\\udce9")
        assert run("export", "--force", text) == (0, f"{tmp_path}/e\\udce9: 3 packets\n", "")
        code, _, err = run("export", text)
        assert (code, err) == (
            1,
            f"Error: {tmp_path}/e\\udce9 is there already; --force replaces it\n",
        )
        assert run("backup", missing)[0] == 1
        code, out, _ = run("check")
        assert (code, "packets: 3\n" in out) == (0, True)

    lines = "".join(map(line, packets(3)))
    with setting.relay as relay:
        use(lines)
        folder.rename(tmp_path / "away")
        folder.write_text("in its place")
        wait_until(lambda: part(relay, "cache") == "degraded", "health to tell of it")
        assert f"{tmp_path}/c\\\\udce9" in relay.health().body.decode(), "escaped, as JSON has it"
        assert f"{tmp_path}/c\\udce9" in relay.request("").body.decode()
        assert "Traceback" not in relay.log()
        assert relay.stop() == 0
    folder.unlink()
    (tmp_path / "away").rename(folder)
    use(lines)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_bad_line_is_named_and_nothing_else_is_lost(setting: Setting) -> None:
    good = packets(530)
    forged = Author().packet()
    lines = [line(packet) for packet in good]
    bad = {
        3: line(Packet(good[0].public_key, 0, forged.payload)),
        7: "not json\n",
        9: "x" * 200_000 + "\n",
        500: line(Author().sign(b"no dns message")),
        532: json.dumps({"key": "nobody", "payload": ""}) + "\n",
        536: line(Packet(bytes(31) + b"\xff", 0, forged.payload)).rstrip("\n"),
    }
    for number, text in bad.items():
        lines.insert(number - 1, text)
    lines.insert(0, "\n")  # an empty line counts, and is none
    done = setting.run("import", "-", text="".join(lines))
    assert done.returncode == 1
    assert done.stdout.startswith("530 packets stored, 0 were there already, 0 older")
    assert done.stdout.endswith(", 6 bad lines\n")
    said = dict(entry.split(": ", 1) for entry in done.stderr.splitlines())
    assert said.keys() == {f"line {number + 1}" for number in bad}
    assert said["line 4"] == "signature error"
    assert said["line 8"] == "is not JSON"
    assert said["line 10"].startswith("is longer than")
    assert setting.exported().keys() == {packet.key for packet in good}


def test_older_ones_do_not_replace_newer_ones(setting: Setting) -> None:
    author = Author()
    old, new = author.packet("old"), author.packet("new")
    setting.done("import", "-", text=line(new))
    assert setting.done("import", "-", text=line(old)) == (
        "0 packets stored, 0 were there already, 1 older than what is or was there, 0 bad lines\n"
    )
    assert served(setting, old) == new.payload


def test_nobody_can_pretend_to_have_seen_a_packet_in_the_future(setting: Setting) -> None:
    packet = Author().packet()
    setting.done("import", "-", text=line(packet, last_seen_us=2**63 - 1))
    entry = json.loads(setting.done("export", "-"))
    assert entry["last_seen_us"] < packet.timestamp_us + 120_000_000


def test_a_purged_packet_is_gone_and_no_older_one_takes_its_place(setting: Setting) -> None:
    author, other = Author(), Author().packet()
    old, new = author.packet("old"), author.packet("new")
    setting.done("import", "-", text=line(new) + line(other))
    assert "removed the packet of" in setting.done("purge", f"pk:{author.key}")
    assert setting.exported().keys() == {other.key}
    assert f"{author.key} is not in the cache" in setting.refused("purge", author.key)
    assert ", 1 older than" in setting.done("import", "-", text=line(old))
    assert served(setting, new) is None
    assert served(setting, other) == other.payload
    newest = author.packet("newest")
    assert "1 packets stored" in setting.done("import", "-", text=line(newest))
    assert served(setting, newest) == newest.payload


def test_what_is_no_key_is_not_purged(setting: Setting) -> None:
    assert "'nobody': Invalid PublicKey" in setting.refused("purge", "nobody")


def test_a_backup_is_a_relays_database(setting: Setting, tmp_path: Path) -> None:
    many = packets(300)
    setting.done("import", "-", text="".join(map(line, many)))
    target = make(tmp_path / "backups") / "today.sqlite3"
    said = setting.done("backup", target)
    size = target.stat().st_size
    assert said == f"{target}: {size} bytes\n"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    before = target.read_bytes()
    assert "is there already; --force replaces it" in setting.refused("backup", target)
    assert target.read_bytes() == before
    setting.done("backup", "--force", target)
    other = RelayProcess(make(tmp_path / "other"))
    other.cache.mkdir()
    target.rename(other.cache / DATABASE)
    with other:
        for packet in (many[0], many[-1]):
            assert other.get(packet.key, "CacheOnly").body == packet.payload


@pytest.mark.parametrize("where", ["missing/x", "."])
def test_a_backup_that_cannot_be_written_is_told(setting: Setting, where: str) -> None:
    setting.done("import", "-", text=line(Author().packet()))
    said = setting.refused("backup", setting.folder / where)
    assert "cannot be written" in said or "is there already" in said


def spoil(database: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def test_check_names_what_is_wrong(setting: Setting) -> None:
    good, spoiled, forged = packets(3)
    setting.done("import", "-", text="".join(map(line, (good, spoiled, forged))))
    database = setting.relay.cache / DATABASE
    spoil(database, "UPDATE packets SET payload = zeroblob(90) WHERE key = ?", spoiled.public_key)
    payload = forged.payload[:-1] + b"?"  # with the right checksum: a forgery, no accident
    checksum = crc32(bytes(8) + payload, crc32(forged.public_key))
    spoil(
        database,
        "UPDATE packets SET last_seen_us = 0, payload = ?, checksum = ? WHERE key = ?",
        *(payload, checksum, forged.public_key),
    )
    done = setting.run("check")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"packets: {spoiled.key}: wrong checksum",
        f"packets: {forged.key}: signature error",
    ]
    quick = setting.run("check", "--quick")
    assert (quick.returncode, quick.stderr.count("\n")) == (1, 1)
    exported = setting.run("export", "-")
    assert exported.returncode == 1
    assert exported.stderr == "1 spoiled packets are left out; `check` names them\n"
    assert exported.stdout.count("\n") == 2


def test_check_finds_a_damaged_structure(relay: RelayProcess) -> None:
    setting = Setting(relay)
    setting.done("import", "-", text="".join(map(line, packets(300))))
    with (relay.cache / DATABASE).open("r+b") as file:
        file.seek(8 * 4096 + 100)
        file.write(bytes(3000))
    done = setting.run("check")
    assert done.returncode == 1
    assert done.stderr.startswith(("database: ", "Error: "))


@pytest.mark.usefixtures("relay")
def test_what_has_no_cache_is_told_so(tmp_path: Path) -> None:
    memory = tmp_path / "memory.toml"
    memory.write_text("[http]\nport = 0\n")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[cache]\npath = 7\n")
    for arguments, complaint in (
        (["-c", memory], "memory.toml has no cache.path"),
        ([], "there is no cache folder"),
        (["-c", wrong], "line 2: cache.path"),
        (["-c", tmp_path / "missing.toml"], "failed to read"),
        (["--cache", tmp_path / "missing"], "there is no database in"),
        (["-c", memory, "--cache", tmp_path], "there is no database in"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "relay", "check", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("Error: ")
        assert complaint in done.stderr
    assert not (tmp_path / "missing").exists()


def test_the_configuration_may_stand_before_the_command(relay: RelayProcess) -> None:
    setting = Setting(relay)
    setting.done("import", "-", text=line(Author().packet()))
    process = setting.start("-c", relay.config_path, "check", "--quick")
    out, _ = process.communicate(timeout=COMMAND_S)
    assert process.returncode == 0
    assert out.startswith("packets: 1\n")


def test_the_environment_overrides_the_folder(
    relay: RelayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PKARR_RELAY__CACHE__PATH", str(tmp_path / "elsewhere"))
    Setting(relay).done("import", "-", text=line(Author().packet()))
    assert (tmp_path / "elsewhere" / DATABASE).exists()
    assert not relay.cache.exists()


@pytest.mark.parametrize("mask", ["000", "077"])
def test_the_socket_is_the_operators_alone(tmp_path: Path, mask: str) -> None:
    wrapper = ("sh", "-c", f'umask {mask}; exec "$@"', "sh")
    with RelayProcess(tmp_path, wrapper=wrapper) as relay:
        socket = relay.cache / SOCKET
        wait_until(socket.exists, "the control socket")
        assert socket.stat().st_mode & 0o7777 == 0o600
        relay.stop()
        assert not socket.exists()


def test_a_killed_relays_socket_is_in_nobodys_way(relay: RelayProcess) -> None:
    setting = Setting(relay)
    packet = Author().packet()
    relay.start()
    wait_until((relay.cache / SOCKET).exists, "the control socket")
    setting.done("import", "-", text=line(packet))
    relay.kill()
    assert (relay.cache / SOCKET).exists()
    assert "packets: 1\n" in setting.done("check")
    relay.start()
    assert "packets: 1\n" in setting.done("check")
    assert "check" not in relay.log()
    assert "control: rows: 1 of packets" in relay.log()
    assert relay.stop() == 0


def test_a_relay_that_is_starting_is_waited_for(relay: RelayProcess) -> None:
    setting = Setting(relay)
    many = packets(500)
    setting.done("import", "-", text="".join(map(line, many)))
    for _ in range(3):
        relay.launch()
        assert "packets: 500\n" in setting.done("check", "--quick")
        relay.kill()


def test_a_folder_may_lie_deep(tmp_path: Path) -> None:
    cache = tmp_path / ("d" * 90) / ("e" * 90)
    with RelayProcess(tmp_path, cache=cache) as relay:
        assert "1 packets stored" in Setting(relay).done("import", "-", text=line(packets(1)[0]))
        assert "control: import" in relay.log()
        assert relay.stop() == 0
    assert "packets: 1\n" in Setting(relay).done("check")


@pytest.mark.slow
def test_a_relay_that_does_not_answer_is_named(relay: RelayProcess) -> None:
    """Somebody holds the folder and has no socket: an import on a terminal, say."""
    setting = Setting(relay)
    setting.done("import", "-", text=line(Author().packet()))
    holder = setting.start("import", "-c", relay.config_path, "-")
    assert holder.stdin is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    try:
        lock = relay.cache / "pkarr-relay.lock"
        wait_until(lambda: lock.read_text() == f"{holder.pid}\n", "the lock")
        said = setting.refused("check")
        assert f"another relay (process {holder.pid}) is using the cache folder" in said
        assert f"nobody answers on its {SOCKET}" in said
    finally:
        holder.communicate(timeout=COMMAND_S)
    assert holder.returncode == 0


def fill(relay: RelayProcess) -> None:
    """Make a database of many large rows; their signatures are nothing."""
    relay.cache.mkdir()
    with PacketCache(relay.cache / DATABASE, floors_max=10) as cache:
        for start in range(0, BIG_PACKETS, 5000):
            numbers = range(start, start + 5000)
            rows = {n.to_bytes(32): n.to_bytes(8) + bytes(1000) for n in numbers}
            cache.commit(Changes(records=rows), 0)


def partial(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".partial")]


def at_work(process: subprocess.Popen[str], folder: Path) -> None:
    """Return as soon as a backup into `folder` has begun to grow; no pause, it is soon over."""
    while process.poll() is None:
        with suppress(OSError):
            if any((folder / name).stat().st_size for name in partial(folder)):
                return
    pytest.fail("the backup was over before it was seen")


@pytest.mark.slow
@pytest.mark.parametrize("end", ["relay is killed", "relay is stopped", "command is killed"])
def test_a_backup_cut_off_leaves_nothing_that_looks_whole(
    relay: RelayProcess, tmp_path: Path, end: str
) -> None:
    fill(relay)
    setting = Setting(relay)
    backups = make(tmp_path / "backups")
    with relay:
        process = setting.start("backup", "-c", relay.config_path, backups / "x")
        at_work(process, backups)
        if end == "relay is killed":
            relay.kill()
        elif end == "relay is stopped":
            assert relay.stop() == 0
        else:
            process.kill()
        _, said = process.communicate(timeout=COMMAND_S)
        assert not (backups / "x").exists()
        if end == "command is killed":
            wait_until(lambda: not partial(backups), "the relay giving up")
            assert relay.health().status == 200
        else:
            assert process.returncode == 1
            assert said.startswith("Error: the relay ended")
        if end == "relay is killed":
            assert partial(backups)
    setting.done("backup", backups / "x")
    assert os.listdir(backups) == ["x"]


@pytest.mark.slow
def test_a_killed_command_alone_leaves_the_next_a_clean_folder(
    relay: RelayProcess, tmp_path: Path
) -> None:
    fill(relay)
    setting = Setting(relay)
    backups = make(tmp_path / "backups")
    process = setting.start("backup", "-c", relay.config_path, backups / "x")
    at_work(process, backups)
    process.kill()
    process.communicate(timeout=COMMAND_S)
    assert not (backups / "x").exists()
    assert len(partial(backups)) == 1
    setting.done("backup", backups / "x")
    assert os.listdir(backups) == ["x"]


def small_disk(folder: Path) -> tuple[str, ...]:
    """A wrapper that gives `folder` a file system of 512 KB that nobody else sees."""
    as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    script = 'mount -t tmpfs -o size=512k tmpfs "$0" && exec "$@"'
    return ("unshare", *as_root, "--mount", "sh", "-c", script, str(make(folder)))


@pytest.mark.slow
@pytest.mark.parametrize("running", [True, False])
def test_a_full_disk_at_the_target_harms_nothing(tmp_path: Path, running: bool) -> None:
    wrapper = small_disk(tmp_path / "backups")
    relay = RelayProcess(tmp_path, wrapper=wrapper if running else ())
    setting = Setting(relay)
    many = packets(3000)
    setting.done("import", "-", text="".join(map(line, many)))
    target = tmp_path / "backups" / "x"
    if not running:
        for command in ("backup", "export"):
            done = setting.run(command, target, wrapper=wrapper)
            assert done.returncode == 1
            assert f"Error: {target} cannot be written: " in done.stderr
        return
    with relay:
        assert f"{target} cannot be written: " in setting.refused("backup", target)
        assert os.listdir(f"/proc/{relay.pid}/root{target.parent}") == []
        assert relay.get(many[7].key, "CacheOnly").body == many[7].payload
        assert relay.health().json()["parts"]["cache"]["status"] == "ok"
        setting.done("backup", tmp_path / "x")


@pytest.mark.slow
def test_what_an_import_has_reported_survives_the_relays_death(relay: RelayProcess) -> None:
    """kill -9 in the middle of an import, ten times: as many are there as were counted."""
    setting = Setting(relay)
    reported = 0
    for attempt in range(10):
        many = packets(4000, f"attempt {attempt}")
        file = setting.folder / "in.jsonl"
        file.write_text("".join(map(line, many)))
        relay.start()
        process = setting.start("import", "-c", relay.config_path, file)
        before = relay.stats()["cache"]["packets"]  # type: ignore[index]
        wanted = before + 300 * attempt

        def enough(wanted: int = wanted, running: Callable[[], object] = process.poll) -> bool:
            there = relay.stats()["cache"]["packets"]  # type: ignore[index]
            return bool(there > wanted or running() is not None)

        wait_until(enough, "packets")
        relay.kill()
        out, _ = process.communicate(timeout=COMMAND_S)
        count = int(out.split(" ")[0])
        reported += count
        there = setting.exported()
        assert there.keys() >= {packet.key for packet in many[:count]}
        if process.returncode == 0:
            assert count == 4000
    assert reported > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_commands_do_not_hold_up_the_end(relay: RelayProcess, number: signal.Signals) -> None:
    """An export that nobody reads, and an import that sends nothing: the relay still ends."""
    fill(relay)
    setting = Setting(relay)
    with relay:
        wait_until((relay.cache / SOCKET).exists, "the control socket")
        waiting = [
            setting.start("export", "-c", relay.config_path, "-"),
            setting.start("import", "-c", relay.config_path, "-"),
            setting.start("check", "-c", relay.config_path),
        ]
        stdin = waiting[1].stdin
        assert stdin is not None
        stdin.write("".join(map(line, packets(600))))
        stdin.flush()
        wait_until(lambda: "import" not in relay.log(), "nothing is over yet")
        os.kill(relay.pid, number)
        assert relay._ended() == 0
        assert "takes too long" not in relay.log()
        assert "Traceback" not in relay.log()
    for process in waiting:
        process.kill()
        process.communicate(timeout=COMMAND_S)


@pytest.mark.slow
def test_gets_are_served_while_commands_work(relay: RelayProcess, tmp_path: Path) -> None:
    """Each answer right, and of each command's time a good part was there for GETs."""
    fill(relay)
    setting = Setting(relay)
    packet, *many = packets(5000)
    file = tmp_path / "in.jsonl"
    file.write_text("".join(map(line, many)))
    with relay, closing(http.client.HTTPConnection("127.0.0.1", relay.port)) as client:
        setting.done("import", "-", text=line(packet))
        for command in (
            ["import", file],
            ["export", tmp_path / "out"],
            ["backup", tmp_path / "copy"],
            ["check", "--quick"],
        ):
            process = setting.start(*command, "-c", relay.config_path)
            answers = 0
            while process.poll() is None:
                answer = exchange(client, "GET", f"/{packet.key}?policy=CacheOnly")
                assert (answer.status, answer.body) == (200, packet.payload)
                answers += 1
            assert process.communicate()[1] == ""
            assert answers > 20


def test_a_reader_that_has_seen_enough_is_no_accident(relay: RelayProcess) -> None:
    setting = Setting(relay)
    setting.done("import", "-", text="".join(map(line, packets(3000))))
    process = setting.start("export", "-c", relay.config_path, "-")
    assert process.stdout is not None
    assert process.stdout.readline().startswith('{"key": ')
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(COMMAND_S) == 1


def test_a_folder_without_room_for_a_socket_costs_only_the_commands(tmp_path: Path) -> None:
    """Where the socket should be is a folder: the relay serves, and says what is missing."""
    relay = RelayProcess(tmp_path)
    (relay.cache / SOCKET / "x").mkdir(parents=True)
    with relay:
        wait_until(lambda: "no command can reach this relay" in relay.log(), "the warning")
        assert relay.health().status == 200


def test_commands_that_only_look_leave_nothing_behind(relay: RelayProcess, tmp_path: Path) -> None:
    with relay:
        relay.stop()
    before = sorted(os.listdir(relay.cache))
    setting = Setting(relay)
    for arguments in (("check",), ("export", "-"), ("backup", tmp_path / "copy.sqlite3")):
        setting.done(*arguments)
        assert sorted(os.listdir(relay.cache)) == before, arguments


@pytest.mark.parametrize("loss", ["socket", "folder", "never there"])
def test_the_socket_comes_back_with_its_folder(
    relay: RelayProcess, tmp_path: Path, loss: str
) -> None:
    """Operators need no restart after somebody tidied up, or when the folder comes late."""
    if loss == "never there":
        relay.cache.write_text("a file in the folder's place")
    with relay:
        setting = Setting(relay)
        if loss == "never there":
            assert relay.health().json()["status"] == "degraded"
            relay.cache.unlink()
        else:
            wait_until((relay.cache / SOCKET).exists, "the socket")
            if loss == "socket":
                (relay.cache / SOCKET).unlink()
            else:
                shutil.rmtree(relay.cache)
        wait_until((relay.cache / SOCKET).exists, "the socket")
        wait_until(lambda: cache_is_well(relay), "the cache")
        setting.done("backup", tmp_path / "copy.sqlite3")
        assert relay.alive
        assert "Traceback" not in relay.log()


def cache_is_well(relay: RelayProcess) -> bool:
    health = cast("dict[str, Any]", relay.health().json())
    return bool(health["parts"]["cache"]["status"] == "ok")
