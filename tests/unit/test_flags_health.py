"""Switches, the daemon's own health, and what production demands."""

from typing import Any

import pytest

from x0tta6bl4.kernel.errors import ConfigError, StoreError
from x0tta6bl4.kernel.flags import FLAGS, FeatureFlags, known_flag
from x0tta6bl4.kernel.health import HealthChecker
from x0tta6bl4.settings.model import FLAG_NAMES, Settings
from x0tta6bl4.settings.production import is_loopback, production_checks

NAMES = ("auto_healing", "pqc_required", "mesh_auto_repair", "monitoring_verbose", "experimental_features")


def test_there_are_five_flags_and_only_healing_is_on_at_first() -> None:
    assert tuple(flag.name for flag in FLAGS) == NAMES == FLAG_NAMES
    assert [name for name in NAMES if FeatureFlags().is_enabled(name)] == ["auto_healing"]


def test_a_flag_that_there_is_not_is_an_error_with_the_nearest_name() -> None:
    for ask in (known_flag, FeatureFlags().is_enabled, lambda name: FeatureFlags({name: True})):
        with pytest.raises(ConfigError, match="did you mean auto_healing"):
            ask("auto_heal")
    with pytest.raises(ConfigError, match="there are: auto_healing, pqc_required"):
        FeatureFlags().set("xyz", True)


@pytest.mark.parametrize("value", [1, "true", None, 0.0])
def test_a_flag_is_true_or_false_and_nothing_like_it(value: Any) -> None:
    flags = FeatureFlags()
    with pytest.raises(ConfigError, match="must be true or false"):
        flags.set("auto_healing", value)
    assert flags.is_enabled("auto_healing") is True


def test_who_listens_hears_of_changes_only() -> None:
    flags, heard = FeatureFlags({"pqc_required": True}), []
    flags.on_change(lambda name, value: heard.append((name, value)))

    assert flags.set("auto_healing", True) is False
    assert flags.set("auto_healing", False) is True
    flags.load({"auto_healing": False, "pqc_required": False, "of_a_newer_daemon": True})
    assert heard == [("auto_healing", False), ("pqc_required", False)]
    assert flags.as_dict() == dict.fromkeys(NAMES, False)


def test_health_has_the_shape_that_people_and_scrapers_ask_for() -> None:
    checker = HealthChecker({"database": lambda: {"status": "ok", "connections": 2}}, api_latency=lambda: 0.0421)

    assert checker.check_all() == {
        "status": "healthy",
        "checks": {"pqc": "not configured", "mesh": "not configured", "database": "ok", "api_latency_ms": 42.1},
    }
    assert checker.components()["database"] == {"status": "ok", "connections": 2}
    assert HealthChecker().check_all()["checks"]["api_latency_ms"] is None


@pytest.mark.parametrize(
    ("status", "overall"),
    [("ok", "healthy"), ("not configured", "healthy"), ("degraded", "degraded"), ("failing", "degraded")],
)
def test_one_bad_part_makes_the_whole_degraded(status: str, overall: str) -> None:
    checker = HealthChecker()
    checker.register("loop", lambda: {"status": status})

    assert checker.check_all()["status"] == overall


@pytest.mark.parametrize(
    "error",
    [
        OSError("gone"),
        StoreError("disk full"),
        ZeroDivisionError("by zero"),
        TypeError("odd"),
        AttributeError("no such"),
        AssertionError("no"),
        KeyError("x"),
    ],
)
def test_a_check_that_raises_is_a_failing_part_and_the_others_are_still_asked(error: Exception) -> None:
    def broken() -> Any:
        raise error

    checker = HealthChecker({"database": broken, "loop": lambda: {"status": "ok"}})
    told = checker.check_all()

    assert (told["status"], told["checks"]["database"], told["checks"]["loop"]) == ("degraded", "failing", "ok")
    assert str(error.args[0]) in checker.components()["database"]["detail"]


@pytest.mark.parametrize("answer", [None, {}, {"detail": "fine"}, 5])
def test_a_check_that_says_nothing_is_not_taken_for_a_good_one(answer: Any) -> None:
    told = HealthChecker({"database": lambda: answer}).check_all()

    assert (told["status"], told["checks"]["database"]) == ("degraded", "failing")


def demands(liboqs: bool = False, **values: Any) -> list[str]:
    return [str(p) for p in production_checks(Settings.model_validate(values), lambda: liboqs)]


def test_nothing_is_demanded_of_a_development_machine() -> None:
    assert demands() == []
    assert demands(environment="staging") == []


@pytest.mark.parametrize(
    "values",
    [
        {"production": True},
        {"environment": "production"},
        {"pqc": {"required": True}},
        {"flags": {"pqc_required": True}},
    ],
)
def test_production_and_who_asks_for_it_demand_liboqs_and_say_how_to_get_it(values: dict[str, Any]) -> None:
    (problem,) = demands(**values)

    assert "CRITICAL: LibOQS REQUIRED but not available!" in problem
    assert "pip install liboqs-python" in problem
    assert demands(liboqs=True, **values) == []


def test_production_takes_no_second_best_and_no_debug_log() -> None:
    told = demands(liboqs=True, production=True, pqc={"backend": "cryptography"}, logging={"level": "DEBUG"})

    assert len(told) == 2
    assert any("production demands liboqs (got 'cryptography')" in line for line in told)
    assert any("logging.level" in line for line in told)


@pytest.mark.parametrize(
    ("host", "yes"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.evil.com", False),
        ("127.0.0.1.evil.com", False),
        ("", False),
    ],
)
def test_loopback_is_loopback(host: str, yes: bool) -> None:
    assert is_loopback(host) is yes
