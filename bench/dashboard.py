"""``python -m bench.dashboard``: the Grafana dashboard's queries against a real Prometheus.

Starts a DHT of our own nodes, a relay, a neighbour that keeps it busy from the DHT's side, and
Prometheus, which scrapes the relay once a second; puts the relay under a load that changes; then
asks Prometheus every query of docs/grafana/pkarr-relay.json. Each must parse and have data. What
came back is drawn, panel by panel, into docs/grafana/pkarr-relay.svg. `promtool`, which comes
with Prometheus, judges the names.

Prometheus is taken from PATH, or fetched as Debian's package and unpacked beside the peers;
nothing is installed. Grafana itself is not run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import relay
from bench import anchors
from bench.dashboard_picture import Series, draw
from bench.harness import KEEP_ALIVE, Load, Loader, Record, Supply, fill, get, progress, put
from bench.library import Library
from tests.support.peers import CACHE, ROOT
from tests.support.relay import RelayProcess, fetch, free_port, wait_until

DASHBOARD: Final = ROOT / "docs" / "grafana" / "pkarr-relay.json"
PICTURE: Final = DASHBOARD.with_suffix(".svg")
NODES: Final = 12
KEYS: Final = 200
CACHE_PACKETS: Final = 2000
"""Small, so that there are evictions."""
SCRAPE_S: Final = 1
STEP_S: Final = 1
VARIABLES: Final = {"$__rate_interval": "5s", "$job": ".*", "$instance": ".*"}
"""What Grafana would put in; its rate interval is at least four scrapes."""
QUOTA: Final = 5000
"""Requests that one address may send in a second; the greedy one is refused the rest."""
READY_S: Final = 60.0


def main() -> int:
    """Run everything; 1 if a query fails or has no data."""
    parser = argparse.ArgumentParser(prog="python -m bench.dashboard", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the five loads")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where to draw it")
    arguments = parser.parse_args()
    dashboard = json.loads(DASHBOARD.read_text())
    folder = prometheus_folder()
    with (
        tempfile.TemporaryDirectory() as scratch,
        anchors.network("ours", NODES) as net,
        running(Path(scratch), net.bootstrap) as (subject, neighbour, page),
        prometheus(folder, Path(scratch), urllib.parse.urlsplit(page).netloc) as api,
    ):
        begun = time.time()
        put_under_load(Loader(Path(scratch)), subject, neighbour, arguments.seconds)
        lint(folder, fetch(page).body)
        span = begun, time.time()
        found = ask_all(api, dashboard, *span)
    failures = [f"{title}: {query}" for title, query, series in found.values() if not series]
    panels: dict[int, list[Series]] = {}
    for (panel, _), (_, _, series) in found.items():
        panels.setdefault(panel, []).extend(series)
    day = datetime.datetime.now(datetime.UTC).date()
    note = (
        f"pkarr-relay {relay.__version__} under a load that changes, {day}. Drawn by `python -m"
        " bench.dashboard` from the dashboard's JSON and the answers of a real Prometheus; not by"
        " Grafana."
    )
    arguments.picture.write_text(draw(dashboard, panels, span, note))
    progress(f"{len(found)} queries, {len(failures)} without data; {arguments.picture} is drawn")
    for failure in failures:
        sys.stderr.write(f"no data: {failure}\n")
    return bool(failures)


# ---- What runs ----


def prometheus_folder() -> Path:
    """Return where ``prometheus`` and ``promtool`` are; fetch Debian's package if need be."""
    if (program := shutil.which("prometheus")) is not None:
        return Path(program).parent
    folder = CACHE / "prometheus"
    if not (folder / "usr" / "bin" / "promtool").exists():
        progress("fetching Debian's package of Prometheus")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "prometheus"], cwd=folder, check=True)
        (package,) = folder.glob("prometheus_*.deb")
        subprocess.run(["dpkg", "-x", package, folder], check=True)
    return folder / "usr" / "bin"


@contextmanager
def running(
    scratch: Path, bootstrap: Sequence[str]
) -> Iterator[tuple[anchors.Subject, anchors.Subject, str]]:
    """Run a relay and its neighbour; yields both and the address of the relay's metrics."""
    port = free_port()
    sections = {
        **anchors.our_sections(),
        "metrics": f'bind = "127.0.0.1:{port}"',
        "rate_limiter": f'behind_proxy = true\nquota = "{QUOTA}r/s"\n'
        'user_dht_quota = "100000r/s"\ndht_quota = "100000r/s"',
    }
    sections["cache"] += f"\nsize = {CACHE_PACKETS}"
    folders = [scratch / name for name in ("relay", "neighbour")]
    for folder in folders:
        folder.mkdir()
    with (
        RelayProcess(folders[0], bootstrap=bootstrap, sections=sections) as ours,
        RelayProcess(folders[1], bootstrap=["{}:{}".format(*ours.dht_address)]) as other,
    ):
        for process in (ours, other):
            process.wait_bootstrapped()
        subjects = [
            anchors.Subject(name, "in place", process.pid, process.port)
            for name, process in (("relay", ours), ("neighbour", other))
        ]
        yield subjects[0], subjects[1], f"http://127.0.0.1:{port}/metrics"


