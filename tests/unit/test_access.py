"""Who may ask the endpoint: keys, operators and sessions, in a real store, and what none of them may do."""

import asyncio
import json
import re
import secrets
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel.errors import StoreError, TamperedError
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.observability.redaction import redact_text
from x0tta6bl4.ports.database import Row
from x0tta6bl4.status import access as module
from x0tta6bl4.status.access import (
    FRESH,
    LIVE_SESSIONS,
    NOBODY,
    SESSIONS_KEPT,
    TRIES_A_MINUTE,
    TRIES_A_NAME,
    Access,
    AccessError,
    Caller,
    Scope,
    SignedIn,
    SignInRefused,
)
from x0tta6bl4.status.links import kept_key
from x0tta6bl4.status.passwords import Guesses, PasswordRefused, Passwords, broken_rules
from x0tta6bl4.status.tokens import AGAIN_WITHIN, REFRESH_SECONDS, SESSION_SECONDS, TokenRefused, Tokens
from x0tta6bl4.testing.fakes import FakeClock
from x0tta6bl4.testing.memory_database import MemoryDatabase

PASSWORD = "Tall-Ships.Sail-West"
OTHER = "Quiet.Harbour-7-Lamps"
HOME, AWAY = "192.0.2.7", "198.51.100.9"
DAY = 86400.0


class CountedDatabase(MemoryDatabase):
    def __init__(self) -> None:
        super().__init__(migrations())
        self.reads: list[str] = []
        self.writes = 0

    async def read(self, sql: str, values: Any = ()) -> list[Row]:
        self.reads.append(sql)
        return await super().read(sql, values)

    async def write(self, work: Callable[[Any], Any]) -> Any:
        self.writes += 1
        return await super().write(work)


@dataclass
class Place:
    """A store, and one process that answers from it; ``beside`` is another one."""

    clock: FakeClock = field(default_factory=FakeClock)
    database: CountedDatabase = field(default_factory=CountedDatabase)
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def __post_init__(self) -> None:
        self.knowledge = SqliteKnowledge("store", Config(), self.database, self.clock)
        self.access = self.beside()

    def beside(self) -> Access:
        return Access(self.database, self.knowledge.audit, self.clock, lambda: self.secret, Passwords(rounds=4))

    async def signed_in(self, name: str = "oncall", client: str = HOME) -> SignedIn:
        if name not in {o.name for o in await self.access.operators()}:
            await self.access.add_operator(name, PASSWORD, Scope.OPERATE, "root@cli")
        return await self.access.sign_in(name, PASSWORD, client, "Browser/1.0")

    async def told(self) -> list[tuple[str, str]]:
        return [(row.who, row.what) for row in reversed(await self.knowledge.audit_trail(1000))]


def play(work: Callable[[Place], Awaitable[None]]) -> None:
    async def main() -> None:
        await work(Place())

    asyncio.run(main())


async def refused(work: Awaitable[Any]) -> str:
    with pytest.raises((TokenRefused, SignInRefused)) as caught:
        await work
    assert isinstance(caught.value, TokenRefused | SignInRefused)
    return caught.value.code


# -- scopes ------------------------------------------------------------------------------------------------------------


def test_each_scope_holds_the_ones_before_it() -> None:
    allowed = {(one, other) for one in Scope for other in Scope if one.allows(other)}

    assert allowed == {
        (Scope.READ, Scope.READ),
        (Scope.OPERATE, Scope.READ),
        (Scope.OPERATE, Scope.OPERATE),
        (Scope.ADMIN, Scope.READ),
        (Scope.ADMIN, Scope.OPERATE),
        (Scope.ADMIN, Scope.ADMIN),
    }


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_only_its_hash_is_kept() -> None:
    async def main(place: Place) -> None:
        made = await place.access.create_key("prometheus", Scope.READ, "root@cli", per_minute=600)

        assert re.fullmatch(r"x0k_[0-9a-f]{12}_[\w-]{43}", made.text)
        caller = await place.access.by_key(made.text)
        assert caller == Caller("key", "prometheus", Scope.READ, made.about.id, 600)
        secret = made.text.split("_", 2)[2]
        for table in ("keys", "audit", "state"):
            assert secret not in repr(await place.database.read(f"SELECT * FROM {table}"))
        assert secret not in repr(made) + repr(await place.access.keys())
        assert secret not in redact_text(f"GET /metrics with {made.text}")

    play(main)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text + "\n",
        lambda text: text.upper(),
        lambda text: text.replace("x0k_", "x0k__"),
        lambda text: text.replace("x0k_", "X0K_"),
        lambda text: " " + text,
        lambda text: text[:17] + ("A" * 43),
        lambda text: "x0k_" + "0" * 12 + text[16:],
        lambda text: text[:4] + "\uff10" + text[5:],
        lambda text: text[:-1] + "\xe9",
        lambda text: text[:-1] + "\udc80",
        lambda text: "",
        lambda text: "x0k_" * 100_000,
        lambda text: text[:17] + "'; DROP TABLE keys; --",
    ],
)
def test_a_key_that_is_not_the_key_is_nobodys(change: Callable[[str], str]) -> None:
    async def main(place: Place) -> None:
        made = await place.access.create_key("prometheus", Scope.READ, "root@cli")

        assert await place.access.by_key(change(made.text)) is None
        assert await place.access.by_key(made.text) is not None

    play(main)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_no_text_is_a_key_or_an_error(text: str) -> None:
    async def main(place: Place) -> None:
        await place.access.create_key("prometheus", Scope.READ, "root@cli")
        assert await place.access.by_key(text) is None
        assert await place.access.by_key("x0k_" + text) is None

    play(main)


