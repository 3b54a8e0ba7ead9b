"""From a file to a checked plan of the daemon: every mistake at once with its place, and one daemon a host."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4 import app
from x0tta6bl4.app import Daemon, HostLock, draw, host_parts, lock_file_of, read, state_dir_of
from x0tta6bl4.kernel.errors import AlreadyRunning, ConfigError
from x0tta6bl4.settings import plugins
from x0tta6bl4.settings.model import Settings

NOWHERE: Mapping[str, str] = {"STATE_DIRECTORY": "/nowhere"}


def write(folder: Path, text: str, name: str = "x.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(write(folder, text), NOWHERE)
    return [str(problem) for problem in caught.value.problems]


def one(folder: Path, text: str) -> str:
    (line,) = mistakes(folder, text)
    return line


GOOD = """
subjects:
  db: {process: [/bin/db], work: "tcp://127.0.0.1:5432"}
  web: {process: [/bin/web], work: "http://127.0.0.1:1/work", depends_on: [db], mode: auto}
guard: {allow: [process.*]}
"""


def test_three_lines_of_a_subject_are_unfolded_into_what_watches_and_treats_it(tmp_path: Path) -> None:
    _, blueprint = read(write(tmp_path, GOOD), NOWHERE)

    assert [p.name for p in blueprint.programs] == ["db", "web"]
    assert blueprint.subjects["web"].mode == "auto" and blueprint.subjects["db"].mode == "suggest"
    assert [c.name for c in blueprint.chosen["monitors"]] == [
        "host",
        "db.process",
        "db.work",
        "web.process",
        "web.work",
    ]
    assert blueprint.subjects["web"].controller["restart"] == "process.restart"
    assert [c.name for c in blueprint.chosen["planners"]] == ["runbook"]


def test_every_mistake_of_a_file_is_told_at_once_with_its_file_and_line(tmp_path: Path) -> None:
    text = """guard:
  allow: [proces.restart]
  equal_tries: 9