@contextmanager
def prometheus(folder: Path, scratch: Path, target: str) -> Iterator[str]:
    """Run Prometheus on `target`; yields the address of its API."""
    settings = scratch / "prometheus.yml"
    settings.write_text(
        f"global: {{scrape_interval: {SCRAPE_S}s}}\n"
        "scrape_configs:\n  - job_name: pkarr-relay\n"
        f"    static_configs: [{{targets: ['{target}']}}]\n"
    )
    port = free_port()
    api = f"http://127.0.0.1:{port}/api/v1"
    with (scratch / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                folder / "prometheus",
                f"--config.file={settings}",
                f"--storage.tsdb.path={scratch / 'series'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: _is_up(api), "Prometheus to scrape the relay", READY_S)
        yield api
    finally:
        process.terminate()
        process.wait()


def _is_up(api: str) -> bool:
    try:
        if fetch(f"{api.removesuffix('/api/v1')}/-/ready").status != 200:
            return False
    except OSError:
        return False
    return bool(query(api, "query", query="up == 1"))


def put_under_load(
    loader: Loader, subject: anchors.Subject, neighbour: anchors.Subject, seconds: float
) -> None:
    """Hot GETs; misses besides; PUTs besides; a greedy client; then a quiet end."""
    filled = Library(KEYS)[:]
    progress("filling")
    fill(loader, subject, filled)
    supply, unknown = Supply(KEYS), Supply(500_000)
    records = [_from(get(packet), f"198.51.100.{at}") for at, packet in enumerate(filled)]
    hot = Load(loader.prepare(records), 4, seconds)
    greedy = Load(loader.prepare(_from(get(p), "192.0.2.1") for p in filled), 4, seconds)

    def once(records: Iterator[Record]) -> Load:
        return Load(loader.prepare(records), 4, seconds, "once")

    def puts() -> Load:
        return once(put(packet) for packet in supply.take(int(1500 * seconds)))

    def misses() -> Load:
        return once(_miss(packet.key) for packet in unknown.take(int(1500 * seconds)))

    phases: Mapping[str, Sequence[Load]] = {
        "hot GETs": [hot],
        "with misses": [hot, misses()],
        "with PUTs": [hot, puts(), misses()],
        "with a greedy client": [hot, greedy, puts()],
        "PUTs alone": [puts()],
    }
    for name, loads in phases.items():
        progress(name)
        loader.run(subject, *loads)
        # The neighbour's own PUTs come to us as queries of the DHT.
        loader.run(neighbour, Load(puts().records, 2, 2.0, "once"))


def _from(record: Record, address: str) -> Record:
    """Return the request as a proxy would pass it on."""
    field = f"X-Forwarded-For: {address}\r\n\r\n".encode()
    return Record(record.request.removesuffix(b"\r\n") + field, record.status, record.body)


def _miss(key: str) -> Record:
    return Record(f"GET /{key} HTTP/1.1\r\n{KEEP_ALIVE}\r\n".encode(), 404, None)


# ---- What is asked ----


def lint(folder: Path, page: bytes) -> None:
    """Let Prometheus' own linter judge names and texts; raises if it finds fault."""
    command = [os.fspath(folder / "promtool"), "check", "metrics"]
    done = subprocess.run(command, input=page, capture_output=True, check=False)
    words = (done.stdout + done.stderr).decode()
    if done.returncode:
        raise RuntimeError(f"promtool finds fault: {words}")
    progress("promtool finds no fault")


def query(api: str, kind: str, **arguments: object) -> list[dict[str, Any]]:
    """Ask Prometheus; raises RuntimeError with its words if it does not understand."""
    answer = fetch(f"{api}/{kind}?{urllib.parse.urlencode(arguments)}")
    body: dict[str, Any] = json.loads(answer.body)
    if body["status"] != "success":
        raise RuntimeError(f"{arguments['query']}: {body['error']}")
    result: list[dict[str, Any]] = body["data"]["result"]
    return result


def ask_all(
    api: str, dashboard: Mapping[str, Any], begun: float, ended: float
) -> dict[tuple[int, str], tuple[str, str, list[Series]]]:
    """Return title, query and series of every query, by panel and reference."""
    found = {}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            result = query(
                api, "query_range", query=expression, start=begun, end=ended, step=STEP_S
            )
            series = [_series(one, target["legendFormat"]) for one in result]
            kept = [one for one in series if one.points]
            found[panel["id"], target["refId"]] = (panel["title"], expression, kept)
    return found


def _series(result: Mapping[str, Any], form: str) -> Series:
    labels = result["metric"]
    name = re.sub(r"{{\s*(\w+)\s*}}", lambda match: str(labels.get(match[1], "")), form)
    points = [(float(at), float(value)) for at, value in result["values"]]
    return Series(name, [point for point in points if math.isfinite(point[1])])


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