def test_a_wrong_id_is_compared_as_a_wrong_secret_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    async def main(place: Place) -> None:
        made = await place.access.create_key("prometheus", Scope.READ, "root@cli")
        monkeypatch.setattr("x0tta6bl4.status.access.hmac.compare_digest", compare)
        for text in (made.text, made.text[:-4] + "AAAA", f"x0k_{'0' * 12}_{'A' * 43}"):
            await place.access.by_key(text)

    play(main)
    assert compared == [(64, 64)] * 3


def test_of_one_name_two_keys_hold_while_one_takes_the_place_of_the_other() -> None:
    async def main(place: Place) -> None:
        access = place.access
        first = await access.create_key("deploy", Scope.OPERATE, "root@cli", per_minute=30, expires_in=90 * DAY)
        with pytest.raises(AccessError, match="rotate"):
            await access.create_key("deploy", Scope.READ, "root@cli")
        place.clock.advance(10 * DAY)
        second, old = await access.rotate_key("deploy", 3600.0, "root@cli")

        assert old.id == first.about.id and old.expires_at == place.clock.wall() + 3600
        assert (second.about.scope, second.about.per_minute) == (Scope.OPERATE, 30)
        assert second.about.expires_at == place.clock.wall() + 90 * DAY
        with pytest.raises(AccessError, match=f"keys revoke {old.id}"):
            await access.rotate_key("deploy", 3600.0, "root@cli")
        assert await access.by_key(first.text) and await access.by_key(second.text)

        place.clock.advance(3600)
        assert await access.by_key(first.text) is None
        assert await access.by_key(second.text) is not None
        assert [key.state(place.clock.wall()) for key in await access.keys()] == ["live", "expired"]
        await access.rotate_key("deploy", 60.0, "root@cli")

    play(main)


def test_a_rotation_never_lets_a_key_hold_longer_than_it_was_to() -> None:
    async def main(place: Place) -> None:
        made = await place.access.create_key("deploy", Scope.READ, "root@cli", expires_in=60.0)
        _, old = await place.access.rotate_key("deploy", DAY, "root@cli")

        assert old.expires_at == made.about.expires_at
        with pytest.raises(AccessError, match="no key called other"):
            await place.access.rotate_key("other", DAY, "root@cli")

    play(main)


def test_a_key_that_another_process_revokes_stops_within_a_second() -> None:
    async def main(place: Place) -> None:
        made = await place.access.create_key("deploy", Scope.READ, "root@cli")
        other = place.beside()
        assert await place.access.by_key(made.text) is not None

        assert [key.id for key in await other.revoke_keys(made.about.id, "root@cli")] == [made.about.id]
        assert await other.by_key(made.text) is None  # at once where it was done
        place.clock.advance(FRESH)
        assert await place.access.by_key(made.text) is None
        assert await other.revoke_keys("deploy", "root@cli") == []

    play(main)


def test_a_flood_of_requests_reads_the_store_once_a_second() -> None:
    async def main(place: Place) -> None:
        made = await place.access.create_key("deploy", Scope.READ, "root@cli")
        await place.access.by_key(made.text)
        place.clock.advance(FRESH)
        place.database.reads.clear()
        wrong = [f"x0k_{number:012x}_{'A' * 43}" for number in range(500)]
        callers = await asyncio.gather(*map(place.access.by_key, [made.text] * 500 + wrong))

        assert sum(caller is not None for caller in callers) == 500
        assert len(place.database.reads) == 2  # the keys, and whether there are operators

    play(main)


def test_the_last_use_is_written_once_a_minute() -> None:
    async def main(place: Place) -> None:
        made = await place.access.create_key("deploy", Scope.READ, "root@cli")
        before = place.database.writes
        await asyncio.gather(*(place.access.by_key(made.text) for _ in range(50)))
        place.clock.advance(59)
        await place.access.by_key(made.text)
        assert place.database.writes == before + 1

        place.clock.advance(1)
        await place.access.by_key(made.text)
        assert place.database.writes == before + 2
        assert (await place.access.keys())[0].used_at == place.clock.wall()

    play(main)


def test_a_use_that_cannot_be_noted_does_not_shut_the_key_out() -> None:
    class ReadOnly(CountedDatabase):
        is_full = False

        async def write(self, work: Callable[[Any], Any]) -> Any:
            if self.is_full:
                raise StoreError("disk full")
            return await super().write(work)

    async def main() -> None:
        database = ReadOnly()
        place = Place(database=database)
        made = await place.access.create_key("deploy", Scope.READ, "root@cli")
        database.is_full = True
        assert await place.access.by_key(made.text) is not None

    asyncio.run(main())


