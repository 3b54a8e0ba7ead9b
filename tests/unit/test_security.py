"""Passwords and tokens as a library: the endpoint's own rules, kept in this process's memory."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from uuid import UUID

import pytest

from x0tta6bl4.status import security as module
from x0tta6bl4.status.passwords import PasswordRefused
from x0tta6bl4.status.security import Security, User
from x0tta6bl4.status.tokens import ACCESS_SECONDS, AGAIN_WITHIN, SESSION_SECONDS, TokenRefused
from x0tta6bl4.testing.fakes import FakeClock


def play(work: Callable[[Security, FakeClock], Awaitable[None]]) -> None:
    async def main() -> None:
        clock = FakeClock()
        await work(Security(b"k" * 32, clock=clock, rounds=4), clock)

    asyncio.run(main())


async def refused(work: Awaitable[User]) -> str:
    with pytest.raises(TokenRefused) as caught:
        await work
    return caught.value.code


@pytest.mark.parametrize("user_id", [7, "user-1", UUID(int=5), ("a", 1)])
def test_a_user_is_given_back_as_he_was_named(user_id: Hashable) -> None:
    async def main(security: Security, clock: FakeClock) -> None:
        token, refresh = security.create_tokens(user_id)
        user = await security.verify_and_refresh_token(token, refresh)

        assert user == User(user_id, token, refresh)
        assert token not in repr(user) and refresh not in repr(user)

    play(main)


@pytest.mark.parametrize("user_id", ["", "x" * 300])
def test_what_names_nobody_gets_no_tokens(user_id: str) -> None:
    with pytest.raises(ValueError, match="characters"):
        Security().create_tokens(user_id)


def test_when_the_access_token_is_over_the_refresh_token_is_used_up() -> None:
    async def main(security: Security, clock: FakeClock) -> None:
        token, refresh = security.create_tokens("user-1")
        clock.advance(ACCESS_SECONDS)
        user = await security.verify_and_refresh_token(token, refresh)
        assert user.token != token and user.refresh != refresh
        assert await security.verify_and_refresh_token(user.token, user.refresh) == user

        clock.advance(ACCESS_SECONDS)
        assert await refused(security.verify_and_refresh_token(token, refresh)) == "REFRESH_REUSED"
        assert await refused(security.verify_and_refresh_token(user.token, user.refresh)) == "SESSION_ENDED"

    play(main)


def test_the_same_refresh_token_twice_in_a_moment_is_no_theft() -> None:
    async def main(security: Security, clock: FakeClock) -> None:
        token, refresh = security.create_tokens("user-1")
        clock.advance(ACCESS_SECONDS)
        one = await security.verify_and_refresh_token(token, refresh)
        clock.advance(AGAIN_WITHIN)
        two = await security.verify_and_refresh_token(token, refresh)
        assert one.refresh == two.refresh

    play(main)


def test_tokens_that_prove_nothing_are_refused_by_name() -> None:
    async def main(security: Security, clock: FakeClock) -> None:
        token, refresh = security.create_tokens("user-1")
        other, _ = Security(clock=clock).create_tokens("user-1")
        verify = security.verify_and_refresh_token

        assert await refused(verify("", "")) == "TOKEN_MALFORMED"
        assert await refused(verify(other, refresh)) == "TOKEN_FOREIGN"
        assert await refused(verify(refresh, refresh)) == "TOKEN_USE"
        clock.advance(ACCESS_SECONDS)
        assert await refused(verify(token, "x")) == "TOKEN_MALFORMED"
        assert await refused(verify(token, token)) == "TOKEN_USE"
        clock.advance(SESSION_SECONDS)
        assert await refused(verify(token, refresh)) == "TOKEN_EXPIRED"

    play(main)


def test_a_session_can_be_ended() -> None:
    async def main(security: Security, clock: FakeClock) -> None:
        token, refresh = security.create_tokens("user-1")
        security.end_session(token)
        assert await refused(security.verify_and_refresh_token(token, refresh)) == "SESSION_ENDED"
        security.end_session(token)  # once more changes nothing

    play(main)


def test_sessions_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSIONS", 3)

    async def main(security: Security, clock: FakeClock) -> None:
        tokens = [security.create_tokens(number) for number in range(5)]
        assert await refused(security.verify_and_refresh_token(*tokens[1])) == "SESSION_ENDED"
        assert (await security.verify_and_refresh_token(*tokens[2])).id == 2

    play(main)


def test_what_is_there_at_once_can_be_awaited() -> None:
    async def main(security: Security, clock: FakeClock) -> None:
        hashed = security.get_password_hash("test_password")
        assert await hashed == hashed and isinstance(hashed, str)
        assert await security.verify_password("test_password", hashed)
        assert not await security.verify_password("test_passwort", hashed)
        pair = security.create_tokens(1)
        assert await pair == pair == tuple(pair)

    play(main)


@pytest.mark.parametrize("password", ["", "x" * 73, "a\0b", "\udc80"])
def test_a_password_that_would_not_be_read_whole_is_not_hashed(password: str) -> None:
    with pytest.raises(PasswordRefused):
        Security(rounds=4).get_password_hash(password)