subjects:
  a: {work: "http://h/", depends_on: [c, b]}
  b: {work: "http://h/", depends_on: [a]}
  d: {process: [/x], unit: y.service}
  e: {work: "http://h/", rules: {dead: servicedown}}
  f: {work: gopher://h}
  g: {work: "http://h/", comands: {}}
monitors:
  load: {use: load_averge}
  load2: {use: load_average, per_cores: true}
  load3: {use: load_average, every: -1}
analyzers:
  busy: {use: threshold, limits: {x: {metric: load1}}}
executors:
  shell: {use: command, commands: {x: {argv: [relative]}}}
mapk: {}
"""
    told = mistakes(tmp_path, text)
    file = tmp_path / "x.yaml"
    for line, part in [
        (3, "guard.equal_tries"),
        (5, "there is no subject 'c'"),
        (5, "subjects.a.depends_on: it depends on itself"),
        (6, "subjects.b.depends_on: it depends on itself"),
        (7, "is said to be process and unit"),
        (8, "there is no runbook 'servicedown' (did you mean 'service-down'?)"),
        (9, "should look like http://host:port/path"),
        (10, "subjects.g.comands: no such setting (did you mean 'commands'?)"),
        (12, "no monitor is called 'load_averge'; did you mean 'load_average'?"),
        (13, "monitors.load2.per_cores"),
        (14, "monitors.load3.every"),
        (16, "give either above or below for 'load1'"),
        (18, "executors.shell"),
        (19, "no such section (did you mean 'mapek'?)"),
    ]:
        assert any(t.startswith(f"{file}:{line}: ") and part in t for t in told), (line, part, told)


def test_an_action_that_nobody_offers_is_a_mistake_in_the_allowlist(tmp_path: Path) -> None:
    line = one(tmp_path, "guard:\n  allow: [process.*, proces.restart]\n")

    assert "guard.allow[1]: no action is called so (got 'proces.restart')" in line
    assert line.startswith(f"{tmp_path}/x.yaml:2: ") and "did you mean 'process.restart'?" in line


def test_an_unknown_verb_of_a_known_executor_is_a_mistake_as_well(tmp_path: Path) -> None:
    assert "process.restrat" in one(tmp_path, "guard: {allow: [process.restrat]}\n")


def test_a_command_that_is_not_configured_is_a_mistake_of_the_subject(tmp_path: Path) -> None:
    line = one(tmp_path, "subjects:\n  web:\n    work: http://h/\n    commands: {reload: hup}\n")

    assert "subjects.web.commands.reload: there is no action 'command.hup'" in line


@pytest.mark.parametrize("circle", ["a: [a]", "a: [b], b: [a]", "a: [b], b: [c], c: [a]"])
def test_a_circle_of_dependencies_is_refused(tmp_path: Path, circle: str) -> None:
    subjects = "\n".join(
        f"  {name.strip()}: {{work: 'http://h/', depends_on: {on.strip()}}}"
        for name, on in (part.split(":") for part in circle.replace("], ", "]; ").split(";"))
    )
    told = mistakes(tmp_path, f"subjects:\n{subjects}\n")

    assert len(told) == circle.count("[")
    assert all("it depends on itself" in line and "x.yaml:" in line for line in told)


def test_who_only_depends_on_a_circle_is_not_accused_of_it(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path, "subjects:\n  a: {work: 'http://h/', depends_on: [a]}\n  b: {work: 'http://h/', depends_on: [a]}\n"
    )

    assert ["subjects.a" in line for line in told] == [True]


def test_a_diamond_is_no_circle(tmp_path: Path) -> None:
    read(
        write(
            tmp_path,
            "subjects:\n  a: {work: 'http://h/', depends_on: [b, c]}\n"
            "  b: {work: 'http://h/', depends_on: [d]}\n  c: {work: 'http://h/', depends_on: [d]}\n"
            "  d: {work: 'http://h/'}\n",
        ),
        NOWHERE,
    )


def test_there_is_exactly_one_planner(tmp_path: Path) -> None:
    assert "there must be exactly one planner; 0 are enabled" in one(
        tmp_path, "planners: {runbook: {enabled: false}}\n"
    )
    assert "there must be exactly one planner; 2 are enabled" in one(tmp_path, "planners: {mine: {use: runbook}}\n")


RULE = "{runbook: mine, summary: s, trigger: {anomaly: hung}, initial: %s, states: {a: {final: true}}}"


def test_own_rules_come_from_folders_files_and_the_settings_and_their_mistakes_are_told(tmp_path: Path) -> None:
    write(tmp_path, RULE % "b", "bad-rule.yaml")
    told = mistakes(
        tmp_path,
        f"runbooks:\n  - {tmp_path}/bad-rule.yaml\n  - {tmp_path}/gone.yaml\n  - 5\n"
        f"  - {RULE % 'c'}\nrules_dirs: [{tmp_path}/nowhere]\n",
    )

    for part in (
        f"{tmp_path}/bad-rule.yaml:1: mine.initial: there is no state 'b'",
        "gone.yaml: No such file",
        "runbooks[2]: is neither a path nor a runbook (got 5)",
        "there is no state 'c'",
        "there is no folder",
    ):
        assert any(part in line for line in told), (part, told)


def test_a_mistake_in_the_rules_of_the_planner_section_is_found_before_anything_starts(tmp_path: Path) -> None:
    assert "there is no state 'b'" in one(tmp_path, f"planners: {{runbook: {{rules: [{RULE % 'b'}]}}}}\n")


def test_a_subject_may_choose_a_rule_of_ones_own(tmp_path: Path) -> None:
    _, blueprint = read(
        write(tmp_path, f"runbooks: [{RULE % 'a'}]\nsubjects: {{web: {{work: 'http://h/', rules: {{hung: mine}}}}}}\n"),
        NOWHERE,
    )

    assert blueprint.subjects["web"].rules == {"hung": "mine"}


@pytest.mark.parametrize("name", ["web.example.com", "web front", "ünïcode", "a'b"])
def test_a_mistake_is_placed_whatever_the_subject_is_called(tmp_path: Path, name: str) -> None:
    line = one(tmp_path, f'subjects:\n  "{name}": {{work: "http://h/", depends_on: [nobody]}}\n')

    assert line.startswith(f"{tmp_path}/x.yaml:2: ")


# -- plugins ---------------------------------------------------------------------------------------------------------


def foreign(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints(points).select(group=group))


def test_two_plugins_of_one_name_are_an_error_and_no_race(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = EntryPoint("http", "other.http:PLUGIN", "x0tta6bl4.monitors")
    foreign(
        monkeypatch,
        ours,
        EntryPoint("odd", "a:PLUGIN", "x0tta6bl4.monitors"),
        EntryPoint("odd", "b:PLUGIN", "x0tta6bl4.monitors"),
    )

    assert (
        plugins.find("monitors", "http")
        == "more than one plugin is called 'http' (x0tta6bl4, other.http:PLUGIN); uninstall all but one"
    )
    assert "(a:PLUGIN, b:PLUGIN)" in str(plugins.find("monitors", "odd"))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("import nothing_of_that_name\nPLUGIN = 1\n", "needs something that is not installed"),
        ("x = 1\n", "is no plugin"),
        ("PLUGIN = 1\n", "does not declare itself as one of the monitors"),
        ("def broken(:\n", "cannot be loaded"),
        ("1 / 0\n", "cannot be loaded"),
    ],
)
def test_a_foreign_plugin_that_cannot_be_used_is_a_mistake_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, part: str
) -> None:
    write(tmp_path, content, "foreign_plugin.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "foreign_plugin", raising=False)
    foreign(monkeypatch, EntryPoint("theirs", "foreign_plugin:PLUGIN", "x0tta6bl4.monitors"))

    assert part in one(tmp_path, "monitors: {m: {use: theirs}}\n")


def test_a_foreign_plugin_works_as_ours_do_and_only_what_is_named_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "from x0tta6bl4.monitors.load_average import PLUGIN\n", "foreign_good.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    foreign(
        monkeypatch,
        EntryPoint("theirs", "foreign_good:PLUGIN", "x0tta6bl4.monitors"),
        EntryPoint("unused", "foreign_that_is_not_there:PLUGIN", "x0tta6bl4.monitors"),
    )
    _, blueprint = read(write(tmp_path, "monitors: {m: {use: theirs, every: 5s}}\n"), NOWHERE)

    assert [(c.name, c.keys.every) for c in blueprint.chosen["monitors"]] == [("host", None), ("m", 5.0)]


# -- places ----------------------------------------------------------------------------------------------------------


def test_relative_paths_lie_beside_the_file_wherever_the_daemon_is_started(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    file = write(
        tmp_path / "conf",
        "state_dir: ../var\nlock_file: ../run/x.lock\n"
        "subjects: {web: {process: ['${python}', '${config_dir}/a', '${state_dir}/b'], "
        "work: 'http://h/'}}\n",
    )
    _, blueprint = read(file, {})

    assert blueprint.places.state_dir == tmp_path / "var"
    assert lock_file_of(blueprint.settings, blueprint.places.config_dir) == tmp_path / "run/x.lock"
    assert blueprint.programs[0].argv == (sys.executable, f"{tmp_path}/conf/a", f"{tmp_path}/var/b")


def test_systemd_says_where_state_and_lock_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/x0t:/run/other")
    assert lock_file_of(Settings(), Path("/etc")) == Path("/run/x0t/daemon.lock")
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/oncall/.state")
    assert state_dir_of(Settings(), Path("/etc")) == Path("/home/oncall/.state/x0tta6bl4")
    assert lock_file_of(Settings(), Path("/etc")) == Path("/home/oncall/.state/x0tta6bl4/daemon.lock")


def test_drawing_touches_nothing(tmp_path: Path) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path / "state", "subjects": {"w": {"process": ["/bin/x"]}}})
    _, problems = draw(settings, None)

    assert problems == []
    assert list(tmp_path.iterdir()) == []


# -- one daemon a host -----------------------------------------------------------------------------------------------

ABOUT = {"pid": 4711, "since": "yesterday", "config": "/etc/x.yaml"}


def test_a_second_daemon_is_told_who_holds_the_host(tmp_path: Path) -> None:
    first, second = HostLock(tmp_path / "deep" / "d.lock"), HostLock(tmp_path / "deep" / "d.lock")
    first.take(ABOUT)
    with pytest.raises(AlreadyRunning, match=r"pid 4711, since yesterday, with /etc/x.yaml") as caught:
        second.take({"pid": 1})
    assert "stop that one first" in caught.value.remedy
    assert json.loads((tmp_path / "deep" / "d.lock").read_text()) == ABOUT, "and does not overwrite it"

    first.release()
    first.release()
    second.take(ABOUT)
    second.release()


def test_a_holder_that_has_not_said_who_it_is_still_holds(tmp_path: Path) -> None:
    first = HostLock(tmp_path / "d.lock")
    first.take(ABOUT)
    for text in ("", "{}", "[1]", "not json"):
        (tmp_path / "d.lock").write_text(text)
        with pytest.raises(AlreadyRunning, match="another daemon runs the loop on this host"):
            HostLock(tmp_path / "d.lock").take({})
    first.release()


def test_the_lock_ends_with_the_process_however_that_ends(tmp_path: Path) -> None:
    program = (
        "import sys, os; from pathlib import Path; from x0tta6bl4.app import HostLock; "
        "lock = HostLock(Path(sys.argv[1])); lock.take({'pid': os.getpid(), 'since': 'now', 'config': 'c'}); "
        "print('taken', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "d.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(app.__file__).parents[1])},
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"taken\n"
        with pytest.raises(AlreadyRunning, match=f"pid {holder.pid}, "):
            HostLock(tmp_path / "d.lock").take({})
    finally:
        holder.kill()
        holder.communicate()
    lock = HostLock(tmp_path / "d.lock")
    lock.take(ABOUT)
    lock.release()


def test_a_lock_where_nobody_may_write_or_behind_a_link_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, "", "file")
    with pytest.raises(ConfigError, match="lock_file: cannot open"):
        HostLock(tmp_path / "file" / "d.lock").take(ABOUT)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(ConfigError, match="lock_file: cannot open"):
        HostLock(tmp_path / "link").take(ABOUT)


# -- reload ----------------------------------------------------------------------------------------------------------


def test_a_reload_with_a_mistake_keeps_the_old_configuration_and_shows_the_mistake(tmp_path: Path) -> None:
    async def story() -> None:
        file = write(tmp_path, GOOD + f"state_dir: {tmp_path}/state\n")
        daemon = Daemon(file)
        before = daemon.blueprint
        write(tmp_path, GOOD.replace("mode: auto", "mode: atuo") + "nonsense: 1\n")
        told = await daemon.reload()

        assert len(told) == 2
        assert daemon.blueprint is before and daemon.loaded.settings == before.settings
        assert not daemon.last_reload.ok
        (condition,) = daemon.conditions()
        assert "the one before is still in force" in condition.title and "atuo" in condition.meaning
        assert b"x0tta6bl4_config_last_reload_successful 0" in daemon.metrics.exposition()[0]

        write(tmp_path, GOOD + f"state_dir: {tmp_path}/state\nmapek: {{interval: 5s}}\n")
        assert list(await daemon.reload()) == []
        assert daemon.last_reload.ok and daemon.conditions() == []
        assert daemon.loaded.settings.mapek.interval == 5.0

    asyncio.run(story())


def test_a_loop_without_parts_watches_this_host_and_may_do_nothing() -> None:
    parts: Any = host_parts()

    assert [i.name for i in parts.instances] == ["host"]
    assert parts.policy.allow == [] and parts.policy.mode == "suggest"


def test_a_configuration_that_was_changed_and_not_taken_over_is_told(tmp_path: Path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text("mapek: {interval: 60}\n")
    daemon = Daemon(config)
    before = [condition.code for condition in daemon.conditions()]
    config.write_text("mapek: {interval: 30, timeout: 10}\n")
    after = [condition.code for condition in daemon.conditions()]

    assert before == []
    assert after == ["config-changed"]


def test_the_threshold_of_the_environment_is_the_sensitivity_of_what_learns(tmp_path: Path) -> None:
    text = (
        GOOD + "analyzers: {second: {use: baseline, sensitivity: 3}, host: {sensitivity: 5}, off: {use: threshold}}\n"
    )
    _, usual = read(write(tmp_path, text), NOWHERE)
    _, blunt = read(write(tmp_path, text), {**NOWHERE, "MAPEK_ANOMALY_THRESHOLD": "4"})
    found = [
        {c.name: c.config.sensitivity for c in blueprint.chosen["analyzers"] if hasattr(c.config, "sensitivity")}
        for blueprint in (usual, blunt)
    ]
    limits = []
    for blueprint in (usual, blunt):
        (chosen,) = [c for c in blueprint.chosen["analyzers"] if c.name == "baseline"]
        engine = chosen.plugin.build(chosen.name, chosen.config, app.tools_of(blueprint, None, None)).known.engine
        (row,) = engine.add(1)
        limits.append(float(engine.limits[row]))

    assert [{"baseline": base, "second": 3.0, "host": 5.0} for base in (2.0, 4.0)] == found
    assert limits[1] == pytest.approx(2 * limits[0])