def test_nobody_is_let_in_while_the_store_cannot_be_read() -> None:
    async def main(place: Place) -> None:
        made = await place.access.create_key("deploy", Scope.READ, "root@cli")
        signed = await place.signed_in()
        place.clock.advance(FRESH)
        place.database.broken = "disk gone"

        for work in (place.access.by_key(made.text), place.access.by_access(signed.access), place.access.has_any()):
            with pytest.raises(StoreError, match="disk gone"):
                await work

    play(main)


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a" * 65, "a/b", "ключ", "a\n", "0123456789ab", "x\x1b[2J"])
def test_a_bad_name_is_told_with_what_a_name_is(name: str) -> None:
    async def main(place: Place) -> None:
        with pytest.raises(AccessError) as caught:
            await place.access.create_key(name, Scope.READ, "root@cli")
        assert caught.value.remedy
        assert str(caught.value).isprintable()
        assert await place.access.keys() == []

    play(main)


def test_keys_that_hold_no_more_are_forgotten_in_the_end() -> None:
    async def main(place: Place) -> None:
        await place.access.create_key("old", Scope.READ, "root@cli", expires_in=60)
        await place.access.create_key("gone", Scope.READ, "root@cli")
        await place.access.revoke_keys("gone", "root@cli")
        place.clock.advance(91 * DAY)
        await place.access.create_key("new", Scope.READ, "root@cli")

        assert [key.name for key in await place.access.keys()] == ["new"]

    play(main)


def test_there_is_an_end_to_how_many_keys_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEYS", 3)

    async def main(place: Place) -> None:
        for name in "abc":
            await place.access.create_key(name, Scope.READ, "root@cli")
        with pytest.raises(AccessError, match="revoke"):
            await place.access.create_key("d", Scope.READ, "root@cli")

    play(main)


def test_whether_anybody_could_get_in() -> None:
    async def main(place: Place) -> None:
        access = place.access
        assert not await access.has_any()
        await access.create_key("deploy", Scope.READ, "root@cli", expires_in=60)
        assert await access.has_any()
        place.clock.advance(60)
        assert not await access.has_any()
        assert not await access.can_sign_in()
        await access.add_operator("oncall", PASSWORD, Scope.READ, "root@cli")
        assert await access.has_any() and await access.can_sign_in()
        await access.remove_operator("oncall", "root@cli")
        assert not await access.has_any()

    play(main)


# -- passwords ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("password", "told"),
    [
        ("Zx9#mKp2", ["needs 12"]),
        ("alllowercase", ["kinds"]),
        ("tiger lamp orbit rain", []),
        ("Zx9#mKp2Lq!w", []),
        ("oncall-is-Great-1", ["contains the name"]),
        ("ONCALL-Is-great-1", ["contains the name"]),
        ("aB3$aB3$aB3$", ["pattern"]),
        ("Abcdefgh1234", ["pattern"]),
        ("Qwertzuiop12", ["pattern"]),
        ("aAaA1aAaA1bB", ["pattern"]),
        ("P@ssw0rd2024!", ["commonest"]),
        ("4dministrator!1", ["commonest"]),
        ("Zx9#mKp2Lq!w" * 7, ["bytes long", "pattern"]),
        ("Zx9#mKp2Lq!w\0", ["cannot be typed"]),
        ("Zx9#mKp2Lq!w\udc80", ["cannot be typed"]),
        ("aaa", ["needs 12", "kinds"]),
        ("", ["needs 12", "kinds"]),
    ],
)
def test_every_rule_that_a_password_breaks_is_told_at_once(password: str, told: list[str]) -> None:
    broken = broken_rules(password, "oncall")

    assert len(broken) == len(told)
    assert all(word in sentence for word, sentence in zip(told, broken, strict=True))


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=20))
def test_the_rules_have_an_answer_to_every_text(password: str, name: str) -> None:
    for sentence in broken_rules(password, name):
        assert sentence and (password not in sentence or len(password) < 12)


def test_a_short_name_does_not_forbid_every_password_it_is_in() -> None:
    assert broken_rules("Zx9#mKp2Lq!w", "mk") == []


def test_a_hash_holds_for_its_password_however_the_keyboard_writes_it() -> None:
    passwords = Passwords(rounds=4)
    kept = passwords.hash_now("Caf\u00e9-bleu-4-matins")

    assert kept.startswith("$2b$04$")
    assert passwords.holds_now("Cafe\u0301-bleu-4-matins", kept)
    assert not passwords.holds_now("Cafe-bleu-4-matins", kept)


@pytest.mark.parametrize("password", ["", "\0", "x" * 73, "x" * 72 + "\0", "\udc80", "x" * 1_000_000])
def test_a_password_that_bcrypt_could_not_read_whole_is_never_hashed_and_never_right(password: str) -> None:
    passwords = Passwords(rounds=4)

    with pytest.raises(PasswordRefused):
        passwords.hash_now(password)
    assert not passwords.holds_now(password, passwords.hash_now("x" * 72))


@pytest.mark.parametrize("kept", ["", "x", "$2b$04$", "$2b$99$" + "a" * 53, "plain", "\udc80"])
def test_what_is_no_hash_fits_no_password(kept: str) -> None:
    assert not Passwords(rounds=4).holds_now(PASSWORD, kept)


