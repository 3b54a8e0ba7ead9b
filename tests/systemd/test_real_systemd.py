"""The daemon under a real systemd, installed as an operator does it: its unit, its rights, its deeds on other units."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from container import PROGRAM, ROOT, Machine, config_with

pytestmark = pytest.mark.systemd

DAEMON = "x0tta6bl4.service"
DROP_INS = ROOT / "systemd" / "drop-ins"
LISTED = ("victim", "steady", "stubborn", "limited", "slow", "idle", "absent")
"""What the polkit rule names in these tests. `absent` is a unit that does not exist."""
PORT = 8391


def subject(unit: str, **more: Any) -> dict[str, Any]:
    return {"unit": f"{unit}.service", "mode": "auto", **more}


VICTIM = subject("victim", work=f"http://127.0.0.1:{PORT}/work")


@pytest.fixture(scope="module", autouse=True)
def services(machine: Machine) -> Iterator[None]:
    rules = machine.read("/etc/polkit-1/rules.d/50-x0tta6bl4.rules")
    names = ", ".join(f'"{name}.service"' for name in LISTED)
    edited, count = re.subn(r"var UNITS = \[.*?\];", f"var UNITS = [{names}];", rules, flags=re.S)
    assert count == 1, "the rule has one list at its top"
    machine.write("/etc/polkit-1/rules.d/50-x0tta6bl4.rules", edited)
    machine.install("victim", PORT)
    machine.install("steady", service="Restart=always\nRestartSec=2", unit="StartLimitIntervalSec=0")
    machine.install("stubborn", service="Restart=on-failure", unit="StartLimitIntervalSec=0")
    machine.install("limited", service="Restart=on-failure", unit="StartLimitIntervalSec=60\nStartLimitBurst=2")
    machine.install(
        "slow",
        service="ExecStartPre=/bin/sh -c 'echo start >> /run/slow/starts; sleep 6'\n"
        "RuntimeDirectory=slow\nRuntimeDirectoryPreserve=yes\nRestart=no",
    )
    machine.install("idle")
    machine.install("foreign")
    machine.run("systemctl", "daemon-reload")
    yield
    machine.stop_daemon()


@pytest.fixture
def victim(machine: Machine) -> Machine:
    """The sample service runs, and a daemon without a past watches it."""
    machine.run("systemctl", "restart", "victim")
    machine.wait("the sample service answers", lambda: machine.answers(PORT))
    machine.start_daemon(config_with({"victim": VICTIM}))
    return machine


# -- the unit --


def test_the_units_exposure_is_at_most_2_and_systemd_understands_every_line(machine: Machine) -> None:
    told = machine.run(
        "systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", f"/src/systemd/{DAEMON}"
    )
    assert float(re.findall(r"Overall exposure level .*: ([0-9.]+)", told)[0]) <= 2.0
    for drop_in in sorted(DROP_INS.iterdir()):
        machine.write(f"/run/systemd/system/{DAEMON}.d/{drop_in.name}", drop_in.read_text())
    try:
        assert machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{DAEMON}") == ""
    finally:
        machine.run("rm", "-r", f"/run/systemd/system/{DAEMON}.d")


def test_it_is_active_only_after_its_first_full_cycle(machine: Machine) -> None:
    check = {"use": "command", "subject": "patience", "argv": ["/usr/bin/sleep", "4"]}
    machine.start_daemon({"monitors": {"slow-check": check}})

    def at(name: str) -> int:
        return int(machine.property(DAEMON, name))

    assert at("ActiveEnterTimestampMonotonic") - at("ExecMainStartTimestampMonotonic") >= 4_000_000
    assert machine.property(DAEMON, "StatusText").startswith("watching 0 subjects")


def test_it_runs_without_rights_beyond_its_user(victim: Machine) -> None:
    status = victim.read(f"/proc/{victim.main_pid(DAEMON)}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] == victim.run("id", "-u", "x0tta6bl4") != "0"
    assert {fields[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0000000000000000"}
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    assert "Traceback" not in victim.log(DAEMON)


def test_what_the_daemon_sees_of_the_host_is_the_host(victim: Machine) -> None:
    now = victim.ask("status")
    assert "blind" not in str(now.get("conditions")), now


# -- what is healed --


def test_a_killed_unit_without_restart_is_started_again_and_proved(victim: Machine) -> None:
    before = victim.kill("victim")
    victim.wait_active("victim", other_than=before)
    victim.wait("it answers again", lambda: victim.answers(PORT))
    done = victim.wait("the proof is written", lambda: [a for a in victim.actions("victim") if a["outcome"]])
    assert [(a["action"], a["outcome"]["result"]) for a in done] == [("systemd.restart", "verified")], done
    assert victim.property("victim", "NRestarts") == "0", "systemd did it, not the daemon"


def test_a_unit_that_ended_cleanly_by_itself_is_started_again(victim: Machine) -> None:
    before = victim.kill("victim", "TERM")
    victim.wait_active("victim", other_than=before)
    done = victim.wait("the proof is written", lambda: [a for a in victim.actions("victim") if a["outcome"]])
    assert [(a["action"], a["outcome"]["result"]) for a in done] == [("systemd.restart", "verified")], done


def test_a_hung_unit_is_restarted(victim: Machine) -> None:
    before = victim.main_pid("victim")
    time.sleep(1.5)  # some good answers: one that was never seen to work may take long to start
    victim.break_(PORT, "hang")
    victim.wait_active("victim", other_than=before)
    done = victim.wait("the proof is written", lambda: [a for a in victim.actions("victim") if a["outcome"]])
    assert [(a["action"], a["outcome"]["result"]) for a in done] == [("systemd.restart", "verified")], done
    assert victim.answers(PORT)


def test_a_unit_at_which_systemd_gave_up_is_taken_over(machine: Machine) -> None:
    machine.start_daemon(config_with({"limited": subject("limited")}))
    # After the daemon, whose start reloads systemd, which then begins to count anew.
    machine.run("systemctl", "restart", "limited")
    pid = machine.kill("limited")
    pid = machine.wait_active("limited", other_than=pid)
    assert machine.actions("limited") == [], "the first end is systemd's own business"
    machine.kill("limited")
    machine.wait_active("limited", other_than=pid)
    done = machine.wait("the proof is written", lambda: [a for a in machine.actions("limited") if a["outcome"]])
    assert [(a["action"], a["outcome"]["result"]) for a in done] == [("systemd.restart", "verified")], done
    assert "reset-failed" in done[0]["outcome"]["detail"]


# -- what is left alone --


def test_what_somebody_stopped_is_left_alone_and_why_says_so(victim: Machine) -> None:
    victim.run("systemctl", "stop", "victim")
    told = victim.wait("the daemon has made up its mind", lambda: _decision(victim, "victim"))
    assert told["check"] == "other healers" and told["answer"] == "deny"
    assert told["sentence"] == "somebody stopped victim.service (systemctl stop)"
    time.sleep(5)  # long enough for a healer that only hesitates
    assert victim.property("victim", "ActiveState") == "inactive"
    assert victim.actions("victim") == []
    assert "somebody stopped victim.service (systemctl stop)" in " ".join(victim.run(PROGRAM, "why", "victim").split())

    victim.run("systemctl", "start", "victim")
    victim.wait("the incident is over", lambda: not victim.ask("why", "victim")["incidents"])
    assert victim.actions("victim") == []


def test_what_nobody_has_started_since_the_boot_is_left_alone(machine: Machine) -> None:
    machine.start_daemon(config_with({"idle": subject("idle")}))
    told = machine.wait("the daemon has made up its mind", lambda: _decision(machine, "idle"))
    assert told["answer"] == "deny" and "not known to have run since the boot" in told["sentence"]
    time.sleep(2)
    assert machine.property("idle", "ActiveState") == "inactive"


@pytest.mark.parametrize(("name", "pause"), [("steady", "2 s"), ("stubborn", "100 ms")])
def test_what_systemd_restarts_itself_is_left_to_it(machine: Machine, name: str, pause: str) -> None:
    machine.run("systemctl", "restart", name)
    machine.start_daemon(config_with({name: subject(name)}))
    pid = machine.main_pid(name)
    for _ in range(3):
        machine.kill(name)
        pid = machine.wait_active(name, other_than=pid)
    time.sleep(1)
    assert machine.actions(name) == [], f"its unit waits {pause} and does it then"
    assert machine.property(name, "NRestarts") == "3", "a restart by others sets this to 0"


def test_a_unit_that_the_rule_does_not_name_is_refused_and_a_human_is_told(machine: Machine) -> None:
    machine.run("systemctl", "restart", "foreign")
    told = "/var/lib/x0tta6bl4/told.json"
    notify = {"notify": {"use": "notify", "command": {"argv": ["/usr/bin/tee", "--append", told]}}}
    machine.start_daemon(config_with({"foreign": subject("foreign")}, executors=notify))
    machine.kill("foreign")
    machine.wait("a human is told", lambda: machine.try_("test", "-s", told).returncode == 0)
    assert "foreign" in machine.read(told)
    refused = [a["outcome"] for a in machine.actions("foreign") if a["action"] == "systemd.restart"]
    assert refused and {outcome["result"] for outcome in refused} == {"refused"}
    assert "polkit" in refused[0]["detail"], "it should say what to do about it"
    assert machine.property("foreign", "ActiveState") == "failed"


@pytest.mark.parametrize(
    "words",
    [
        "systemctl restart foreign",
        "systemctl mask victim",
        "systemctl disable victim",
        "systemctl daemon-reload",
        "systemctl set-property --runtime victim CPUWeight=50",
        "systemctl edit-nothing",
        "systemctl isolate rescue.target",
        "systemd-run --unit=absent id",
        "systemctl poweroff",
        "systemctl freeze victim",
    ],
)
def test_the_rule_grants_nothing_else(machine: Machine, words: str) -> None:
    command, _, rest = words.partition(" ")
    done = machine.try_("runuser", "-u", "x0tta6bl4", "--", command, "--no-ask-password", *rest.split())
    assert done.returncode != 0
    if "nothing" not in words:
        assert re.search("authentication required|denied|not authorized", done.stdout, re.I), done.stdout


# -- the daemon itself --


def test_a_reload_with_mistakes_fails_and_changes_nothing(victim: Machine) -> None:
    pid = victim.main_pid(DAEMON)
    victim.configure({"subjects": {"victim": {"unit": "victim.service", "modus": "auto"}}})
    assert victim.try_("systemctl", "reload", DAEMON).returncode != 0
    assert "modus" in victim.log(DAEMON), "the journal says what is wrong"
    victim.kill(DAEMON, "HUP")  # past the check: the daemon looks for itself
    victim.wait("the daemon refuses", lambda: "reload refused" in victim.log(DAEMON))
    assert victim.main_pid(DAEMON) == pid and victim.property(DAEMON, "ActiveState") == "active"
    before = victim.kill("victim")
    victim.wait_active("victim", other_than=before)

    victim.configure(config_with({"victim": VICTIM, "steady": subject("steady")}))
    victim.run("systemctl", "reload", DAEMON)
    victim.wait(
        "the new one is in force", lambda: victim.property(DAEMON, "StatusText").startswith("watching 2 subjects")
    )
    assert victim.main_pid(DAEMON) == pid and victim.property(DAEMON, "ActiveState") == "active"


def test_a_daemon_that_hangs_is_killed_by_the_watchdog_and_comes_back(machine: Machine) -> None:
    machine.start_daemon({}, drop_in="WatchdogSec=3")
    time.sleep(5)
    assert machine.property(DAEMON, "NRestarts") == "0", "a sound one feeds its watchdog"
    pid = machine.kill(DAEMON, "STOP")
    machine.wait_active(DAEMON, other_than=pid)
    assert "Watchdog timeout" in machine.log(DAEMON)


def test_a_daemon_with_a_mistaken_configuration_never_gives_up_and_does_not_spin(machine: Machine) -> None:
    machine.start_daemon({})
    machine.configure({"guard": {"mod": "auto"}})
    machine.kill(DAEMON)
    machine.wait("it has ended over the mistake", lambda: machine.property(DAEMON, "ExecMainStatus") == "78")
    assert "mod" in machine.log(DAEMON, 10)
    restarts = int(machine.property(DAEMON, "NRestarts"))
    time.sleep(4)
    assert int(machine.property(DAEMON, "NRestarts")) == restarts
    machine.configure({})
    machine.wait_active(DAEMON)


def test_a_daemon_that_dies_during_an_action_repeats_nothing(machine: Machine) -> None:
    machine.run("systemctl", "restart", "slow")
    machine.start_daemon(config_with({"slow": subject("slow")}))
    machine.run("sh", "-c", ": > /run/slow/starts")
    machine.kill("slow")
    machine.wait("the restart is under way", lambda: machine.read("/run/slow/starts") == "start")
    before = machine.kill(DAEMON)
    machine.wait_active(DAEMON, other_than=before)
    machine.wait_active("slow")
    done = machine.wait("the outcome is known", lambda: [a for a in machine.actions("slow") if a["outcome"]])
    assert len(done) == 1, done
    assert machine.read("/run/slow/starts") == "start", "it was started twice"
    time.sleep(3)
    assert len(machine.actions("slow")) == 1


def test_programs_of_the_daemon_outlive_it_and_are_taken_up_again(machine: Machine) -> None:
    kept = {"process": ["/usr/bin/sleep", "86401"], "mode": "auto"}
    ended = {"process": {"command": ["/usr/bin/sleep", "86402"], "on_exit": "stop"}, "mode": "auto"}
    machine.start_daemon({"guard": {"allow": ["process.*"]}, "subjects": {"kept": kept, "ended": ended}})

    def pids(seconds: int) -> list[str]:
        return machine.try_("pgrep", "-f", f"sleep {seconds}$").stdout.split()

    first = pids(86401)
    assert len(first) == 1 and len(pids(86402)) == 1
    machine.run("systemctl", "stop", DAEMON)
    assert pids(86401) == first and pids(86402) == []
    machine.run("systemctl", "start", DAEMON)
    before = machine.kill(DAEMON)
    machine.wait_active(DAEMON, other_than=before)
    assert pids(86401) == first and len(pids(86402)) == 1
    machine.run("systemctl", "kill", "--kill-whom=all", "--signal=KILL", DAEMON)


def test_as_root_it_needs_no_rule(machine: Machine) -> None:
    machine.run("systemctl", "restart", "foreign")
    lines = (DROP_INS / "root.conf").read_text().partition("[Service]\n")[2]
    machine.start_daemon(config_with({"foreign": subject("foreign")}), drop_in=lines)
    before = machine.kill("foreign")
    machine.wait_active("foreign", other_than=before)
    done = machine.wait("the proof is written", lambda: [a for a in machine.actions("foreign") if a["outcome"]])
    assert [(a["action"], a["outcome"]["result"]) for a in done] == [("systemd.restart", "verified")], done


def test_it_cleans_only_where_the_drop_in_permits(machine: Machine) -> None:
    machine.run("sh", "-c", "mkdir -p /var/cache/example /var/cache/other && chmod 777 /var/cache/*")
    for folder in ("example", "other"):
        machine.run("sh", "-c", f"truncate -s 1M /var/cache/{folder}/a /var/cache/{folder}/b")
    lines = (DROP_INS / "cleanup.conf").read_text().partition("[Service]\n")[2]
    machine.start_daemon({}, drop_in=lines)
    pid = str(machine.main_pid(DAEMON))
    for folder, permitted in (("example", True), ("other", False)):
        file = f"/var/cache/{folder}/a"
        as_it = ("nsenter", f"--target={pid}", "--mount", "runuser", "-u", "x0tta6bl4", "--", "rm", file)
        done = machine.try_(*as_it)
        assert (done.returncode == 0) is permitted, done.stdout
        assert permitted or "Read-only file system" in done.stdout


ASKED = """
import http.client, json, ssl, sys

