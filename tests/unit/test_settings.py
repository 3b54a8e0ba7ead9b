"""Settings: who beats whom, where each value came from, and that every mistake is told at once with its place."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from x0tta6bl4.kernel.errors import ConfigError, Problem
from x0tta6bl4.kernel.units import Seconds, Size
from x0tta6bl4.settings.document import parse
from x0tta6bl4.settings.load import SYNONYMS, VARIABLES, Loaded, get_settings, load, watched_paths
from x0tta6bl4.settings.model import Section, Settings
from x0tta6bl4.settings.show import reference, rows
from x0tta6bl4.settings.watch import Changes

NOWHERE: Mapping[str, str] = {"STATE_DIRECTORY": "/nowhere"}


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def problems(path: Path | None = None, environ: Mapping[str, str] = NOWHERE, **more: object) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ, more)
    return caught.value.problems


def origin(loaded: Loaded, key: str) -> str:
    return {row.key: row.origin for row in rows(loaded)}[key]


def test_nothing_at_all_is_a_working_and_harmless_configuration() -> None:
    loaded = load(None, NOWHERE, {})

    assert loaded.settings.guard.mode == "suggest"
    assert loaded.settings.guard.allow == []
    assert loaded.settings.status.host == "127.0.0.1"
    assert loaded.settings == Settings(state_dir=Path("/nowhere"))


def test_an_empty_section_is_the_section_with_its_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, "x.yaml", "mapek:\nguard:\n  storm:\n  allow:\nmonitors:\nsubjects:\n  web:\n")
    loaded = load(file, NOWHERE, {}).settings

    assert loaded == Settings(state_dir=Path("/nowhere"), subjects={"web": {}})


def test_a_value_left_empty_is_a_mistake_where_a_value_is_needed(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, "x.yaml", "mapek:\n  interval:\n"))

    assert (problem.where, problem.line) == ("mapek.interval", 2)


def test_later_beats_earlier_and_each_value_tells_where_it_came_from(tmp_path: Path) -> None:
    file = write(tmp_path, "x.yaml", "status:\n  port: 1\n  host: h1\n  workers: 2\nmapek:\n  interval: 5s\n")
    second = write(tmp_path, "conf.d/20-b.yaml", "status: {workers: 4}\n")
    first = write(tmp_path, "conf.d/10-a.yaml", "status: {workers: 3, host: h2}\n")
    write(tmp_path, "conf.d/.hidden.yaml", "status: {workers: 9}\n")
    write(tmp_path, "conf.d/note.txt", "not a setting")
    environ = {"PORT": "2", "X0TTA6BL4__STATUS__PORT": "3", "STARK_API_PORT": "4", "HOST": "h3", **NOWHERE}
    loaded = load(file, environ, {"status.host": "h4", "status.port": None})
    status = loaded.settings.status

    assert (status.port, status.host, status.workers, loaded.settings.mapek.interval) == (3, "h4", 4, 5.0)
    assert loaded.files == (file, first, second)
    assert origin(loaded, "status.port") == "environment variable X0TTA6BL4__STATUS__PORT"
    assert origin(loaded, "status.host") == "option status.host"
    assert origin(loaded, "status.workers") == f"{second}:1"
    assert origin(loaded, "mapek.interval") == f"{file}:6"
    assert origin(loaded, "mapek.timeout") == "default"
    assert origin(loaded, "state_dir") == "environment variable STATE_DIRECTORY"


def test_every_variable_of_the_list_sets_what_it_names(tmp_path: Path) -> None:
    environ = {
        "ENVIRONMENT": "Production",
        "X0TTA6BL4_PRODUCTION": "true",
        "PQC_BACKEND": "liboqs",
        "PQC_REQUIRED": "true",
        "MAPEK_ENABLED": "false",
        "MAPEK_CYCLE_INTERVAL_SECONDS": "61",
        "MAPEK_TIMEOUT_SECONDS": "31",
        "MAPEK_ANOMALY_THRESHOLD": "2.5",
        "HOST": "0.0.0.0",
        "PORT": "8081",
        "WORKERS": "4",
        "HTTPS_ONLY": "true",
        "RATE_LIMIT_PER_MINUTE": "99",
        "CORS_ORIGINS": '["http://localhost:3000"]',
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "text",
        "LOG_FILE": "/var/log/x0tta6bl4/app.log",
        "PROMETHEUS_PORT": "9090",
        "METRICS_ENABLED": "false",
        "HEALTH_CHECK_INTERVAL_SECONDS": "29",
        "REDIS_HOST": "cache",
        "OPENAI_API_KEY": "sk-abcdefgh",
        "OPENAI_API_KEY_FILE": "/run/key",
    }
    assert environ.keys() == VARIABLES.keys()

    loaded = load(None, {**NOWHERE, **environ}, {}).settings

    assert loaded.in_production and loaded.environment == "production" and loaded.production
    assert (loaded.pqc.backend, loaded.pqc.required) == ("liboqs", True)
    assert loaded.mapek.model_dump() == {"enabled": False, "interval": 61, "timeout": 31, "anomaly_threshold": 2.5}
    assert loaded.status.model_dump() == {
        "enabled": True,
        "host": "0.0.0.0",
        "port": 8081,
        "workers": 4,
        "tls": None,
        "local_read": True,
        "api_keys": {},
        "trusted_proxies": [],
        "https_only": True,
        "rate_limit_per_minute": 99,
        "cors_origins": ["http://localhost:3000"],
        "prometheus_port": 9090,
        "metrics_enabled": False,
        "metrics_open": False,
        "health_check_interval": 29,
    }
    assert (loaded.logging.LOG_LEVEL, loaded.logging.format) == ("DEBUG", "text")
    assert loaded.logging.file == Path("/var/log/x0tta6bl4/app.log")
    assert (loaded.redis.REDIS_HOST, loaded.llm.OPENAI_API_KEY) == ("cache", "sk-abcdefgh")


def test_the_older_names_count_when_nothing_else_is_said() -> None:
    environ = {
        "STARK_ENV": "staging",
        "STARK_API_HOST": "::1",
        "STARK_API_PORT": "8000",
        "STARK_EVENT_QUEUE_MAX_SIZE": "10",
        "STARK_EVENT_HISTORY_SIZE": "5",
        "STARK_LOG_LEVEL": "WARNING",
    }
    assert environ.keys() == SYNONYMS.keys()

    loaded = load(None, {**NOWHERE, **environ, "LOG_LEVEL": "ERROR", "PORT": ""}, {}).settings

    assert (loaded.environment, loaded.status.host, loaded.status.port) == ("staging", "::1", 8000)
    assert (loaded.events.max_queue_size, loaded.events.history_size) == (10, 5)
    assert loaded.logging.level == "ERROR"


def test_any_key_can_be_set_from_the_environment(tmp_path: Path) -> None:
    file = write(tmp_path, "x.yaml", "monitors:\n  web-1.Front:\n    use: http\n")
    environ = {
        **NOWHERE,
        "X0TTA6BL4__GUARD__ALLOW": "[process.restart, 'systemd.*']",
        "X0TTA6BL4__GUARD__PER_TARGET__COUNT": "7",
        "X0TTA6BL4__MONITORS__WEB_1_FRONT__EVERY": "30",
        "X0TTA6BL4__MONITORS__NEW__USE": "yes",
        "X0TTA6BL4__FLAGS__AUTO_HEALING": "true",
        "X0TTA6BL4__LOGGING__FILE": "",
    }
    loaded = load(file, environ, {}).settings

    assert loaded.guard.allow == ["process.restart", "systemd.*"]
    assert (loaded.guard.per_target.count, loaded.guard.per_target.window) == (7, 600)
    assert loaded.monitors == {"web-1.Front": {"use": "http", "every": 30}, "new": {"use": "yes"}}
    assert loaded.flags == {"auto_healing": True}


def test_all_mistakes_are_told_at_once_with_place_value_and_the_nearest_name(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "x.yaml",
        "planner: {}\nmapek:\n  intervall: 5\n  timeout: -1\nguard:\n  mode: aut\n  backoff: {base: 9, cap: 1}\n"
        "  per_kind: {windows: 1}\nflags:\n  auto_heal: true\n",
    )
    drop_in = write(tmp_path, "conf.d/a.yaml", "status:\n  port: http\n  port: 8080\n")
    found = problems(
        file, {**NOWHERE, "WORKERS": "many", "LOG_LEVEL": "warn", "X0TTA6BL4__NO__SUCH": "1"}, **{"status.host": "a b"}
    )
    told = {problem.where: problem for problem in found}

    assert str(told["planner"]) == f"{file}:1: planner: no such section (did you mean 'planners'?)"
    assert str(told["mapek.intervall"]) == f"{file}:3: mapek.intervall: no such setting (did you mean 'interval'?)"
    assert str(told["mapek.timeout"]) == f"{file}:4: mapek.timeout: a duration cannot be negative (got -1)"
    assert (told["guard.mode"].line, told["guard.mode"].hint) == (6, "did you mean 'auto'?")
    assert "(got 'aut')" in told["guard.mode"].message
    assert told["logging.level"].hint == "did you mean 'WARNING'?"
    assert (told["guard.backoff"].line, told["guard.per_kind.windows"].line) == (7, 8)
    assert told["guard.per_kind.windows"].hint == "did you mean 'window'?"
    assert told["flags.auto_heal"].line == 10
    assert (told["status.port"].file, told["status.port"].line) == (str(drop_in), 3)
    assert told["status.workers"].file == "environment variable WORKERS"
    assert told["no"].file == "environment variable X0TTA6BL4__NO__SUCH"
    assert told["status.host"].file == "option status.host"
    assert len(found) == 12


def test_a_file_that_cannot_be_read_hides_no_mistake_in_another(tmp_path: Path) -> None:
    write(tmp_path, "conf.d/a.yaml", "status: [\n")
    write(tmp_path, "conf.d/b.yaml", "status: {prot: 1}\n")
    found = problems(tmp_path / "missing.yaml")

    assert [Path(problem.file).name for problem in found] == ["missing.yaml", "a.yaml", "b.yaml"]


def test_a_check_finds_more_mistakes_and_gets_their_places(tmp_path: Path) -> None:
    file = write(tmp_path, "x.yaml", "monitors:\n  load:\n    use: nothing\nstatus:\n  port: -1\nmapek: 5\n")

    def check(loaded: Settings) -> Iterator[Problem]:
        for name in loaded.monitors:
            yield Problem(f"monitors.{name}.use.deeper", "no such plugin")
        yield Problem("status.port", "cannot be judged while its section is broken")

    with pytest.raises(ConfigError) as caught:
        load(file, NOWHERE, {}, checks=[check])
    places = sorted((problem.line, problem.where) for problem in caught.value.problems)

    assert places == [(3, "monitors.load.use.deeper"), (5, "status.port"), (6, "mapek")]


def test_checks_do_not_run_on_a_configuration_that_was_read_in_part(tmp_path: Path) -> None:
    file = write(tmp_path, "x.yaml", "monitors:\n  a: {}\n\tb: {}\n")
    asked: list[Settings] = []

    def check(loaded: Settings) -> list[Problem]:
        asked.append(loaded)
        return []

    with pytest.raises(ConfigError):
        load(file, NOWHERE, {}, checks=[check])

    assert asked == []


@pytest.mark.parametrize(
    "text",
    [
        "llm: {openai_api_key: hunter2-secret}",
        "llm: hunter2-secret",
        "llm: {openai_api_kee: hunter2-secret}",
        "redis: {pasword: hunter2-secret}",
        "status: {port: 'http://joe:hunter2-secret@host'}",
        "status: {port: 'password=hunter2-secret'}",
        "status: {port: 'Bearer hunter2-secret'}",
        "monitors: {a: hunter2-secret}",
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_never_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, "x.yaml", text), NOWHERE, {})

    assert "hunter2-secret" not in str(caught.value)


def test_a_key_is_refused_as_an_option_too_and_taken_from_the_environment() -> None:
    (problem,) = problems(None, NOWHERE, **{"llm.openai_api_key": "sk-hunter2"})
    loaded = load(None, {**NOWHERE, "X0TTA6BL4__LLM__OPENAI_API_KEY": "sk-hunter2"}, {})

    assert "sk-hunter2" not in str(problem)
    assert loaded.settings.llm.OPENAI_API_KEY == "sk-hunter2"
    assert "sk-hunter2" not in repr(loaded)
    assert "sk-hunter2" not in "".join(row.value for row in rows(loaded))


def test_a_key_in_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    key = write(tmp_path, "key", "first\n")
    llm = load(None, {**NOWHERE, "OPENAI_API_KEY_FILE": str(key)}, {}).settings.llm

    assert llm.OPENAI_API_KEY == "first"

    key.write_text("second")

    assert llm.OPENAI_API_KEY == "second"

    key.unlink()

    with pytest.raises(ConfigError, match="cannot be read"):
        _ = llm.OPENAI_API_KEY


def test_the_redis_host_may_stand_in_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, "host", "cache.local\n")

    assert load(None, {**NOWHERE, "REDIS_HOST_FILE": str(file)}, {}).settings.redis.REDIS_HOST == "cache.local"
    assert problems(None, {"REDIS_HOST_FILE": str(tmp_path / "no")})[0].file == "environment variable REDIS_HOST_FILE"


def test_secrets_are_hidden_in_the_rows_however_deep_they_lie(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "x.yaml",
        "monitors:\n  a:\n    headers: {Authorization: hunter2}\n    urls: ['http://u:hunter2@h/', {token: hunter2}]\n"
        "    token_file: /run/token\n",
    )
    shown = {row.key: row.value for row in rows(load(file, NOWHERE, {}))}

    assert "hunter2" not in "".join(shown.values())
    assert shown["monitors.a.token_file"] == "/run/token"
    assert shown["guard.per_target.window"] == "10m"


def test_the_state_folder_is_decided_by_who_runs_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load(None, {}, {}).settings.state_dir == Path("/var/lib/x0tta6bl4")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert load(None, {}, {}).settings.state_dir == Path("/home/someone/.local/state/x0tta6bl4")
    assert load(None, {"STATE_DIRECTORY": "/a:/b"}, {}).settings.state_dir == Path("/a")
    assert load(None, {"STATE_DIRECTORY": "/a"}, {"state_dir": "/c"}).settings.state_dir == Path("/c")


def test_maintenance_is_once_or_weekly(tmp_path: Path) -> None:
    good = (
        "guard:\n  maintenance:\n"
        "    - {from: 2030-01-31 22:00, until: 2030-02-01T02:00, timezone: Europe/Berlin, reason: new disks}\n"
        "    - {targets: [web-*], days: [Sat, sun], start: 22:00, end: 2:00, timezone: UTC}\n"
    )
    once, weekly = load(write(tmp_path, "x.yaml", good), NOWHERE, {}).settings.guard.maintenance

    assert (once.begins_at, once.ends_at) == (1896123600.0, 1896138000.0)
    assert weekly.start is not None and weekly.end is not None
    assert (weekly.start.hour, weekly.end.hour, weekly.days, weekly.begins_at) == (22, 2, ["sat", "sun"], None)

    bad = (
        "guard:\n  maintenance:\n"
        "    - {from: 2030-01-31 22:00}\n"
        "    - {from: 2030-01-31 22:00, until: 2030-01-30 22:00}\n"
        "    - {start: 22:00, end: 25:00}\n"
        "    - {start: 1, end: 2:00}\n"
        "    - {start: 22:00, end: 2:00, timezone: Middle/Earth}\n"
        "    - {start: 22:00, end: 2:00, days: [someday]}\n"
        "    - {from: 2030-01-31 22:00, until: 2031-01-01 00:00, start: 22:00, end: 2:00}\n"
        "    - {from: 0001-01-01 00:00, until: 9999-12-31 23:59, timezone: Asia/Tokyo}\n"
        "    - {}\n"
    )
    told = problems(write(tmp_path, "x.yaml", bad))

    assert [problem.line for problem in told if problem.line != 10] == [3, 4, 5, 6, 7, 8, 9, 11]


def test_the_settings_of_the_process_are_read_once_from_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "x.yaml", "redis: {host: from-file}\n")
    monkeypatch.setenv("X0TTA6BL4_CONFIG", str(file))
    monkeypatch.setenv("LOG_LEVEL", "warning")
    get_settings.cache_clear()
    try:
        found = get_settings()

        assert (found.redis.REDIS_HOST, found.logging.LOG_LEVEL) == ("from-file", "WARNING")
        assert get_settings() is found
    finally:
        get_settings.cache_clear()


class Probe(Section):
    """An outside part of the configuration."""

    url: str
    """Where to ask."""
    timeout: Seconds = 5
    """Seconds. Raised, ``slow`` answers count as good."""
    limit: Size = Field(default=64 * 1024, le=1024**2)
    """Bytes."""
    only: list[str] = Field(default_factory=list)
    """Names."""


def test_the_reference_changes_nothing_when_it_is_loaded(tmp_path: Path) -> None:
    text = reference({"": Settings, "monitors.http": Probe})
    file = write(tmp_path, "reference.yaml", text)

    assert load(file, NOWHERE, {}).settings == Settings(state_dir=Path("/nowhere"))
    assert text == reference({"monitors.http": Probe, "": Settings})


def test_the_reference_names_every_setting_with_its_meaning_and_its_type() -> None:
    text = reference({"": Settings, "monitors.http": Probe})
    tree = parse(text.encode(), "reference.yaml").value

    assert tree.keys() == Settings.model_fields.keys()
    assert tree["guard"].keys() == type(Settings().guard).model_fields.keys()
    for line in (
        "  # a whole number >= 0 <= 65535, or empty",
        "  interval: 1m",
        "#   http:",
        "#     use: http",
        "#     # text, must be given",
        "#     # Seconds. Raised, `slow` answers count as good.",
        "#     timeout: 5s",
        "#     # a size <= 1048576",
        "#     limit: 64KiB",
        "#     only: []",
    ):
        assert line in text.splitlines()


def test_every_setting_says_what_it_is() -> None:
    def fields(model: type[BaseModel]) -> Iterator[tuple[str, str | None]]:
        for name, field in model.model_fields.items():
            yield f"{model.__name__}.{name}", field.description
            default = field.get_default(call_default_factory=True, validated_data={})
            if isinstance(default, BaseModel):
                yield from fields(type(default))

    assert [name for name, description in fields(Settings) if not description] == []


def test_a_change_is_noticed_once_whether_a_file_is_edited_replaced_added_or_removed(tmp_path: Path) -> None:
    file = write(tmp_path, "x.yaml", "a: 1\n")
    changes = Changes(watched_paths(file))
    assert not changes.changed()

    drop_in = write(tmp_path, "conf.d/a.yaml", "a: 1\n")
    assert changes.changed()
    assert not changes.changed()

    drop_in.write_text("a: 12\n")
    assert changes.changed()

    other = write(tmp_path, "new", "a: 2\n")
    other.replace(file)
    assert changes.changed()

    file.unlink()
    assert changes.changed()
    assert not changes.changed()


NAMES = sorted({*VARIABLES, *SYNONYMS, "X0TTA6BL4__A__B", "X0TTA6BL4__STATUS", "X0TTA6BL4__GUARD__MAINTENANCE"})
values = st.one_of(
    st.text(st.characters(exclude_characters="\0"), max_size=20),
    st.sampled_from(
        ["[", "{}", "[[1]]", "*", "&a", "nan", "1e999", "-1", "9" * 5000, "true", "\udcff", "~x", "{a: {b: c}}"]
    ),
    st.sampled_from(
        ["[{from: 0001-01-01 00:00, until: 9999-12-31 23:59}]", "[{start: 1:00, end: 2:00, timezone: ../x}]"]
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.sampled_from([*NAMES, "X0TTA6BL4__", "X0TTA6BL4____X", "X0TTA6BL4__\udcff"]), values)
@example("X0TTA6BL4__" + "A__" * 5000 + "A", "1")
@example("X0TTA6BL4__KNOWLEDGE__X", "[" * 5000)
@example("CORS_ORIGINS", "[" * 5000)
def test_any_value_of_a_variable_either_loads_or_is_a_mistake_that_names_it(name: str, value: str) -> None:
    try:
        load(None, {**NOWHERE, name: value}, {})
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert name.encode("utf-8", "backslashreplace").decode() in str(problem)
        str(error).encode("utf-8")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    data=st.one_of(st.binary(max_size=60), st.sampled_from([*Settings.model_fields]).map(lambda s: f"{s}: x".encode()))
)
@example(data=b"guard: {maintenance: [[], 1, {from: 1}]}")
@example(data=b"monitors: {a: {b: 1}}\nmonitors.a: 1\n")
@example(data=b"?")
def test_any_bytes_in_the_file_either_load_or_are_mistakes(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(data)
    try:
        rows(load(file, NOWHERE, {}))
    except ConfigError as error:
        assert error.problems
        assert all(problem.file == str(file) for problem in error.problems)


def test_the_reference_has_the_keys_of_sections_that_may_be_left_out() -> None:
    text = (Path(__file__).parents[2] / "config/reference.yaml").read_text()

    for words in ("# certificate:", "  on_exit: leave", "  expect_status: []", "  token_file: null", "# argv:"):
        assert words in text