def test_an_unknown_name_costs_as_many_hashes_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import bcrypt

    costs: list[bytes] = []
    real = bcrypt.hashpw

    def counted(password: bytes, salt: bytes) -> bytes:
        costs.append(salt[:7])
        return real(password, salt)

    async def main(place: Place) -> None:
        await place.access.add_operator("oncall", PASSWORD, Scope.READ, "root@cli")
        monkeypatch.setattr(bcrypt, "hashpw", counted)
        for name, password in (("oncall", OTHER), ("nobody", OTHER), ("oncall", "x" * 100), ("O n", "\0")):
            costs.clear()
            assert await refused(place.access.sign_in(name, password, HOME)) == "SIGN_IN_WRONG"
            assert costs == [b"$2b$04$"]

    play(main)


# -- signing in --------------------------------------------------------------------------------------------------------


def test_who_signs_in_is_known_by_the_access_token_and_only_by_that() -> None:
    async def main(place: Place) -> None:
        signed = await place.signed_in()

        assert signed.caller == Caller("session", "oncall", Scope.OPERATE, signed.caller.id)
        assert await place.access.by_access(signed.access) == signed.caller
        assert await place.access.by_refresh(signed.refresh) == signed.caller
        assert await refused(place.access.by_access(signed.refresh)) == "TOKEN_USE"
        assert await refused(place.access.refresh(signed.access)) == "TOKEN_USE"
        assert (signed.access_seconds, signed.refresh_seconds) == (900, REFRESH_SECONDS)
        for secret in (signed.access, signed.refresh, signed.csrf, PASSWORD):
            assert secret not in repr(signed)
            for table in ("sessions", "operators", "audit", "state"):
                assert secret not in repr(await place.database.read(f"SELECT * FROM {table}"))

        place.clock.advance(900)
        assert await refused(place.access.by_access(signed.access)) == "TOKEN_EXPIRED"

    play(main)


def test_names_are_typed_as_people_type_them() -> None:
    async def main(place: Place) -> None:
        await place.signed_in()
        assert (await place.access.sign_in(" Oncall ", PASSWORD, HOME)).caller.name == "oncall"

    play(main)


@pytest.mark.parametrize("name", ["", "nobody", "oncall\0", "'; --", "x" * 10_000, "\udc80", "ONCALL2"])
def test_a_wrong_name_is_told_as_a_wrong_password_is(name: str) -> None:
    async def main(place: Place) -> None:
        await place.signed_in()
        sentences = set()
        for one, password in ((name, PASSWORD), ("oncall", OTHER)):
            with pytest.raises(SignInRefused) as caught:
                await place.access.sign_in(one, password, AWAY)
            sentences.add((caught.value.code, str(caught.value), caught.value.retry_after))
        assert len(sentences) == 1

    play(main)


async def fail(place: Place, name: str, client: str) -> SignInRefused:
    with pytest.raises(SignInRefused) as caught:
        await place.access.sign_in(name, OTHER, client)
    return caught.value


def test_too_many_failures_close_one_address_until_the_time_that_is_said() -> None:
    async def main(place: Place) -> None:
        await place.access.add_operator("oncall", PASSWORD, Scope.READ, "root@cli")
        last = [await fail(place, f"name{number}", AWAY) for number in range(TRIES_A_MINUTE)][-1]
        assert last.code == "SIGN_IN_WRONG" and last.retry_after == pytest.approx(60 / TRIES_A_MINUTE)

        locked = await fail(place, "oncall", AWAY)
        assert locked.code == "SIGN_IN_LOCKED"
        place.clock.advance(locked.retry_after - 0.01)
        assert (await fail(place, "oncall", AWAY)).code == "SIGN_IN_LOCKED"
        place.clock.advance(0.011)
        assert (await place.access.sign_in("oncall", PASSWORD, AWAY)).caller.name == "oncall"
        assert (await fail(place, "other", HOME)).code == "SIGN_IN_WRONG"  # another address never noticed

    play(main)


def test_success_is_not_counted() -> None:
    async def main(place: Place) -> None:
        for _ in range(3 * TRIES_A_NAME):
            await place.signed_in(client=HOME)
        await fail(place, "oncall", AWAY)

    play(main)


def test_nobody_elsewhere_can_lock_an_operator_out() -> None:
    async def main(place: Place) -> None:
        await place.signed_in(client=HOME)
        for number in range(40):  # from forty places, each below its own limit
            with suppress(SignInRefused):
                await place.access.sign_in("oncall", OTHER, f"203.0.113.{number}")
        assert (await fail(place, "oncall", AWAY)).code == "SIGN_IN_LOCKED"

        # Where he signed in from before, and on the host itself, he can at once; with a daemon started anew as well.
        for access in (place.access, place.beside()):
            for client in (HOME, "127.0.0.1", "::1", "::ffff:127.0.0.1"):
                assert (await access.sign_in("oncall", PASSWORD, client)).caller.name == "oncall"
        # And from a new place after a while, for nothing is ever locked for good.
        place.clock.advance(60)
        assert (await place.access.sign_in("oncall", PASSWORD, AWAY)).caller.name == "oncall"

    play(main)


def test_also_from_a_known_place_guesses_are_limited() -> None:
    async def main(place: Place) -> None:
        await place.signed_in(client=HOME)
        codes = [(await fail(place, "oncall", HOME)).code for _ in range(TRIES_A_MINUTE + 1)]
        assert codes == ["SIGN_IN_WRONG"] * TRIES_A_MINUTE + ["SIGN_IN_LOCKED"]
        codes = [(await fail(place, "ghost", "127.0.0.1")).code for _ in range(TRIES_A_MINUTE + 1)]
        assert codes[-1] == "SIGN_IN_LOCKED"

    play(main)


