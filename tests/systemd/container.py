"""Boots Debian 12 with its own systemd in a container and installs the daemon there as the unit's comment says."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "x0tta6bl4-tests"
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter")
MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
PACKAGES = ("systemd", "systemd-sysv", "libpam-systemd", "dbus", "polkitd", "python3", "python3-venv", "procps")
PYTHON = "3.11"
"""Of that Debian; the wheels are fetched for it, whatever runs the tests."""
PATIENCE = 60.0
"""Seconds that something which must happen may take on a busy machine; nobody waits for it when all is well."""
CONFIG = "/etc/x0tta6bl4/x0tta6bl4.yaml"
PROGRAM = "/opt/x0tta6bl4/bin/x0tta6bl4"
DROP_IN = "/run/systemd/system/x0tta6bl4.service.d/50-test.conf"


def commands_of_the_comment(unit: str) -> list[str]:
    """What the unit's comment tells people to type: the lines of it that are indented."""
    return [line[1:].strip() for line in unit.splitlines() if line.startswith("#   ") and not line.startswith("#   -")]


class Machine:
    """A booted container. What is run in it comes from outside, with the rights of its root."""

    def __init__(self, leader: int) -> None:
        self.leader = leader

    def try_(self, *argv: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        inside = [
            "nsenter",
            f"--target={self.leader}",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "/usr/bin/env",
            "--chdir=/src",
            "-i",
            "PATH=/usr/sbin:/usr/bin",
            "LANG=C.UTF-8",
            "HOME=/root",
            "PIP_NO_INDEX=1",
            "PIP_FIND_LINKS=/wheels",
            "PIP_DISABLE_PIP_VERSION_CHECK=1",
        ]
        return subprocess.run(
            [*inside, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )

    def run(self, *argv: str, timeout: float = PATIENCE) -> str:
        """Its output. It must end with 0."""
        done = self.try_(*argv, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        script = 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"'
        self.run("sh", "-c", script, "sh", path, text)

    def read(self, path: str) -> str:
        return self.run("cat", path)

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", f"--property={name}", "--value", unit)

    def main_pid(self, unit: str) -> int:
        return int(self.property(unit, "MainPID"))

    def kill(self, unit: str, number: str = "KILL") -> int:
        """Sends a signal to a unit's main process, behind systemd's back."""
        pid = self.main_pid(unit)
        assert pid > 0, f"{unit} has no main process: {self.try_('systemctl', 'status', unit).stdout}"
        self.run("kill", f"-{number}", str(pid))
        return pid

    def log(self, unit: str, lines: int = 60) -> str:
        return self.try_("journalctl", "--no-pager", f"--unit={unit}", f"--lines={lines}", "--output=cat").stdout

    def wait(self, what: str, holds: Callable[[], Any], patience: float = PATIENCE) -> Any:
        deadline = time.monotonic() + patience
        while True:
            answer = holds()
            if answer:
                return answer
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {patience:g} s. The daemon's last words:\n{self.log('x0tta6bl4', 40)}")
            time.sleep(0.1)

    def wait_active(self, unit: str, other_than: int = 0) -> int:
        """Until the unit is active with another main process than that; its pid."""

        def active() -> int:
            shown = self.run("systemctl", "show", "--property=ActiveState,MainPID", unit)
            fields = dict(line.split("=", 1) for line in shown.splitlines())
            pid = int(fields["MainPID"])
            return pid if fields["ActiveState"] == "active" and pid not in (0, other_than) else 0

        found = self.wait(f"{unit} is active again", active)
        assert isinstance(found, int)
        return found

    # -- services to be healed, and the one that heals --

    def install(self, name: str, port: int = 0, service: str = "Restart=no", unit: str = "") -> None:
        """A sample service under a user of its own; without a port it is a program that only sleeps."""
        sample = f"/opt/x0tta6bl4/bin/python -m x0tta6bl4.demo.victim --port {port}"
        command = sample if port else "/usr/bin/sleep infinity"
        self.write(
            f"/etc/systemd/system/{name}.service",
            f"[Unit]\nDescription={name}\n{unit}\n[Service]\nDynamicUser=yes\nExecStart={command}\n{service}\n",
        )

    def break_(self, port: int, kind: str) -> None:
        self.run(
            "/opt/x0tta6bl4/bin/python", "-c", f"from x0tta6bl4.demo import breaker; breaker.break_({port}, {kind!r})"
        )

    def answers(self, port: int) -> bool:
        script = f"from x0tta6bl4.demo import breaker; raise SystemExit(breaker.ask({port}, timeout=2).status != 200)"
        return self.try_("/opt/x0tta6bl4/bin/python", "-c", script).returncode == 0

    def configure(self, config: Mapping[str, Any]) -> None:
        self.write(CONFIG, json.dumps(config))  # JSON is YAML

    def start_daemon(self, config: Mapping[str, Any], drop_in: str = "") -> None:
        """A daemon without a past; it is ready when this returns."""
        self.stop_daemon()
        self.run("sh", "-c", "rm -rf /var/lib/x0tta6bl4 /run/systemd/system/x0tta6bl4.service.d")
        if drop_in:
            self.write(DROP_IN, f"[Service]\n{drop_in}\n")
        self.run("systemctl", "daemon-reload")
        self.configure(config)
        self.run("systemctl", "start", "x0tta6bl4")

    def stop_daemon(self) -> None:
        self.run("systemctl", "stop", "x0tta6bl4")

    def ask(self, *words: str) -> Any:
        """The command line's answer, for programs."""
        return json.loads(self.run(PROGRAM, *words, "--output", "json"))

    def actions(self, subject: str) -> list[Mapping[str, Any]]:
        """All that was ever done for it, each with its outcome."""
        listed = self.ask("incidents", "--all", "--subject", subject)
        ids = dict.fromkeys(re.findall(r"inc-[\w-]+", json.dumps(listed)))
        found: list[Mapping[str, Any]] = []
        for id_ in ids:
            for case in (told := self.ask("why", id_))["incidents"] or [told["last_incident"]]:
                found += case["actions"]
        return found


def why_not() -> str:
    """What is missing here; empty when a container can be booted."""
    if os.geteuid() != 0:
        return "booting a container with systemd needs root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return (
            f"booting a container with systemd needs {', '.join(missing)} "
            "(apt-get install debootstrap systemd-container util-linux)"
        )
    return ""


@contextmanager
def booted_machine() -> Iterator[Machine]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two at a time would be in each other's way
        folder = CACHE / "machine"
        _remove(folder)
        wheels, system = _wheels(), _system()
        try:
            _call("cp", "-a", "--reflink=auto", str(system), str(folder))
            shutil.copytree(wheels, folder / "wheels")
            _copy_sources(folder / "src")
            with (CACHE / "console.log").open("w") as console, _booted(folder, console.fileno()) as machine:
                yield machine
        finally:
            _remove(folder)


@contextmanager
def _booted(folder: Path, console: int) -> Iterator[Machine]:
    # Where systemd runs this host too, it gives the container a scope; else there is nobody to ask for one.
    alone = [] if Path("/run/systemd/system").is_dir() else ["--keep-unit"]
    nspawn = subprocess.Popen(
        [
            "systemd-nspawn",
            f"--directory={folder}",
            "--boot",
            "--machine=x0tta6bl4-tests",
            "--register=no",
            *alone,
            "--settings=no",
            "--private-network",
            "--link-journal=no",
            "--console=pipe",
        ],
        stdin=subprocess.DEVNULL,
        stdout=console,
        stderr=console,
        start_new_session=True,
    )
    try:
        machine = Machine(_leader(nspawn))
        machine.wait(
            "systemd has booted",
            lambda: machine.try_("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"),
        )
        _install(machine)
        yield machine
    finally:
        nspawn.send_signal(signal.SIGTERM)  # it shuts the container down in order
        try:
            nspawn.wait(30)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait()


def _leader(nspawn: "subprocess.Popen[bytes]") -> int:
    """The container's process 1, by its number out here."""
    deadline = time.monotonic() + PATIENCE
    while nspawn.poll() is None and time.monotonic() < deadline:
        for task in Path(f"/proc/{nspawn.pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                comm = Path(f"/proc/{child}/comm")
                if comm.exists() and comm.read_text().strip() == "systemd":
                    return int(child)
        time.sleep(0.05)
    pytest.fail(f"the container did not boot; see {CACHE / 'console.log'}")


def _install(machine: Machine) -> None:
    """Line by line what the unit's comment says, but that pip finds the packages in a folder."""
    lines = commands_of_the_comment((UNITS / "x0tta6bl4.service").read_text())
    assert any("pip install ." in line for line in lines), lines
    for line in lines:
        if line.startswith("apt-get install"):
            wanted = set(line.split()[2:])
            assert wanted <= set(PACKAGES), f"{wanted} is not what the container was made of"
        else:
            machine.run("sh", "-c", line, timeout=300)


def _system() -> Path:
    """A bare Debian in the cache, made once."""
    key = hashlib.sha256(repr((MIRROR, SUITE, PACKAGES)).encode()).hexdigest()[:12]
    system = CACHE / f"system-{key}"
    if not system.is_dir():
        draft, packages = CACHE / "system.new", CACHE / "packages"
        _remove(draft)
        packages.mkdir(exist_ok=True)
        # What is thrown away when power fails need not be written through to the disk file by file.
        _call(
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            f"--cache-dir={packages}",
            SUITE,
            str(draft),
            MIRROR,
            DPKG_FORCE="unsafe-io",
        )
        for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            _remove(draft / waste)
        for name in ("apt-daily", "apt-daily-upgrade", "dpkg-db-backup", "e2scrub_all", "systemd-tmpfiles-clean"):
            (draft / "etc/systemd/system" / f"{name}.timer").symlink_to("/dev/null")
        draft.rename(system)
    return system


def _wheels() -> Path:
    """What the project needs to be built and run, for that Debian's Python, fetched once."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    key = hashlib.sha256(repr((PYTHON, wanted)).encode()).hexdigest()[:12]
    wheels = CACHE / f"wheels-{key}"
    if not wheels.is_dir():
        draft = CACHE / "wheels.new"
        _remove(draft)
        _call(
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            f"--dest={draft}",
            "--only-binary=:all:",
            f"--python-version={PYTHON}",
            *wanted,
        )
        draft.rename(wheels)
    return wheels


def _copy_sources(target: Path) -> None:
    target.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, target)
    # Not all of config/: the command line would take its example for the configuration meant.
    for name in ("x0tta6bl4", "systemd", "config/runbooks"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))


def _call(*argv: str, **environment: str) -> None:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{' '.join(argv)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


Subjects = Mapping[str, Mapping[str, Any]]


def config_with(subjects: Subjects, allow: Sequence[str] = ("systemd.*",), **more: Any) -> dict[str, Any]:
    return {"guard": {"mode": "auto", "allow": list(allow)}, "subjects": dict(subjects), **more}
