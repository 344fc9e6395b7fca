"""A relay killed again and again under mixed load, and what must hold afterwards.

    python -m tests.support.kills --kills 1000 --seed 7

A DHT of our own nodes outlives the relay. Its cache is nearly full, so that packets are evicted,
and old enough packets expire, so that look-ups ask the DHT. Threads publish ever newer packets of
a bounded set of keys, older ones that must be refused, and ask for what was acknowledged; beside
them SIGHUPs change the cache's size, and operators' commands read and write the file. The kill
comes at a random moment: under load, while it starts, while it makes its database, while it
shrinks, while a command works on it.

What holds, or `ViolationError`: each acknowledged packet, or a newer one, is in the file, or the
floor that it left when it was evicted is; nobody is served an older packet than was served or
acknowledged before; the file always opens and is whole; the relay is well at once.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from tests.support import peers
from tests.support.chance import seeded
from tests.support.packets import Author, Packet, zbase32
from tests.support.peers import ROOT
from tests.support.relay import Answer, RelayProcess, exchange, wait_until

WRITERS: Final = 6
HOT_KEYS: Final = 6
"""Of each writer: few, so that most writes replace a packet and an older one could come back."""
KEYS: Final = 48
"""Of each writer, all told; together more than the cache holds, fewer than it keeps floors of."""
CAPACITIES: Final = (110, 130, 150)
IMPORTED: Final = 60
ACKNOWLEDGED_BEFORE_KILL: Final = (1, 40)
"""The kill comes after so many answers since the start: in the first write, or amid many."""
NODES: Final = 3
DATABASE: Final = "pkarr-relay.sqlite3"
COMMAND_S: Final = 60.0

MOMENTS: Final = {
    "load": 68,
    "start": 10,
    "creation": 4,
    "shrink": 8,
    "import": 3,
    "purge": 3,
    "backup": 2,
    "export": 2,
}
"""When the kill comes, and how often in a hundred."""


class ViolationError(AssertionError):
    """Something that was acknowledged is lost, or something older came back."""


@dataclass(slots=True)
class Ledger:
    """What was sent for each key, and what the relay has answered since."""

    sent: dict[str, dict[int, bytes]] = field(default_factory=dict)
    acknowledged_us: dict[str, int] = field(default_factory=dict)
    """The newest packets that the relay said to have stored."""
    served_us: dict[str, int] = field(default_factory=dict)
    """The newest that somebody was served: of the DHT perhaps, where one may be whose
    acknowledgement was cut off."""
    published: set[str] = field(default_factory=set)
    """Keys that the DHT knows, so that somebody who asks must find them."""
    unchecked: set[str] = field(default_factory=set)
    acknowledged: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note_sent(self, packet: Packet) -> None:
        """Note a packet that may be there from now on."""
        with self.lock:
            self.sent.setdefault(packet.key, {})[packet.timestamp_us] = packet.payload

    def note_acknowledged(self, packet: Packet, *, published: bool = True) -> None:
        """Note that the relay said that it has `packet`, or a newer one."""
        with self.lock:
            self.acknowledged += 1
            if published:
                self.unchecked.add(packet.key)
                self.published.add(packet.key)
            known_us = self.acknowledged_us.get(packet.key, 0)
            self.acknowledged_us[packet.key] = max(packet.timestamp_us, known_us)

    def known_us(self, key: str) -> int:
        """Return the timestamp below which nobody may be served a packet of `key`."""
        with self.lock:
            return max(self.acknowledged_us.get(key, 0), self.served_us.get(key, 0))

    def judge(self, key: str, answer: Answer, known_us: int) -> None:
        """Check an answer to a GET that was sent when `known_us` was vouched for.

        Raises:
            ViolationError: it is older, another one than was sent, or nothing.
        """
        if answer.status in {429, 500, 503}:
            return  # the DHT is too slow just now; nothing is said about the packet
        if answer.status != 200:
            if known_us and key in self.published:
                raise ViolationError(f"{answer.status} for {key}, vouched for at {known_us}")
            return
        stamp_us = int.from_bytes(answer.body[64:72])
        if stamp_us < known_us:
            raise ViolationError(f"{key}: {stamp_us} served after {known_us}")
        if answer.body != self.sent[key][stamp_us]:
            raise ViolationError(f"{key}: not the bytes that were sent")
        with self.lock:
            self.served_us[key] = max(stamp_us, self.served_us.get(key, 0))

    def check_served(self, relay: RelayProcess, keys: Sequence[str]) -> None:
        """Ask a relay for `keys`: each must be there, as vouched for or newer."""
        with closing(http.client.HTTPConnection("127.0.0.1", relay.port, timeout=60)) as connection:
            for key in keys:
                answer = exchange(connection, "GET", f"/{key}")
                if answer.status != 200:
                    raise ViolationError(f"{answer.status} for {key} after a restart")
                self.judge(key, answer, self.known_us(key))
        self.unchecked.difference_update(keys)

    def check_file(self, database: Path, copy: Path) -> None:
        """Look into a copy of a dead relay's file: packets, or the floors that they left."""
        have = timestamps(database, copy)
        wanted = self.acknowledged_us
        lost = [key for key, known_us in wanted.items() if have.get(key, 0) < known_us]
        if lost:
            raise ViolationError(
                f"{len(lost)} acknowledged packets are not in the file, nor their floors: "
                + ", ".join(f"{key} {wanted[key]} {have.get(key)}" for key in lost[:3])
            )