def test_many_at_once_get_no_more_guesses_than_one_after_the_other() -> None:
    async def main(place: Place) -> None:
        await place.signed_in(client=HOME)
        results = await asyncio.gather(
            *(place.access.sign_in("oncall", OTHER, HOME) for _ in range(100)), return_exceptions=True
        )
        codes = [result.code for result in results if isinstance(result, SignInRefused)]
        assert len(codes) == 100
        assert codes.count("SIGN_IN_WRONG") == TRIES_A_MINUTE
        assert set(codes) == {"SIGN_IN_WRONG", "SIGN_IN_LOCKED", "SIGN_IN_BUSY"}

    play(main)


def test_strangers_that_wait_leave_room_for_who_was_here_before() -> None:
    async def main(place: Place) -> None:
        await place.signed_in(client=HOME)
        strangers = [
            asyncio.create_task(place.access.sign_in(f"n{number}", OTHER, f"203.0.113.{number}"))
            for number in range(30)
        ]
        await asyncio.sleep(0)
        assert (await place.access.sign_in("oncall", PASSWORD, HOME)).caller.name == "oncall"
        results = await asyncio.gather(*strangers, return_exceptions=True)
        assert any(isinstance(one, SignInRefused) and one.code == "SIGN_IN_BUSY" for one in results)

    play(main)


def test_one_who_goes_away_while_it_is_checked_has_guessed_all_the_same() -> None:
    async def main(place: Place) -> None:
        await place.signed_in(client=HOME)
        for _ in range(TRIES_A_MINUTE):
            task = asyncio.create_task(place.access.sign_in("oncall", OTHER, HOME))
            while not place.access._hashing.locked():
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError, SignInRefused):
                await task
        assert (await fail(place, "oncall", HOME)).code == "SIGN_IN_LOCKED"

    play(main)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 40)), max_size=60))
def test_a_wait_that_is_told_is_true(steps: list[tuple[str, float]]) -> None:
    clock = FakeClock()
    guesses = Guesses(5, clock.monotonic)
    made: dict[str, list[float]] = {}
    for who, pause in steps:
        clock.advance(pause)
        wait = guesses.wait(who)
        assert 0 <= wait <= 12
        clock.advance(wait)
        assert guesses.wait(who) == pytest.approx(0, abs=1e-6)
        guesses.failed(who)
        made.setdefault(who, []).append(clock.monotonic())
    for times in made.values():
        for number, at in enumerate(times):
            assert sum(at <= other < at + 59.9 for other in times[number:]) <= 10  # the burst, and what grew back


def test_what_is_remembered_of_guesses_is_bounded() -> None:
    clock = FakeClock()
    guesses = Guesses(1, clock.monotonic, most=50)
    for number in range(1000):
        guesses.failed(str(number))
    assert len(guesses._until) <= 50
    clock.advance(61)
    guesses.failed("one")
    assert list(guesses._until) == ["one"]


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_a_refresh_gives_new_tokens_and_uses_the_old_one_up() -> None:
    async def main(place: Place) -> None:
        first = await place.signed_in()
        place.clock.advance(600)
        second = await place.access.refresh(first.refresh)

        assert second.caller == first.caller
        assert len({first.refresh, second.refresh, first.access, second.access}) == 4
        assert await place.access.by_access(second.access) == first.caller
        assert await place.access.by_access(first.access) == first.caller  # until it is over by itself
        place.clock.advance(900)
        third = await place.access.refresh(second.refresh)
        assert await place.access.by_access(third.access) == first.caller

    play(main)


def test_a_refresh_token_that_is_used_again_ends_the_session_and_is_told() -> None:
    async def main(place: Place) -> None:
        stolen = await place.signed_in()
        owner = await place.access.refresh(stolen.refresh)
        place.clock.advance(AGAIN_WITHIN + 1)

        assert await refused(place.access.refresh(stolen.refresh)) == "REFRESH_REUSED"
        assert await refused(place.access.by_access(owner.access)) == "SESSION_ENDED"
        assert await refused(place.access.refresh(owner.refresh)) == "SESSION_ENDED"
        assert ("endpoint", "session.reuse_seen") in await place.told()

    play(main)


def test_a_token_that_was_used_is_a_reuse_also_where_it_is_only_looked_at() -> None:
    async def main(place: Place) -> None:
        stolen = await place.signed_in()
        assert await place.access.by_refresh(stolen.refresh) == stolen.caller
        owner = await place.access.refresh(stolen.refresh)
        assert await place.access.by_refresh(stolen.refresh) == stolen.caller  # the other tab, in the same moment
        place.clock.advance(AGAIN_WITHIN + 1)
        assert await place.access.by_refresh(owner.refresh) == stolen.caller

        assert await refused(place.access.by_refresh(stolen.refresh)) == "REFRESH_REUSED"
        assert await refused(place.access.by_refresh(owner.refresh)) == "SESSION_ENDED"
        assert (await place.told())[-1] == ("endpoint", "session.reuse_seen")

    play(main)


def test_a_token_two_uses_old_is_a_reuse_even_in_the_same_second() -> None:
    async def main(place: Place) -> None:
        first = await place.signed_in()
        second = await place.access.refresh(first.refresh)
        await place.access.refresh(second.refresh)

        assert await refused(place.access.refresh(first.refresh)) == "REFRESH_REUSED"

    play(main)


