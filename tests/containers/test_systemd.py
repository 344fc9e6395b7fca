"""The unit under the systemd of Debian 12, booted in a container: every line of it is in force."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import BUILD_S, container, docker, run
from tests.support.peers import ROOT
from tests.support.relay import wait_until

UNIT = "pkarr-relay"
EXPOSURE_MAX = 2.0
# systemd reaches for much of the machine that is not the container's; that is masked.
DOCKERFILE = """\
FROM {image}
ENTRYPOINT []
RUN apt-get update -q && apt-get install -q -y --no-install-recommends systemd systemd-sysv dbus
RUN systemctl set-default multi-user.target && systemctl mask systemd-udevd.service \
    systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-sysctl.service \
    systemd-modules-load.service systemd-remount-fs.service console-getty.service \
    systemd-logind.service systemd-binfmt.service dev-hugepages.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
RUN ln -s /venv /usr/local/lib/pkarr-relay
COPY config.toml /etc/pkarr-relay/config.toml
COPY pkarr-relay.service /etc/systemd/system/pkarr-relay.service
COPY test.conf /etc/systemd/system/pkarr-relay.service.d/test.conf
RUN systemctl enable pkarr-relay
STOPSIGNAL SIGRTMIN+3
CMD ["/sbin/init"]
"""
FOR_THE_TEST = """\
[Service]
Environment="PKARR_RELAY__MAINLINE__BOOTSTRAP=[]"
WatchdogSec=3
"""
# What systemd needs to make the unit's sandbox; on a machine of its own it has all of that.
OPTIONS = (
    *("--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE", "--cgroupns", "private"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"),  # noqa: S108
    *("--network", "none"),
    *("-e", "container=docker"),
)


@pytest.fixture(scope="module")
def booted(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container whose first process is systemd, with the relay as its service."""
    folder: Path = tmp_path_factory.mktemp("systemd")
    (folder / "Dockerfile").write_text(DOCKERFILE.format(image=image))
    (folder / "test.conf").write_text(FOR_THE_TEST)
    (folder / "config.toml").write_text((ROOT / "config.toml").read_text())
    unit = ROOT / "systemd" / "pkarr-relay.service"
    (folder / "pkarr-relay.service").write_text(unit.read_text())
    run("docker", "build", "-q", "-t", "pkarr-relay-systemd", folder, timeout_s=BUILD_S)
    with container("pkarr-relay-systemd", *OPTIONS) as name:
        wait_until(lambda: show(name, "ActiveState") == "active", "the service", 60.0)
        yield name


def inside(name: str, *command: str) -> str:
    return docker("exec", name, *command)


def show(name: str, value: str) -> str:
    """Return a property of the unit; empty while systemd does not answer yet."""
    command = ("docker", "exec", name, "systemctl", "show", "-p", value, "--value", UNIT)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def journal(name: str) -> str:
    return inside(name, "journalctl", "-u", UNIT, "--no-pager", "-o", "cat")


def restarts(name: str) -> int:
    return int(show(name, "NRestarts") or 0)


def test_the_unit_is_in_order_and_exposes_little(booted: str) -> None:
    path = f"/etc/systemd/system/{UNIT}.service"
    assert inside(booted, "systemd-analyze", "verify", path) == ""
    judged = inside(booted, "systemd-analyze", "security", "--no-pager", "--offline=true", path)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", judged)
    assert found is not None
    print(f"\nexposure: {found[1]}")
    assert float(found[1]) <= EXPOSURE_MAX


def test_it_serves_as_a_user_of_its_own_without_any_right(booted: str) -> None:
    assert show(booted, "SubState") == "running"
    assert "0 packets" in show(booted, "StatusText")
    inside(booted, "/venv/bin/pkarr-relay", "health", "--url", "http://127.0.0.1:8080")
    status = inside(booted, "cat", f"/proc/{show(booted, 'MainPID')}/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    assert int(facts["Uid"].split()[0]) >= 61184  # of the range for dynamic users
    assert facts["CapBnd"].strip("0") == ""
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"
    assert "pkarr-relay.sqlite3" in inside(booted, "ls", "/var/lib/private/pkarr-relay")


def test_root_reaches_it_through_its_socket(booted: str) -> None:
    told = inside(booted, "/venv/bin/pkarr-relay", "check", "--cache", "/var/lib/pkarr-relay")
    assert "packets: 0" in told
    assert "pkarr_relay::control" in journal(booted)  # it was the relay that looked


def test_a_reload_returns_when_it_is_done(booted: str) -> None:
    edit = 's/^quota = .*/quota = "7r\\/s"/; s/^port = 8080/port = 8081/'
    inside(booted, "sed", "-i", edit, "/etc/pkarr-relay/config.toml")
    inside(booted, "systemctl", "reload", UNIT)
    assert "changed: rate_limiter.quota; needs a restart: http.port" in journal(booted)
    assert show(booted, "ActiveState") == "active"
    assert restarts(booted) == 0


def test_one_that_hangs_is_started_anew(booted: str) -> None:
    """And the journal says where it hung."""
    process = show(booted, "MainPID")
    inside(booted, "systemctl", "kill", "-s", "STOP", "--kill-who=main", UNIT)
    wait_until(lambda: restarts(booted) == 1, "the restart", 60.0)
    wait_until(lambda: show(booted, "ActiveState") == "active", "the service", 60.0)
    assert show(booted, "MainPID") != process
    # The journal takes up by and by what systemd and the process wrote at its end.
    wait_until(lambda: "Failed with result 'watchdog'" in journal(booted), "the reason", 30.0)
    wait_until(lambda: re.search(r"File .*relay/server.py", journal(booted)), "the place", 30.0)


def test_it_stops_in_good_order(booted: str) -> None:
    inside(booted, "systemctl", "stop", UNIT)
    assert show(booted, "Result") == "success"
    assert show(booted, "ExecMainStatus") == "0"
    assert "pkarr_relay: shutdown" in journal(booted)
