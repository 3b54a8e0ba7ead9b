"""The examples of the founding documents, run as they were written, with only the place of the import changed.

Every Python example that this version covers is here. Left out, and why:

- the exceptions ``CacheConnectionError``, ``ProviderTimeoutError`` and ``RateLimitExceededError``, and the two examples
  that raise or catch them: an error is born with its raiser, and there is no cache, provider or limiter yet;
- the examples of types (``str | None``, ``Literal``) and of bad stage names: they show a style and do nothing;
- ``FastAPI`` and ``k6`` snippets: shell, JavaScript and another web framework.

What an example takes for granted (a ``logger``, a ``thread_id``, an ``l1_cache``) is given to it; the assertions are
what its comments promise.
"""

import asyncio
import io
import json
import logging
import pstats
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4 import (
    MAPEK,
    CancellationToken,
    Event,
    EventBus,
    EventType,
    FeatureFlags,
    HealthChecker,
    State,
    StateMachine,
    get_logger,
    get_memory_profiler,
    get_settings,
    get_tracker,
    log_stage,
    production_checks,
    setup_logging,
)
from x0tta6bl4.status.security import (
    Security,
    generate_api_key,
    is_localhost_origin,
    security,
    validate_api_key,
)


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An example must not find the settings of whoever runs the tests, nor leave its logging behind."""
    for name in ("X0TTA6BL4_CONFIG", "REDIS_HOST", "OPENAI_API_KEY", "OPENAI_API_KEY_FILE", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    get_settings.cache_clear()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    get_settings.cache_clear()


# -- events, state machine, cancellation -----------------------------------------------------------------------------


def test_an_event_is_published_and_reaches_its_handler() -> None:
    received: list[Any] = []

    async def example() -> None:
        bus = EventBus(max_queue_size=1000, history_size=100)

        async def handle_command(event: Event) -> None:
            received.append(event.data)

        bus.subscribe(EventType.USER_COMMAND, handle_command)
        event = Event(event_type=EventType.USER_COMMAND, data={"command": "hello"})
        await bus.publish(event)
        processing = asyncio.create_task(bus.process_events())  # "in background", says the example
        await bus.drain()
        bus.stop()
        await processing
        assert bus.get_history() == [event]

    asyncio.run(example())
    assert received == [{"command": "hello"}]


def test_processing_awaited_in_the_foreground_goes_on_until_it_is_stopped() -> None:
    async def example() -> list[str]:
        bus, heard = EventBus(max_queue_size=1000, history_size=100), []

        def handle(event: Event) -> None:
            heard.append(event.data["command"])
            bus.stop()

        bus.subscribe(EventType.USER_COMMAND, handle)
        await bus.publish(Event(event_type=EventType.USER_COMMAND, data={"command": "hello"}))
        await bus.process_events()
        return heard

    assert asyncio.run(example()) == ["hello"]


def test_the_event_bus_says_at_once_that_it_is_full_and_events_cannot_be_changed() -> None:
    async def example() -> list[bool]:
        bus = EventBus(max_queue_size=3)
        return [await bus.publish(Event(event_type=EventType.USER_COMMAND, data={"n": n})) for n in range(5)]

    assert asyncio.run(example()) == [True, True, True, False, False]
    event = Event(event_type=EventType.USER_COMMAND, data={"command": "hello"})
    assert event.event_id and event.timestamp.tzinfo is not None
    with pytest.raises(AttributeError):
        event.data = {}  # type: ignore[misc]  # that it cannot be set is what is tested


def test_the_state_machine_moves_as_its_table_says() -> None:
    sm = StateMachine(initial_state=State.IDLE)
    assert sm.transition_to(State.PROCESSING) is True

    sm = StateMachine(initial_state=State.IDLE)
    assert sm.transition_to(State.RESPONDING) is False
    assert sm.transition_to(State.ERROR, force=True) is True
    assert [t.to_state for t in sm.history] == [State.ERROR]


def test_the_table_of_the_state_machine_is_the_documented_one() -> None:
    table = {
        "idle": "processing stopped",
        "processing": "responding error idle stopped",
        "responding": "idle error stopped",
        "error": "idle stopped",
        "stopped": "idle",
    }
    for source, targets in table.items():
        allowed = {t.value for t in State if StateMachine(initial_state=State(source)).can_transition_to(t)}
        assert allowed == set(targets.split())


def test_a_token_ends_a_task_that_looks_at_it() -> None:
    async def example() -> CancellationToken:
        token = CancellationToken()

        async def long_task(token: CancellationToken) -> None:
            while not token.is_cancelled:
                await asyncio.sleep(0)
                token.raise_if_cancelled()

        task = asyncio.create_task(long_task(token))
        await asyncio.sleep(0)
        token.cancel("User requested stop")
        await asyncio.gather(task, return_exceptions=True)
        assert task.done()
        return token

    token = asyncio.run(example())
    assert token.cancel_reason == "User requested stop"
    token.reset()
    assert not token.is_cancelled


# -- the loop, its flags and its health ------------------------------------------------------------------------------


def test_one_cycle_is_run_on_this_very_host() -> None:
    async def example() -> MAPEK:
        mapek = MAPEK()
        turn = await mapek.run_cycle()
        assert turn.result == "ok"
        return mapek

    mapek = asyncio.run(example())
    assert mapek.cycle_count == 1
    assert mapek.interval == 60
    assert any(o.metric == "memory_available_ratio" for o in mapek.parts.sight.about("host")), "it truly looked"


def test_the_loop_that_was_started_is_running_and_counts_its_cycles() -> None:
    async def example() -> None:
        mapek = MAPEK()
        flags = FeatureFlags()
        assert flags.is_enabled("auto_healing")
        started = asyncio.create_task(mapek.start())
        await mapek.first_turn.wait()
        try:
            assert mapek.status == "running"
            assert mapek.cycle_count > 0
        finally:
            mapek.stop()
            await started
        assert mapek.status == "stopped"

    asyncio.run(example())


@pytest.mark.parametrize(
    "flag", ["auto_healing", "pqc_required", "mesh_auto_repair", "monitoring_verbose", "experimental_features"]
)
def test_each_of_the_common_flags_is_one(flag: str) -> None:
    assert FeatureFlags().is_enabled(flag) in (True, False)


def test_all_checks_of_the_health_checker_have_the_documented_shape() -> None:
    checker = HealthChecker()
    status = checker.check_all()

    assert set(status) == {"status", "checks"}
    assert set(status["checks"]) == {"pqc", "mesh", "database", "api_latency_ms"}
    assert "healthy" in status["status"]


def test_production_checks_are_there_to_be_asked() -> None:
    assert production_checks(get_settings()) == []


# -- logging, memory, settings, tracking -----------------------------------------------------------------------------


def test_logging_is_set_up_by_its_level_and_writes_json(capfd: pytest.CaptureFixture[str]) -> None:
    setup_logging(level=logging.INFO)
    logger = logging.getLogger("x0tta6bl4")
    logger.info("Started", extra={"service": "core", "version": "3.3.0"})
    for handler in logging.getLogger().handlers:
        handler.flush()
    written = [json.loads(line) for line in "".join(capfd.readouterr()).splitlines() if "Started" in line]

    assert len(written) == 1
    assert {"service": "core", "version": "3.3.0"}.items() <= written[0].items()


def test_the_memory_profiler_says_how_much_there_is_and_was() -> None:
    profiler = get_memory_profiler()
    stats = profiler.get_memory_stats()

    assert f"Memory: {stats['current_mb']}MB, Peak: {stats['peak_mb']}MB"
    assert 1 < stats["current_mb"] <= stats["peak_mb"]


def test_what_the_memory_profiler_dumps_can_be_read_with_pstats(tmp_path: Path) -> None:
    profiler = get_memory_profiler()
    profiler.dump_stats(tmp_path / "memory.prof")
    said = io.StringIO()
    pstats.Stats(str(tmp_path / "memory.prof"), stream=said).print_stats(5)

    assert "function calls" in said.getvalue()


def test_nested_settings_have_the_documented_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_HOST", "cache.example.org")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-key")
    monkeypatch.setenv("LOG_LEVEL", "WARNING")
    settings = get_settings()

    assert settings.redis.REDIS_HOST == "cache.example.org"
    assert settings.llm.OPENAI_API_KEY == "sk-not-a-key"
    assert settings.logging.LOG_LEVEL == "WARNING"
    assert "sk-not-a-key" not in repr(settings)


def test_structured_logging_and_its_stages(capfd: pytest.CaptureFixture[str]) -> None:
    setup_logging(level=logging.INFO)
    logger = get_logger(__name__)
    thread_id, user_id, key = "thread-7", "u1", "page:1"

    logger.info("Processing request", stage="1.0_REQUEST_VALIDATION", thread_id=thread_id, user_id=user_id)
    log_stage(logger, "2.1_L1_CACHE_LOOKUP", "Cache hit", level="info", thread_id=thread_id, cache_key=key)
    for handler in logging.getLogger().handlers:
        handler.flush()
    lines = [json.loads(line) for line in "".join(capfd.readouterr()).splitlines() if "thread-7" in line]

    assert [line["stage"] for line in lines] == ["1.0_REQUEST_VALIDATION", "2.1_L1_CACHE_LOOKUP"]
    assert lines[1]["cache_key"] == "page:1"


def test_a_stage_and_its_part_are_tracked_and_summed_up() -> None:
    tracker, thread_id, l1_cache, key = get_tracker(), "thread-of-the-example", {"k": "v"}, "k"
    try:
        with tracker.track_stage("2.0_CACHE_LOOKUP", "Cache Lookup", thread_id):  # noqa: SIM117 - as it is written
            with tracker.track_substage("2.1_L1_CACHE_LOOKUP", "L1 Cache"):
                result = l1_cache.get(key)
        summary = tracker.get_execution_summary(thread_id)

        assert result == "v"
        assert f"Total: {summary['total_duration_ms']}ms"
        assert summary["stage_count"] == 1 and summary["success"] is True
        assert summary["stages"][0]["substages"][0]["stage"] == "2.1_L1_CACHE_LOOKUP"
    finally:
        tracker.clear_thread_data(thread_id)
    assert tracker.get_execution_summary(thread_id)["stage_count"] == 0


# -- security ----------------------------------------------------------------------------------------------------------


def test_tokens_and_passwords_are_made_and_verified() -> None:
    async def example() -> None:
        user_id, password = 42, "test_password"

        # JWT token generation with refresh
        token, refresh_token = security.create_tokens(user_id)
        # Password hashing with salt
        hashed_password = security.get_password_hash(password)
        # Token verification with refresh
        user = await security.verify_and_refresh_token(token, refresh_token)

        assert user.id == user_id
        assert hashed_password != password and hashed_password != security.get_password_hash(password)

    asyncio.run(example())


def test_security_functions() -> None:
    user_id = "user-1"

    async def example() -> None:
        password = "test_password"
        hashed = await security.get_password_hash(password)
        assert await security.verify_password(password, hashed)

        # Test token generation and refresh
        token, refresh = await security.create_tokens(user_id)
        user = await security.verify_and_refresh_token(token, refresh)
        assert user.id == user_id

    asyncio.run(example())


def test_the_security_of_the_example_is_one_of_its_kind() -> None:
    assert type(security) is Security


def test_keys_are_random_compared_whole_and_origins_are_local_or_not() -> None:
    key = generate_api_key()

    assert len(key) == 64 and int(key, 16) and key != generate_api_key()
    assert validate_api_key(key, key)
    assert not validate_api_key(key[:-1], key) and not validate_api_key("\xe9" * 64, key)
    # Without a key that is expected nobody is let in: the original let everybody in.
    assert not validate_api_key("", "") and not validate_api_key(key, None) and not validate_api_key(None, key)
    assert is_localhost_origin("http://localhost:3000") and is_localhost_origin("http://[::1]:3000")
    assert not is_localhost_origin("http://localhost.evil.com") and not is_localhost_origin("http://127.0.0.1.evil.com")