def test_two_tabs_that_refresh_in_the_same_moment_stay_signed_in_on_one_line() -> None:
    async def main(place: Place) -> None:
        signed = await place.signed_in()
        one, two = await asyncio.gather(place.access.refresh(signed.refresh), place.access.refresh(signed.refresh))
        assert one.refresh == two.refresh != signed.refresh
        place.clock.advance(AGAIN_WITHIN - 1)
        late = await place.access.refresh(signed.refresh)
        assert late.refresh == one.refresh

        # A thief who was quick enough has no line of his own: the second to go on with it is found out.
        await place.access.refresh(late.refresh)
        place.clock.advance(AGAIN_WITHIN + 1)
        assert await refused(place.access.refresh(one.refresh)) == "REFRESH_REUSED"

    play(main)


def test_a_session_is_over_after_its_longest_time_however_often_it_is_refreshed() -> None:
    async def main(place: Place) -> None:
        signed = await place.signed_in()
        for _ in range(3):
            place.clock.advance(9 * DAY)
            signed = await place.access.refresh(signed.refresh)
        assert signed.refresh_seconds == SESSION_SECONDS - 27 * DAY
        place.clock.advance(3 * DAY - 60)
        signed = await place.access.refresh(signed.refresh)
        assert signed.access_seconds == 60
        place.clock.advance(60)
        assert await refused(place.access.refresh(signed.refresh)) == "TOKEN_EXPIRED"
        assert await refused(place.access.by_access(signed.access)) == "TOKEN_EXPIRED"
        assert await place.access.sessions() == []

    play(main)


def test_a_session_that_is_not_refreshed_is_over_after_two_weeks() -> None:
    async def main(place: Place) -> None:
        signed = await place.signed_in()
        assert (await place.access.sessions())[0].ends_at == place.clock.wall() + REFRESH_SECONDS
        place.clock.advance(REFRESH_SECONDS)
        assert await refused(place.access.refresh(signed.refresh)) == "TOKEN_EXPIRED"
        assert await place.access.sessions() == []

    play(main)


def test_who_signs_out_is_out() -> None:
    async def main(place: Place) -> None:
        signed = await place.signed_in()
        assert await place.access.sign_out(signed.caller)

        assert await refused(place.access.by_access(signed.access)) == "SESSION_ENDED"
        assert await refused(place.access.refresh(signed.refresh)) == "SESSION_ENDED"
        assert await refused(place.access.by_refresh(signed.refresh)) == "SESSION_ENDED"
        assert not await place.access.sign_out(signed.caller)
        assert not await place.access.sign_out(NOBODY)

    play(main)


@pytest.mark.parametrize(
    "change",
    [
        lambda access, id: access.end_session(id, "root@cli"),
        lambda access, id: access.end_sessions("root@cli", "oncall"),
        lambda access, id: access.end_sessions("root@cli"),
        lambda access, id: access.set_password("oncall", OTHER, "root@cli"),
        lambda access, id: access.set_scope("oncall", Scope.READ, "root@cli"),
        lambda access, id: access.remove_operator("oncall", "root@cli"),
    ],
)
def test_what_another_process_ends_is_refused_here_within_a_second(change: Callable[[Access, str], Any]) -> None:
    async def main(place: Place) -> None:
        signed = await place.signed_in()
        other = await place.signed_in("second")
        beside = place.beside()
        await place.access.by_access(signed.access)

        assert await change(beside, signed.caller.id) >= 1
        with pytest.raises(TokenRefused):
            await beside.by_access(signed.access)
        place.clock.advance(FRESH)
        with pytest.raises(TokenRefused):
            await place.access.by_access(signed.access)
        with pytest.raises(TokenRefused):
            await place.access.refresh(signed.refresh)
        still = {session.operator for session in await place.access.sessions()}
        assert "oncall" not in still
        if still:
            assert await place.access.by_access(other.access) == other.caller

    play(main)


def test_a_token_names_the_operator_of_its_session_or_is_refused() -> None:
    async def main(place: Place) -> None:
        signed = await place.signed_in()
        await place.access.add_operator("root", OTHER, Scope.ADMIN, "root@cli")
        tokens = Tokens(place.secret, place.clock)
        for subject, session in (("root", signed.caller.id), ("oncall", "0" * 16)):
            line, refresh = tokens.begin(session, subject)
            assert await refused(place.access.by_access(tokens.access(line))) == "SESSION_ENDED"
            assert await refused(place.access.by_refresh(refresh)) == "SESSION_ENDED"
            assert await refused(place.access.refresh(refresh)) == "SESSION_ENDED"

    play(main)


def test_an_operator_of_the_same_name_does_not_inherit_sessions() -> None:
    async def main(place: Place) -> None:
        signed = await place.signed_in()
        await place.access.remove_operator("oncall", "root@cli")
        await place.access.add_operator("oncall", OTHER, Scope.ADMIN, "root@cli")

        assert await refused(place.access.by_access(signed.access)) == "SESSION_ENDED"
        assert await refused(place.access.refresh(signed.refresh)) == "SESSION_ENDED"

    play(main)