def timestamps(database: Path, copy: Path) -> dict[str, int]:
    """Return, from a copy of the database and its log, the newest timestamp of each key.

    Raises:
        ViolationError: it does not open, or is not whole.
    """
    for suffix in ("", "-wal"):
        source = database.with_name(database.name + suffix)
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
        if source.exists():
            shutil.copyfile(source, copy.with_name(copy.name + suffix))
    copy.with_name(copy.name + "-shm").unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(copy)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchall()
            if found != [("ok",)]:
                raise ViolationError(f"{database}: {found}")
            rows = connection.execute(
                "SELECT key, substr(payload, 65, 8) FROM packets "
                "UNION ALL SELECT key, timestamp FROM floors"
            ).fetchall()
    except sqlite3.Error as error:
        raise ViolationError(f"{database} does not open: {error}") from error
    newest: dict[str, int] = {}
    for key, stamp in rows:
        name = zbase32(key)
        newest[name] = max(int.from_bytes(stamp), newest.get(name, 0))
    return newest


class Load:
    """Threads that publish and ask until the relay is gone; what they saw amiss is in `amiss`."""

    def __init__(self, relay: RelayProcess, ledger: Ledger, seed: object) -> None:
        self._relay, self._ledger = relay, ledger
        self._threads = [
            threading.Thread(target=self._work, args=(number, seeded(f"{seed}/{number}")))
            for number in range(WRITERS)
        ]
        self._over = threading.Event()
        self.amiss: list[BaseException | Answer] = []
        self.done: Counter[str] = Counter()

    def start(self) -> None:
        """Let them work."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Let them end, and raise what one of them found."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        for found in self.amiss:
            if isinstance(found, BaseException):
                raise found
            raise ViolationError(f"refused: {found}")

    def _work(self, writer: int, rng: random.Random) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._relay.port, timeout=60)) as to:
            for turn in itertools.count():
                if self._over.is_set() or self.amiss:
                    return
                try:
                    self._once(to, self._author(writer, rng), rng, turn)
                except (OSError, http.client.HTTPException):
                    return  # it is gone
                except ViolationError as error:
                    self.amiss.append(error)

    def _once(
        self, to: http.client.HTTPConnection, author: Author, rng: random.Random, turn: int
    ) -> None:
        ledger = self._ledger
        kind = rng.choices(("put", "get", "older", "missing"), (70, 24, 3, 3))[0]
        known_us = ledger.known_us(author.key)
        if kind == "get" and known_us:
            ledger.judge(author.key, exchange(to, "GET", f"/{author.key}"), known_us)
        elif kind == "missing":
            exchange(to, "GET", f"/{Author(rng.randbytes(32)).key}")
        elif kind == "older" and known_us:
            older = author.packet("older", timestamp_us=known_us - 1_000_000)
            answer = exchange(to, "PUT", f"/{older.key}", older.payload)
            if answer.status not in {409, 500, 503}:
                raise ViolationError(f"an older packet was answered {answer}")
        else:
            ttl_s = rng.choice([1, 300])  # those of one second expire, and are looked up again
            packet = author.packet(f"turn {turn}", ttl_s=ttl_s, size=rng.choice([None, 300, 1000]))
            ledger.note_sent(packet)
            answer = exchange(to, "PUT", f"/{packet.key}", packet.payload)
            if answer.status != 204:
                self.amiss.append(answer)
            else:
                ledger.note_acknowledged(packet)
            kind = "put"
        self.done[kind] += 1

    @staticmethod
    def _author(writer: int, rng: random.Random) -> Author:
        hot = rng.random() < 0.8
        return Author.numbered(rng.randrange(HOT_KEYS if hot else KEYS), f"writer {writer}")


class Campaign:
    """Kills one relay after the other on one folder.

    Args:
        folder: for everything.
        bootstrap: the DHT that outlives the relays.
        seed: chooses the moments.
        wrapper: runs the relay's command, see `RelayProcess`.
        check_every: how many kills there are to one run of ``pkarr-relay check``.
        capacity: how many packets the cache holds at first.
    """

    def __init__(
        self,
        folder: Path,
        bootstrap: Sequence[str],
        *,
        seed: int,
        wrapper: Sequence[str] = (),
        check_every: int = 10,
        capacity: int = CAPACITIES[-1],
    ) -> None:
        self.ledger = Ledger()
        self.moments: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.first_answers_s: list[float] = []
        self._folder = folder
        self._bootstrap = bootstrap
        self._seed = seed
        self._rng = seeded(seed)
        self._check_every = check_every
        self._wrapper = wrapper
        self._relay = RelayProcess(
            folder,
            bootstrap=bootstrap,
            wrapper=wrapper,
            sections={"cache": f"size = {capacity}\nminimum_ttl = 1"},
        )

    @property
    def database(self) -> Path:
        """The file that all relays share."""
        return self._relay.cache / DATABASE

    def kill(self, number: int, moment: str | None = None) -> None:
        """Start a relay, look whether all is there, load it, kill it, look into its file.

        Raises:
            ViolationError: something does not hold.
        """
        rng, ledger = self._rng, self.ledger
        if moment is None:
            moment = rng.choices(list(MOMENTS), list(MOMENTS.values()))[0]
        self.moments[moment] += 1
        if moment == "creation":
            self._kill_the_newborn(number)
            return
        if moment == "start":
            self._relay.launch()
            time.sleep(rng.uniform(0, 0.8))
            self._relay.kill()
        else:
            began = time.monotonic()
            with self._relay as relay:
                self.first_answers_s.append(time.monotonic() - began)
                relay.wait_bootstrapped()
                self._be_well(relay)
                ledger.check_served(relay, sorted(ledger.unchecked))
                self._load_and_kill(relay, number, moment)
        if self.database.exists():
            ledger.check_file(self.database, self._folder / "copy.sqlite3")
            if number % self._check_every == 0:
                self._command("check")

    def kill_often(self, kills: int) -> None:
        """Kill `kills` times under load; errors as for `kill`."""
        for number in range(1, kills + 1):
            self.kill(number, "load")

    def finish(self) -> None:
        """Look at everything once more, through HTTP and in the file.

        Raises:
            ViolationError: something does not hold.
        """
        with self._relay as relay:
            relay.wait_bootstrapped()
            self._be_well(relay)
            self.ledger.check_served(relay, sorted(self.ledger.published))
        self.ledger.check_file(self.database, self._folder / "copy.sqlite3")
        self._command("check")
        if "Traceback" in self._relay.log():
            raise ViolationError(self._relay.log())

    def _be_well(self, relay: RelayProcess) -> None:
        cache = cast("dict[str, Any]", relay.health().json())["parts"]["cache"]
        if cache["status"] != "ok":
            raise ViolationError(f"after a restart: {cache}")

    def _load_and_kill(self, relay: RelayProcess, number: int, moment: str) -> None:
        rng, ledger = self._rng, self.ledger
        enough = ledger.acknowledged + rng.randint(*ACKNOWLEDGED_BEFORE_KILL)
        load = Load(relay, ledger, (self._seed, number))
        load.start()
        commands: list[subprocess.Popen[bytes]] = []
        try:
            wait_until(lambda: ledger.acknowledged >= enough or load.amiss, "acknowledged packets")
            if moment == "shrink":
                self._resize(relay, min(CAPACITIES))
                time.sleep(rng.uniform(0, 0.1))
            elif moment != "load":
                commands.append(self._start_command(moment, number))
                time.sleep(rng.uniform(0.15, 0.8))
            elif rng.random() < 0.3:
                self._resize(relay, rng.choice(CAPACITIES))
        finally:
            relay.kill()
            for command in commands:
                self._end(command, moment)
            load.join()
            self.done.update(load.done)

    def _resize(self, relay: RelayProcess, capacity: int) -> None:
        """Have the relay take another size, while it runs and for the starts to come."""
        lines = relay.config_path.read_text().splitlines()
        news = [f"size = {capacity}" if line.startswith("size = ") else line for line in lines]
        relay.config_path.write_text("\n".join(news))
        os.kill(relay.pid, signal.SIGHUP)

    def _start_command(self, moment: str, number: int) -> subprocess.Popen[bytes]:
        arguments: tuple[object, ...]
        if moment == "import":
            self._coming = [
                Author.numbered(place, "import").packet(f"{number}") for place in range(IMPORTED)
            ]
            for packet in self._coming:
                self.ledger.note_sent(packet)
            lines = [
                json.dumps({"key": packet.key, "payload": b64encode(packet.payload).decode()})
                for packet in self._coming
            ]
            (self._folder / "in.jsonl").write_text("\n".join(lines) + "\n")
            arguments = (self._folder / "in.jsonl",)
        elif moment == "purge":
            arguments = (self._rng.choice(sorted(self.ledger.published)),)
        elif moment == "backup":
            arguments = ("--force", self._folder / "backup.sqlite3")
        else:
            arguments = ("-",)
        return subprocess.Popen(
            [sys.executable, "-m", "relay", moment, "-c", str(self._relay.config_path)]
            + [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )

    def _end(self, command: subprocess.Popen[bytes], moment: str) -> None:
        """Kill the command as well, or take it at its word if it has ended."""
        code = command.poll()
        if code is None:
            command.kill()
        command.wait()
        if moment == "import" and code == 0:
            for packet in self._coming:
                self.ledger.note_acknowledged(packet, published=False)
        if moment == "backup" and code == 0:
            timestamps(self._folder / "backup.sqlite3", self._folder / "copy.sqlite3")

    def _kill_the_newborn(self, number: int) -> None:
        """Kill a relay that makes its folder and its database; the next one must be well."""
        folder = self._folder / f"new-{number}"
        folder.mkdir()
        relay = RelayProcess(folder, bootstrap=self._bootstrap, wrapper=self._wrapper)
        relay.launch()
        wait_until(lambda: relay.cache.exists() or not relay.alive, "the folder", poll_s=0.0005)
        time.sleep(self._rng.expovariate(200))  # the file is made in some 10 ms
        relay.kill()
        with relay:
            self._be_well(relay)
            relay.stop()
        left = {path.name for path in relay.cache.iterdir()}
        if left != {DATABASE, "pkarr-relay.lock"}:
            raise ViolationError(f"left behind: {left}")
        shutil.rmtree(folder)

    def _command(self, name: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "relay", name, "-c", str(self._relay.config_path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=COMMAND_S,
            check=False,
        )
        if done.returncode or done.stderr:
            raise ViolationError(f"{name}: {done}")


def run(
    folder: Path,
    *,
    kills: int,
    seed: int,
    check_every: int,
    say: Callable[[str], None] = print,
) -> Campaign:
    """Kill `kills` times; say what came of it.

    Raises:
        ViolationError: something does not hold.
    """
    say(f"{kills} kills, seed {seed}")
    began = time.monotonic()
    with peers.own_net(NODES) as net:
        campaign = Campaign(folder, net.bootstrap, seed=seed, check_every=check_every)
        for number in range(kills):
            try:
                campaign.kill(number)
            except BaseException as error:
                error.add_note(f"seed {seed}, kill {number}")
                raise
            if (number + 1) % 50 == 0:
                say(
                    f"{number + 1} kills, {campaign.ledger.acknowledged} acknowledged packets,"
                    f" {time.monotonic() - began:.0f} s"
                )
        campaign.finish()
    first = sorted(campaign.first_answers_s)
    say(
        f"{kills} kills ({dict(campaign.moments)}): of {campaign.ledger.acknowledged} acknowledged"
        f" packets none is lost; requests {dict(campaign.done)}"
    )
    say(
        f"from start to first answer: median {statistics.median(first):.2f} s,"
        f" p99 {first[int(len(first) * 0.99)]:.2f} s, longest {first[-1]:.2f} s"
    )
    return campaign


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="left out: a new one, printed")
    parser.add_argument("--check-every", type=int, default=1)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="pkarr-kills-"))
    try:
        run(
            folder,
            kills=options.kills,
            seed=seed,
            check_every=options.check_every,
            say=lambda text: print(text, flush=True),
        )
    except BaseException:
        print(f"what is left is in {folder}", file=sys.stderr)
        raise
    with suppress(OSError):
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