context = ssl.create_default_context(cafile="/etc/x0tta6bl4/tls.crt")
connection = http.client.HTTPSConnection("127.0.0.1", 8080, timeout=20, context=context)
key = open("/etc/x0tta6bl4/prometheus.key").read().strip()
wrong = json.dumps({"name": "nobody", "password": "not a password"})
for method, path, body, headers in (
    ("GET", "/metrics", None, {"Authorization": f"Bearer {key}"}),
    ("GET", "/metrics", None, {"Authorization": "Bearer " + key[::-1]}),
    ("POST", "/api/v1/session", wrong, {"Content-Type": "application/json"}),
):
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    reply.read()
    print(reply.status)
"""
"""Who shows the key, who shows another, who types a wrong password."""


def test_secrets_that_root_keeps_reach_the_endpoint_and_nobody_else(machine: Machine, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    drop_in = (DROP_INS / "credentials.conf").read_text()
    _make_pair(tmp_path)
    (tmp_path / "prometheus.key").write_text("0123456789abcdef" * 4 + "\n")
    for secret in tmp_path.iterdir():
        machine.write(f"/etc/x0tta6bl4/{secret.name}", secret.read_text())
        machine.run("chmod", "600", f"/etc/x0tta6bl4/{secret.name}")
    told = re.search(r"^#   status:\n(#     .*\n)+", drop_in, re.M)
    assert told is not None
    config = yaml.safe_load(re.sub("^# ", "", told[0], flags=re.M))
    machine.start_daemon(config_with({}, **config), drop_in=drop_in.partition("[Service]\n")[2])

    assert ["200", "401", "401"] == machine.run("/opt/x0tta6bl4/bin/python", "-c", ASKED).split()
    pid = str(machine.main_pid(DAEMON))
    kept, handed = "/etc/x0tta6bl4/tls.key", "/run/credentials/x0tta6bl4.service/tls.key"
    for user, secret, may in (("x0tta6bl4", handed, True), ("x0tta6bl4", kept, False), ("nobody", handed, False)):
        done = machine.try_("nsenter", f"--target={pid}", "--mount", "runuser", "-u", user, "--", "cat", secret)
        assert (done.returncode == 0) is may, (user, secret, done.stdout)


def _make_pair(folder: Path) -> None:
    asked = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    subprocess.run([*asked, *named, *files], check=True, capture_output=True)


def _decision(machine: Machine, name: str) -> Any:
    for case in machine.ask("why", name)["incidents"]:
        if case["decision"] is not None:
            return case["decision"]
    return None