def test_a_password_that_is_changed_while_the_old_one_is_checked_lets_nobody_in() -> None:
    async def main(place: Place) -> None:
        await place.access.add_operator("oncall", PASSWORD, Scope.ADMIN, "root@cli")
        slow = place.beside()
        real = slow._passwords.holds

        async def holds(password: str, kept: str | None) -> bool:
            good = await real(password, kept)
            await place.access.set_password("oncall", OTHER, "root@cli")
            return good

        slow._passwords.holds = holds  # type: ignore[method-assign]  # the change must fall into this very moment
        assert await refused(slow.sign_in("oncall", PASSWORD, HOME)) == "SIGN_IN_WRONG"
        assert await place.access.sessions() == []

    play(main)


def test_sessions_are_bounded_and_the_one_longest_unused_goes_first() -> None:
    async def main(place: Place) -> None:
        first = await place.signed_in()
        for _ in range(LIVE_SESSIONS - 1):
            place.clock.advance(1)
            await place.signed_in()
        first = await place.access.refresh(first.refresh)
        place.clock.advance(1)
        for _ in range(SESSIONS_KEPT):
            latest = await place.signed_in()

        live = await place.access.sessions("oncall")
        assert len(live) == LIVE_SESSIONS
        assert latest.caller.id in {session.id for session in live}
        assert await refused(place.access.by_access(first.access)) == "SESSION_ENDED"
        assert (await place.database.read("SELECT count(*) FROM sessions"))[0][0] <= SESSIONS_KEPT

    play(main)


def test_what_a_browser_says_of_itself_cannot_command_a_terminal() -> None:
    async def main(place: Place) -> None:
        await place.signed_in()
        await place.access.sign_in("oncall", PASSWORD, HOME, "\x1b[2J\x00" + "x" * 500)
        assert all(s.agent.isprintable() and len(s.agent) <= 120 for s in await place.access.sessions())

    play(main)


def test_the_csrf_token_holds_for_its_session_only() -> None:
    async def main(place: Place) -> None:
        signed, other = await place.signed_in(), await place.signed_in()
        holds = place.access.csrf_holds

        assert holds(signed.caller, signed.csrf, signed.csrf)
        assert not holds(other.caller, signed.csrf, signed.csrf)
        assert not holds(signed.caller, signed.csrf, other.csrf)
        assert not holds(signed.caller, "", signed.csrf)
        assert not holds(signed.caller, signed.csrf, "")
        for wrong in ("", ".", "x", "a" * 32 + "." + "b" * 64, signed.csrf + "0", "\udc80.\xff", "." * 500):
            assert not holds(signed.caller, wrong, wrong)
        assert not holds(NOBODY, signed.csrf, signed.csrf)
        assert not holds(Caller("key", "oncall", Scope.ADMIN, signed.caller.id), signed.csrf, signed.csrf)
        refreshed = await place.access.refresh(signed.refresh)
        assert holds(signed.caller, refreshed.csrf, refreshed.csrf)

    play(main)


# -- what is told, and what never is -----------------------------------------------------------------------------------


def test_everything_that_changes_is_in_the_audit_chain_and_no_secret_is() -> None:
    async def main(place: Place) -> None:
        access = place.access
        made = await access.create_key("deploy", Scope.READ, "root@cli", expires_in=DAY)
        newer, _ = await access.rotate_key("deploy", 60, "root@cli")
        await access.revoke_keys("deploy", "root@cli")
        signed = await place.signed_in()
        again = await access.refresh(signed.refresh)
        await access.set_password("oncall", OTHER, "root@cli")
        for _ in range(TRIES_A_MINUTE):
            await fail(place, "typed-in-the-wrong-field", AWAY)
        second = await access.sign_in("oncall", OTHER, HOME)
        await access.sign_out(second.caller)
        await access.set_scope("oncall", Scope.ADMIN, "root@cli")
        third = await access.sign_in("oncall", OTHER, HOME)
        await access.end_session(third.caller.id, "root@cli")
        await access.sign_in("oncall", OTHER, HOME)
        await access.end_sessions("root@cli")
        await access.remove_operator("oncall", "root@cli")

        assert [what for _, what in await place.told()] == [
            "key.created",
            "key.rotated",
            "key.revoked",
            "key.revoked",
            "operator.added",
            "session.signed_in",
            "operator.password_changed",
            "sign_in.locked_out",
            "session.signed_in",
            "session.signed_out",
            "operator.scope_changed",
            "session.signed_in",
            "session.ended",
            "session.signed_in",
            "session.ended",
            "operator.removed",
        ]
        await place.knowledge.verify_audit()
        text = repr(await place.knowledge.audit_trail(1000))
        tokens = [t for s in (signed, again, second, third) for t in (s.access, s.refresh, s.csrf)]
        keys = [made.text.split("_", 2)[2], newer.text.split("_", 2)[2]]
        for secret in (PASSWORD, OTHER, "typed-in-the-wrong-field", *keys, *tokens):
            assert secret not in text

    play(main)


def test_failed_sign_ins_cannot_push_everything_else_out_of_the_chain() -> None:
    async def main(place: Place) -> None:
        await place.access.add_operator("oncall", PASSWORD, Scope.READ, "root@cli")
        for number in range(200):
            with suppress(SignInRefused):
                await place.access.sign_in(f"n{number % 7}", OTHER, f"203.0.113.{number % 9}")
        assert len([what for _, what in await place.told() if what == "sign_in.locked_out"]) == 1
        place.clock.advance(3600)
        for _ in range(TRIES_A_MINUTE):
            await fail(place, "oncall", AWAY)
        told = (await place.knowledge.audit_trail(1))[0]
        assert told.data["operator"] == "oncall" and told.data["others_since_last"] > 0

    play(main)


def test_nothing_is_handed_out_that_could_not_be_told() -> None:
    async def main(place: Place) -> None:
        await place.signed_in()
        await place.database.write(lambda tx: tx.execute("DELETE FROM state WHERE key = 'audit.head'"))

        with pytest.raises(TamperedError):
            await place.access.create_key("deploy", Scope.ADMIN, "root@cli")
        with pytest.raises(TamperedError):
            await place.access.sign_in("oncall", PASSWORD, HOME)

    play(main)


def test_an_export_holds_nothing_of_who_may_ask(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock()
        database = await SqliteDatabase.open(tmp_path / "knowledge.db", migrations())
        try:
            knowledge = SqliteKnowledge("store", Config(), database, clock)
            access = Access(database, knowledge.audit, clock, lambda: b"k" * 32, Passwords(rounds=4))
            await access.create_key("deploy", Scope.ADMIN, "root@cli")
            await access.add_operator("oncall", PASSWORD, Scope.ADMIN, "root@cli")
            await access.sign_in("oncall", PASSWORD, HOME)
            hidden = [
                value
                for sql in ("SELECT hash FROM keys", "SELECT password FROM operators", "SELECT current FROM sessions")
                for (value,) in await database.read(sql)
            ]
            lines: list[str] = []
            await knowledge.export(lines.append)
        finally:
            await database.close()
        kinds = {json.loads(line)["kind"] for line in lines}
        assert "audit" in kinds and kinds.isdisjoint({"keys", "operators", "sessions"})
        assert len(hidden) == 3 and not any(value in line for value in hidden for line in lines)

    asyncio.run(main())


def test_on_disk_two_processes_see_each_others_changes(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock()
        opened = [await SqliteDatabase.open(tmp_path / "knowledge.db", migrations()) for _ in range(2)]
        try:
            mine, theirs = (
                Access(
                    database,
                    SqliteKnowledge("store", Config(), database, clock).audit,
                    clock,
                    lambda: kept_key(tmp_path / "sign-in.key"),
                    Passwords(rounds=4),
                )
                for database in opened
            )
            made = await theirs.create_key("deploy", Scope.READ, "root@cli")
            assert await mine.by_key(made.text) is not None
            await theirs.add_operator("oncall", PASSWORD, Scope.OPERATE, "root@cli")
            signed = await mine.sign_in("oncall", PASSWORD, HOME)
            assert (tmp_path / "sign-in.key").stat().st_mode & 0o777 == 0o600
            # One refresh token, shown to both at once: one of them turned it, the other gave the same.
            clock.advance(FRESH)
            one, two = await asyncio.gather(mine.refresh(signed.refresh), theirs.refresh(signed.refresh))
            assert one.refresh == two.refresh
            await theirs.revoke_keys("deploy", "root@cli")
            await theirs.end_sessions("root@cli")
            clock.advance(FRESH)
            assert await mine.by_key(made.text) is None
            assert await refused(mine.by_access(one.access)) == "SESSION_ENDED"
        finally:
            for database in opened:
                await database.close()

    asyncio.run(main())


def test_a_signing_key_that_cannot_be_kept_is_a_failing_store(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        def key() -> bytes:
            return kept_key(tmp_path / "missing" / "sign-in.key")

        access = Access(place.database, place.knowledge.audit, place.clock, key, Passwords(rounds=4))
        await access.add_operator("oncall", PASSWORD, Scope.READ, "root@cli")
        with pytest.raises(StoreError, match="signs sessions"):
            await access.sign_in("oncall", PASSWORD, HOME)

    play(main)


def test_another_signing_key_makes_every_session_foreign() -> None:
    async def main(place: Place) -> None:
        signed = await place.signed_in()
        place.secret = secrets.token_bytes(32)
        beside = place.beside()

        assert await refused(beside.by_access(signed.access)) == "TOKEN_FOREIGN"
        assert await refused(beside.refresh(signed.refresh)) == "TOKEN_FOREIGN"

    play(main)


def test_where_nobody_signs_in_neither_library_is_loaded() -> None:
    code = """
import asyncio, sys
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.status.access import Access, Scope, SignInRefused, TokenRefused
from x0tta6bl4.testing.fakes import FakeClock
from x0tta6bl4.testing.memory_database import MemoryDatabase

async def main():
    clock, database = FakeClock(), MemoryDatabase(migrations())
    access = Access(database, SqliteKnowledge("store", Config(), database, clock).audit, clock, lambda: b"k" * 32)
    made = await access.create_key("deploy", Scope.READ, "root@cli")
    assert await access.by_key(made.text)
    assert await access.has_any()
    for work in (access.by_access("a.b.c"), access.refresh("a.b.c"), access.sign_in("a", "b", "192.0.2.1")):
        try:
            await work
        except (TokenRefused, SignInRefused):
            continue
        raise SystemExit("nobody could sign in")

asyncio.run(main())
print(sorted({"bcrypt", "jwt", "cryptography"} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert out.strip() == "[]"
