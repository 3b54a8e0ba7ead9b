"""Knows who may ask the endpoint for what: keys of programs, operators who sign in, and their sessions.

What is changed here is in the database before the call returns and in the audit chain before anything secret is handed
out. Another process, such as the command line, may change the same tables: a running daemon follows within ``FRESH``.
"""

import asyncio
import hmac
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from x0tta6bl4.kernel.errors import StoreError, X0tError
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.database import Database, Row, Transaction
from x0tta6bl4.status.limits import client_key, is_loopback
from x0tta6bl4.status.passwords import Guesses, PasswordRefused, Passwords, broken_rules
from x0tta6bl4.status.tokens import ACCESS_SECONDS, REFRESH_SECONDS, Claims, Line, TokenRefused, Tokens, Turned, digest

log = logging.getLogger("x0tta6bl4.status.access")

FRESH = 1.0
"""Seconds for which what was read is believed: a flood reads once, and what others end has ended then."""
USED_EVERY = 60.0
"""Seconds between two notes of a key's last use."""
MOST_KEYS = 200
MOST_OPERATORS = 200
LIVE_EACH = 2
"""Keys of one name that hold at once: the one in use, and the one that takes its place."""
LIVE_SESSIONS = 20
"""Sessions of one operator that hold at once; one more ends the one that was longest unused."""
SESSIONS_KEPT = 100
"""Rows of one operator's sessions, with those that are over."""
DEAD_KEPT = 90 * 86400.0
"""Seconds for which keys are listed that hold no more."""
SESSIONS_SEEN = 1024

TRIES_A_MINUTE = 5
"""Wrong passwords a minute from one address, and from an address that the operator has signed in from before."""
TRIES_A_NAME = 10
"""Wrong passwords a minute for one name, from all addresses that it has never signed in from."""
WAITING = 4
WAITING_KNOWN = 16
"""Sign-ins that may wait for the one that is hashed; more of those whose address the name has signed in from."""
LOCKED_TOLD_EVERY = 600.0
"""Seconds between two links about too many tries: an attacker must not push what matters out of the chain."""

_KEY = re.compile(r"x0k_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}", re.ASCII)
_NO_DIGEST = digest("")

Audit = Callable[[str, str, Mapping[str, Any]], Awaitable[int]]
"""Adds a link to the audit chain: who, what, data."""


class AccessError(X0tError):
    """What was asked cannot be done: such a name, a second one of it, or none at all."""


class SignInRefused(X0tError):
    """No sign-in. ``code`` names why; ``retry_after``: seconds until the next try is looked at at all."""

    def __init__(self, code: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class Scope(StrEnum):
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def allows(self, other: "Scope") -> bool:
        """Whether who has this may do what needs the other: each scope holds the ones before it."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    kind: Literal["local", "token", "key", "session", "nobody"]
    name: str
    scope: Scope | None
    id: str = ""
    """Of the key or the session; a session's is also what its CSRF token is bound to."""
    per_minute: int | None = None
    """Requests a minute that were agreed with this key; None: as many as everybody."""

    @property
    def way(self) -> str:
        """How an answer of theirs came in, as the journal has it."""
        return "page" if self.kind == "session" else "api"


NOBODY = Caller("nobody", "nobody", None)


@dataclass(frozen=True, slots=True)
class Key:
    """All there is to know of a key but its secret, which nobody knows who has not written it down."""

    id: str
    name: str
    scope: Scope
    per_minute: int | None
    created_at: float
    created_by: str
    expires_at: float | None
    used_at: float | None
    revoked_at: float | None

    def state(self, now: float) -> Literal["live", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "live"


@dataclass(frozen=True, slots=True)
class NewKey:
    about: Key
    text: str = field(repr=False)
    """The key itself. It is nowhere else: shown once."""


@dataclass(frozen=True, slots=True)
class Operator:
    name: str
    scope: Scope
    created_at: float
    created_by: str
    changed_at: float
    """When the password or the scope was last changed."""
    sessions: int
    """How many hold now."""


@dataclass(frozen=True, slots=True)
class Session:
    id: str
    operator: str
    scope: Scope
    client: str
    """The address it was begun from; of IPv6, the network."""
    agent: str
    created_at: float
    used_at: float
    """When it was last refreshed."""
    ends_at: float
    """When it is over if it is not refreshed before."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What a browser gets to keep. The seconds are how long its cookies may live."""

    caller: Caller
    access: str = field(repr=False)
    refresh: str = field(repr=False)
    csrf: str = field(repr=False)
    access_seconds: float
    refresh_seconds: float


@dataclass(frozen=True, slots=True)
class _Known:
    """What was read at one moment."""

    keys: Mapping[str, tuple[Key, str]]
    has_operators: bool
    read_at: float


class Access:
    """``key`` gives the bytes that sign sessions; it may block, and is asked when somebody first signs in.

    While the store cannot be read, StoreError is raised and nobody is let in: whether a key still holds is unknown.
    """

    def __init__(
        self,
        database: Database,
        audit: Audit,
        clock: Clock,
        key: Callable[[], bytes],
        passwords: Passwords | None = None,
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._key = key
        self._passwords = passwords or Passwords()
        self._known = _Known({}, False, float("-inf"))
        self._looking = asyncio.Lock()
        self._tokens: Tokens | None = None
        self._used: dict[str, float] = {}
        self._seen: dict[str, tuple[float, tuple[str, Scope] | None]] = {}
        self._hashing = asyncio.Lock()
        self._waiting = 0
        self._by_place = Guesses(TRIES_A_MINUTE, clock.monotonic)
        self._by_name = Guesses(TRIES_A_NAME, clock.monotonic)
        self._by_both = Guesses(TRIES_A_MINUTE, clock.monotonic)
        self._locked_told = float("-inf")
        self._locked_untold = 0

    async def has_any(self) -> bool:
        """Whether anybody could get in: at least one key that holds, or one operator."""
        rows = await self._database.read(
            "SELECT EXISTS (SELECT 1 FROM operators) OR EXISTS"
            " (SELECT 1 FROM keys WHERE revoked_at IS NULL AND coalesce(expires_at, ?1 + 1) > ?1)",
            (self._clock.wall(),),
        )
        return bool(rows[0][0])

    async def can_sign_in(self) -> bool:
        """Whether there is any operator."""
        return (await self._look()).has_operators

    # -- keys: who asks -------------------------------------------------------------------------------------------

    async def by_key(self, text: str) -> Caller | None:
        """Whose key this is; None when it is nobody's, or no key at all, or holds no more."""
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        known = await self._look()
        key, kept = known.keys.get(match[1], (None, _NO_DIGEST))
        # Compared also when there is no such id, so that the time it takes does not tell which ids there are.
        holds = hmac.compare_digest(digest(text), kept)
        if not holds or key is None or key.state(self._clock.wall()) != "live":
            return None
        await self._note_use(key)
        return Caller("key", key.name, key.scope, key.id, key.per_minute)

    async def holds(self, id: str) -> bool:
        """Whether the key or the session of that id still lets anybody in."""
        key, _ = (await self._look()).keys.get(id, (None, ""))
        if key is not None:
            return key.state(self._clock.wall()) == "live"
        return await self._session(id) is not None

    async def _look(self) -> _Known:
        if self._clock.monotonic() - self._known.read_at < FRESH:
            return self._known
        async with self._looking:
            now = self._clock.monotonic()
            if now - self._known.read_at >= FRESH:
                rows = await self._database.read(_KEYS + ", hash FROM keys")
                operators = await self._database.read("SELECT EXISTS (SELECT 1 FROM operators)")
                keys = {row[0]: (_key(row[:-1]), row[-1]) for row in rows}
                self._known = _Known(keys, bool(operators[0][0]), now)
            return self._known

    async def _note_use(self, key: Key) -> None:
        now = self._clock.wall()
        if now - max(key.used_at or 0.0, self._used.get(key.id, 0.0)) < USED_EVERY:
            return
        self._used[key.id] = now  # before anything is awaited, so that of many requests at once one writes
        self._used = {id: at for id, at in self._used.items() if now - at < USED_EVERY}
        try:
            await self._database.write(lambda tx: tx.execute("UPDATE keys SET used_at = ? WHERE id = ?", (now, key.id)))
        except StoreError as error:
            # The key holds all the same; only the list will show an older use.
            log.warning("the last use of a key could not be noted", extra={"id": key.id, "reason": error.message})

    # -- keys: making and taking them -----------------------------------------------------------------------------

    async def keys(self) -> list[Key]:
        """Those that hold and those that did, the newest first."""
        rows = await self._database.read(_KEYS + " FROM keys ORDER BY created_at DESC, rowid DESC")
        return [_key(row) for row in rows]

    async def create_key(
        self, name: str, scope: Scope, who: str, *, per_minute: int | None = None, expires_in: float | None = None
    ) -> NewKey:
        """AccessError when one of that name holds: `rotate_key` is what puts another in its place."""
        _must_be_name(name)
        if _ID.fullmatch(name):
            raise AccessError(
                f"{name} looks like the id of a key", remedy="choose a name that says what the key is for"
            )
        now = self._clock.wall()
        made = _new_key(name, scope, per_minute, now, who, None if expires_in is None else now + expires_in)

        def put(tx: Transaction) -> None:
            if _live(tx, name, now):
                raise AccessError(
                    f"a key called {name} holds already",
                    remedy=f"`x0tta6bl4 keys rotate {name}` makes another in its place, `keys revoke {name}` ends it",
                )
            if tx.query(f"SELECT count(*) FROM keys WHERE {_HOLDS}", (now,))[0][0] >= MOST_KEYS:  # noqa: S608 ours
                raise AccessError(f"there are {MOST_KEYS} keys", remedy="revoke those that nobody uses any more")
            _insert_key(tx, made, now)

        await self._database.write(put)
        self._forget_seen()
        await self._audit(who, "key.created", _told(made.about))
        return made

    async def rotate_key(self, name: str, overlap: float, who: str) -> tuple[NewKey, Key]:
        """Another key of the same name, scope and rate; the one there was holds for ``overlap`` seconds more.

        The new one lives as long as the old one was meant to. AccessError when none holds, or two do already.
        """
        now = self._clock.wall()

        def put(tx: Transaction) -> tuple[NewKey, Key]:
            live = _live(tx, name, now)
            if not live:
                raise AccessError(
                    f"no key called {name} holds", remedy=f"`x0tta6bl4 keys create {name} --scope …` makes one"
                )
            if len(live) >= LIVE_EACH:
                raise AccessError(
                    f"{LIVE_EACH} keys called {name} hold already",
                    remedy=f"`x0tta6bl4 keys revoke {live[0].id}` ends the older one",
                )
            old = live[0]
            span = None if old.expires_at is None else old.expires_at - old.created_at
            made = _new_key(name, old.scope, old.per_minute, now, who, None if span is None else now + span)
            _insert_key(tx, made, now)
            until = now + overlap if old.expires_at is None else min(now + overlap, old.expires_at)
            tx.execute("UPDATE keys SET expires_at = ? WHERE id = ?", (until, old.id))
            return made, _key(tx.query(_KEYS + " FROM keys WHERE id = ?", (old.id,))[0])

        made, old = await self._database.write(put)
        self._forget_seen()
        await self._audit(who, "key.rotated", {**_told(made.about), "before": old.id, "overlap_seconds": overlap})
        return made, old

    async def revoke_keys(self, wanted: str, who: str) -> list[Key]:
        """Ends the key of that id, or all of that name that hold; those that were ended."""
        now = self._clock.wall()

        def end(tx: Transaction) -> list[Key]:
            rows = tx.query(f"{_KEYS} FROM keys WHERE (id = ?2 OR name = ?2) AND {_HOLDS}", (now, wanted))
            tx.execute_many("UPDATE keys SET revoked_at = ? WHERE id = ?", [(now, row[0]) for row in rows])
            return [_key(row) for row in rows]

        ended = await self._database.write(end)
        self._forget_seen()
        for key in ended:
            await self._audit(who, "key.revoked", {"id": key.id, "name": key.name})
        return ended

    # -- operators ------------------------------------------------------------------------------------------------

    async def operators(self) -> list[Operator]:
        rows = await self._database.read(
            "SELECT name, scope, created_at, created_by, changed_at, (SELECT count(*) FROM sessions"  # noqa: S608 ours
            f" WHERE operator = name AND {_LASTS}) FROM operators ORDER BY name",
            (self._clock.wall(),),
        )
        return [Operator(name, Scope(scope), *rest) for name, scope, *rest in rows]

    async def add_operator(self, name: str, password: str, scope: Scope, who: str) -> None:
        """PasswordRefused with every rule that the password breaks; AccessError for the name."""
        _must_be_name(name)
        kept = await self._hashed(password, name)
        now = self._clock.wall()

        def put(tx: Transaction) -> None:
            if tx.query("SELECT 1 FROM operators WHERE name = ?", (name,)):
                raise AccessError(
                    f"there is an operator called {name} already",
                    remedy=f"`x0tta6bl4 operators password {name}` gives them another password",
                )
            if tx.query("SELECT count(*) FROM operators")[0][0] >= MOST_OPERATORS:
                raise AccessError(f"there are {MOST_OPERATORS} operators", remedy="remove those who left")
            tx.execute(
                "INSERT INTO operators (name, password, scope, created_at, created_by, changed_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (name, kept, str(scope), now, who, now),
            )

        await self._database.write(put)
        self._forget_seen()
        await self._audit(who, "operator.added", {"operator": name, "scope": str(scope)})

    async def set_password(self, name: str, password: str, who: str) -> int:
        """How many sessions it ended. AccessError when there is no such operator."""
        kept = await self._hashed(password, name)
        ended = await self._change(name, "password", kept, "the password was changed")
        await self._audit(who, "operator.password_changed", {"operator": name, "sessions_ended": ended})
        return ended

    async def set_scope(self, name: str, scope: Scope, who: str) -> int:
        """How many sessions it ended. AccessError when there is no such operator."""
        ended = await self._change(name, "scope", str(scope), "the scope was changed")
        told = {"operator": name, "scope": str(scope), "sessions_ended": ended}
        await self._audit(who, "operator.scope_changed", told)
        return ended

    async def remove_operator(self, name: str, who: str) -> int:
        """How many sessions it ended. AccessError when there is no such operator."""
        now = self._clock.wall()

        def remove(tx: Transaction) -> int:
            _must_be_there(tx, name)
            ended = int(tx.query(f"SELECT count(*) FROM sessions WHERE {_LASTS} AND operator = ?2", (now, name))[0][0])  # noqa: S608 ours
            tx.execute("DELETE FROM sessions WHERE operator = ?", (name,))
            tx.execute("DELETE FROM operators WHERE name = ?", (name,))
            return ended

        ended = await self._database.write(remove)
        self._forget_seen()
        await self._audit(who, "operator.removed", {"operator": name, "sessions_ended": ended})
        return ended

    async def _hashed(self, password: str, name: str) -> str:
        broken = broken_rules(password, name)
        if broken:
            raise PasswordRefused(broken)
        return await self._passwords.hash(password)

    async def _change(self, name: str, column: Literal["password", "scope"], value: str, why: str) -> int:
        now = self._clock.wall()

        def change(tx: Transaction) -> int:
            _must_be_there(tx, name)
            tx.execute(f"UPDATE operators SET {column} = ?, changed_at = ? WHERE name = ?", (value, now, name))  # noqa: S608 ours
            return len(_end(tx, now, why, " AND operator = ?2", (name,)))

        ended = await self._database.write(change)
        self._forget_seen()
        return ended

    # -- signing in -----------------------------------------------------------------------------------------------

    async def sign_in(self, name: str, password: str, client: str, agent: str = "") -> SignedIn:
        """``client``: the address that asks. SignInRefused says no more of a wrong name than of a wrong password.

        Too many failures close the way they came, and only that, until time has made them good: an address, a name for
        all addresses that it never signed in from, and a name with one that it did. So nobody elsewhere can keep an
        operator out of the places he works from; and this host itself, over loopback, is such a place for everybody.
        """
        name = name.strip().lower()
        if not _NAME.fullmatch(name):
            name = ""  # nobody is called so
        kept, is_known, has_operators = await self._kept(name, client)
        counted = self._counted(name, client, is_known)
        _must_not_wait(counted)
        async with self._turn(is_known):
            _must_not_wait(counted)
            holds = False
            try:
                # Where nobody can sign in at all there is nothing to guess, and nothing to load.
                holds = has_operators and await self._passwords.holds(password, kept)
            finally:  # also when whoever asked went away: he may have been told enough
                wait = 0.0 if holds else max([guesses.failed(who) for guesses, who in counted])
        if not holds or kept is None:
            if wait:
                await self._tell_locked(name if kept else "", client, wait)
            raise SignInRefused("SIGN_IN_WRONG", "the name or the password is wrong", wait)
        return await self._open(name, kept, client, agent)

    async def _kept(self, name: str, client: str) -> tuple[str | None, bool, bool]:
        """The hash of the operator's password; whether he works from that address; whether there are operators."""
        rows = await self._database.read(
            "SELECT (SELECT password FROM operators WHERE name = ?1),"
            " EXISTS (SELECT 1 FROM sessions WHERE operator = ?1 AND client = ?2), EXISTS (SELECT 1 FROM operators)",
            (name, client_key(client)),
        )
        kept, was_here, has_operators = rows[0]
        return kept, bool(was_here) or is_loopback(client), bool(has_operators)

    def _counted(self, name: str, client: str, is_known: bool) -> list[tuple[Guesses, str]]:
        place = client_key(client)
        if is_known:
            return [(self._by_both, f"{name} {place}")]
        return [(self._by_place, place), (self._by_name, name)]

    @asynccontextmanager
    async def _turn(self, is_known: bool) -> AsyncIterator[None]:
        if self._waiting >= (WAITING_KNOWN if is_known else WAITING):
            raise SignInRefused("SIGN_IN_BUSY", "others are signing in just now", 2.0)
        self._waiting += 1
        try:
            async with self._hashing:
                yield
        finally:
            self._waiting -= 1

    async def _tell_locked(self, name: str, client: str, wait: float) -> None:
        """``name`` only of an operator: what was typed there otherwise may be a password in the wrong field."""
        place = client_key(client)
        log.warning("too many failed sign-ins", extra={"client": place, "operator": name, "wait": round(wait, 3)})
        now = self._clock.monotonic()
        if now - self._locked_told < LOCKED_TOLD_EVERY:
            self._locked_untold += 1
            return
        untold, self._locked_told, self._locked_untold = self._locked_untold, now, 0
        await self._audit(
            "endpoint", "sign_in.locked_out", {"operator": name, "client": place, "others_since_last": untold}
        )

    async def _open(self, name: str, kept: str, client: str, agent: str) -> SignedIn:
        tokens = await self._signing()
        line, refresh = tokens.begin(secrets.token_hex(8), name)
        now, place = self._clock.wall(), client_key(client)
        shown = "".join(c if c.isprintable() else "?" for c in agent[:120])

        def put(tx: Transaction) -> Scope | None:
            # Between the look at the password and now somebody may have changed it.
            rows = tx.query("SELECT scope FROM operators WHERE name = ? AND password = ?", (name, kept))
            if not rows:
                return None
            _tidy_sessions(tx, name, now)
            tx.execute(
                "INSERT INTO sessions (id, operator, client, agent, created_at, ends_at, number, turned_at, current,"
                " previous, ended_why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '')",
                (line.session, name, place, shown, now, line.ends_at, line.number, line.turned_at, line.current, ""),
            )
            return Scope(rows[0][0])

        scope = await self._database.write(put)
        if scope is None:
            raise SignInRefused("SIGN_IN_WRONG", "the name or the password is wrong")
        self._forget_seen()
        await self._audit(name, "session.signed_in", {"session": line.session, "client": place, "scope": str(scope)})
        return self._given(tokens, Caller("session", name, scope, line.session), line, refresh)

    def _given(self, tokens: Tokens, caller: Caller, line: Line, refresh: str) -> SignedIn:
        now = self._clock.wall()
        return SignedIn(
            caller,
            tokens.access(line),
            refresh,
            tokens.csrf(line.session),
            min(ACCESS_SECONDS, line.ends_at - now),
            tokens.refresh_until(line) - now,
        )

    async def _signing(self) -> Tokens:
        if self._tokens is None:
            async with self._looking:
                if self._tokens is None:
                    try:
                        self._tokens = await asyncio.to_thread(self._begin_signing)
                    except OSError as error:
                        raise StoreError(f"the key that signs sessions cannot be kept: {error}") from error
        return self._tokens

    def _begin_signing(self) -> Tokens:
        tokens = Tokens(self._key(), self._clock)
        tokens.prepare()
        return tokens

    # -- sessions -------------------------------------------------------------------------------------------------

    async def by_access(self, token: str) -> Caller:
        """Whose session this access token is of. TokenRefused, whatever is wrong with it."""
        if not (await self._look()).has_operators:
            raise TokenRefused("TOKEN_FOREIGN", "nobody can sign in here")
        claims = (await self._signing()).read(token, "access")
        kept = await self._session(claims.session)
        if kept is None or kept[0] != claims.subject:
            raise TokenRefused("SESSION_ENDED", "the session was ended")
        return Caller("session", kept[0], kept[1], claims.session)

    async def _session(self, id: str) -> tuple[str, Scope] | None:
        until, kept = self._seen.get(id, (float("-inf"), None))
        if self._clock.monotonic() < until:
            return kept
        async with self._looking:
            until, kept = self._seen.get(id, (float("-inf"), None))
            now = self._clock.monotonic()
            if now < until:
                return kept
            rows = await self._database.read(
                f"SELECT operator, scope FROM sessions JOIN operators ON name = operator WHERE {_OPEN} AND id = ?2",  # noqa: S608 ours
                (self._clock.wall(), id),
            )
            kept = (rows[0][0], Scope(rows[0][1])) if rows else None
            self._seen.pop(id, None)
            self._seen[id] = (now + FRESH, kept)
            while len(self._seen) > SESSIONS_SEEN:
                del self._seen[next(iter(self._seen))]
        return kept

    async def by_refresh(self, token: str) -> Caller:
        """Whose session this refresh token is of, without using it up: for signing out, and for the CSRF check.

        TokenRefused, whatever is wrong with it. One that was used before ends the session here too: browsers keep
        only the one that counts, so whoever shows another did not get it from the browser.
        """
        tokens, claims = await self._read_refresh(token)
        rows = await self._database.read(_LINE, (self._clock.wall(), claims.session, claims.subject))
        if not rows:
            raise TokenRefused("SESSION_ENDED", "the session was ended")
        if tokens.turn(_line(rows[0]), token).how == "reused":
            await self.refresh(token)  # refuses it, and ends the session
        return Caller("session", claims.subject, Scope(rows[0][0]), claims.session)

    async def _read_refresh(self, token: str) -> tuple[Tokens, Claims]:
        if not (await self._look()).has_operators:
            raise TokenRefused("TOKEN_FOREIGN", "nobody can sign in here")
        tokens = await self._signing()
        return tokens, tokens.read(token, "refresh")

    async def refresh(self, token: str) -> SignedIn:
        """New tokens for the refresh token that counts, which counts no more then. TokenRefused for any other.

        One that was used before is in two hands: the session is ended, whichever of them is the owner's.
        """
        tokens, claims = await self._read_refresh(token)
        now = self._clock.wall()

        def turn(tx: Transaction) -> tuple[Turned, Scope] | None:
            rows = tx.query(_LINE, (now, claims.session, claims.subject))
            if not rows:
                return None
            turned = tokens.turn(_line(rows[0]), token)
            if turned.how == "turned":
                tx.execute(
                    "UPDATE sessions SET number = ?, turned_at = ?, current = ?, previous = ? WHERE id = ?",
                    (*_place(turned.line), claims.session),
                )
            elif turned.how == "reused":
                _end(tx, now, "a refresh token was used twice", " AND id = ?2", (claims.session,))
            return turned, Scope(rows[0][0])

        found = await self._database.write(turn)
        if found is None:
            raise TokenRefused("SESSION_ENDED", "the session was ended")
        turned, scope = found
        if turned.how == "reused":
            self._forget_seen()
            await self._audit("endpoint", "session.reuse_seen", {"session": claims.session, "operator": claims.subject})
            raise TokenRefused(
                "REFRESH_REUSED", "the token was used before, so somebody else may have it; the session was ended"
            )
        caller = Caller("session", claims.subject, scope, claims.session)
        return self._given(tokens, caller, turned.line, turned.token)

    def csrf_holds(self, caller: Caller, cookie: str, header: str) -> bool:
        """Whether a change that came with cookies was asked for by a page that can read them: both alike, and made
        for this session."""
        if caller.kind != "session" or self._tokens is None:
            return False
        return self._tokens.csrf_holds(caller.id, cookie, header)

    async def sign_out(self, caller: Caller) -> bool:
        """Whether there was a session to end."""
        return await self._end_one(caller.id, caller.name, "session.signed_out", "signed out")

    async def sessions(self, operator: str | None = None) -> list[Session]:
        """Those that hold, the latest first."""
        rows = await self._database.read(
            "SELECT id, operator, scope, client, agent, sessions.created_at, turned_at,"  # noqa: S608 ours
            f" {_UNTIL} FROM sessions JOIN operators ON name = operator"
            f" WHERE {_LASTS} AND operator = coalesce(?2, operator) ORDER BY turned_at DESC, id",
            (self._clock.wall(), operator),
        )
        return [Session(id, name, Scope(scope), *rest) for id, name, scope, *rest in rows]

    async def end_session(self, id: str, who: str) -> bool:
        """Whether there was one to end. Its access tokens are refused from then on, elsewhere within ``FRESH``."""
        return await self._end_one(id, who, "session.ended", f"ended by {who}")

    async def end_sessions(self, who: str, operator: str | None = None) -> int:
        """Of that operator, or of everybody: how many."""
        now = self._clock.wall()
        where, values = (" AND operator = ?2", (operator,)) if operator is not None else ("", ())
        ended = await self._database.write(lambda tx: _end(tx, now, f"ended by {who}", where, values))
        self._forget_seen()
        if ended:
            await self._audit(who, "session.ended", {"operator": operator or "*", "sessions": [id for id, _ in ended]})
        return len(ended)

    async def _end_one(self, id: str, who: str, what: str, why: str) -> bool:
        now = self._clock.wall()
        ended = await self._database.write(lambda tx: _end(tx, now, why, " AND id = ?2", (id,)))
        self._forget_seen()
        for session, operator in ended:
            await self._audit(who, what, {"session": session, "operator": operator})
        return bool(ended)

    def _forget_seen(self) -> None:
        """What was changed here counts here at once."""
        self._seen.clear()
        self._known = _Known({}, False, float("-inf"))


# ?1 is the wall clock in each of these.
_KEYS = "SELECT id, name, scope, per_minute, created_at, created_by, expires_at, used_at, revoked_at"
_HOLDS = "revoked_at IS NULL AND coalesce(expires_at, ?1 + 1) > ?1"
_OPEN = "ended_at IS NULL AND ends_at > ?1"
_UNTIL = f"min(ends_at, turned_at + {REFRESH_SECONDS!r})"
_LASTS = f"ended_at IS NULL AND {_UNTIL} > ?1"
_LINE = (
    "SELECT scope, id, operator, ends_at, number, turned_at, current, previous FROM sessions"  # noqa: S608 ours
    f" JOIN operators ON name = operator WHERE {_LASTS} AND id = ?2 AND operator = ?3"
)


def _must_be_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        shown = "".join(c if c.isprintable() else "?" for c in name[:80])
        raise AccessError(
            f"{shown!r} cannot be a name",
            remedy="use up to 64 of a-z, 0-9 and . _ @ -, beginning with a letter or a digit",
        )


def _must_be_there(tx: Transaction, name: str) -> None:
    if not tx.query("SELECT 1 FROM operators WHERE name = ?", (name,)):
        raise AccessError(f"there is no operator called {name[:80]!r}", remedy="`x0tta6bl4 operators list` tells all")


def _must_not_wait(counted: Sequence[tuple[Guesses, str]]) -> None:
    wait = max([guesses.wait(who) for guesses, who in counted])
    if wait:
        raise SignInRefused("SIGN_IN_LOCKED", "too many sign-ins have failed", wait)


def _new_key(name: str, scope: Scope, per_minute: int | None, now: float, who: str, expires_at: float | None) -> NewKey:
    id = secrets.token_hex(6)
    about = Key(id, name, scope, per_minute, now, who, expires_at, None, None)
    return NewKey(about, f"x0k_{id}_{secrets.token_urlsafe(32)}")


def _insert_key(tx: Transaction, made: NewKey, now: float) -> None:
    # The dead go when the next is born: nothing else makes the table grow.
    tx.execute("DELETE FROM keys WHERE coalesce(revoked_at, expires_at) < ?", (now - DEAD_KEPT,))
    about = made.about
    tx.execute(
        "INSERT INTO keys (id, name, scope, per_minute, hash, created_at, created_by, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            about.id,
            about.name,
            str(about.scope),
            about.per_minute,
            digest(made.text),
            about.created_at,
            about.created_by,
            about.expires_at,
        ),
    )


def _live(tx: Transaction, name: str, now: float) -> list[Key]:
    rows = tx.query(f"{_KEYS} FROM keys WHERE {_HOLDS} AND name = ?2 ORDER BY created_at, rowid", (now, name))
    return [_key(row) for row in rows]


def _key(row: Row) -> Key:
    id, name, scope, *rest = row
    return Key(id, name, Scope(scope), *rest)


def _told(key: Key) -> dict[str, Any]:
    """What the audit chain is told of a new key."""
    return {
        "id": key.id,
        "name": key.name,
        "scope": str(key.scope),
        "per_minute": key.per_minute,
        "until": key.expires_at,
    }


def _line(row: Row) -> Line:
    _, session, operator, ends_at, number, turned_at, current, previous = row
    return Line(session, operator, ends_at, number, turned_at, current, previous)


def _place(line: Line) -> tuple[int, float, str, str]:
    return line.number, line.turned_at, line.current, line.previous


def _end(tx: Transaction, now: float, why: str, where: str, values: Sequence[str]) -> list[tuple[str, str]]:
    """Ends the sessions that hold and fit: the id and the operator of each."""
    rows = tx.query(f"SELECT id, operator FROM sessions WHERE {_LASTS}{where}", (now, *values))  # noqa: S608 ours
    tx.execute_many("UPDATE sessions SET ended_at = ?, ended_why = ? WHERE id = ?", [(now, why, id) for id, _ in rows])
    return [(id, operator) for id, operator in rows]


def _tidy_sessions(tx: Transaction, operator: str, now: float) -> None:
    """Makes room for one more. Those that are over stay a while: they tell where the operator works from."""
    live = tx.query(
        f"SELECT id FROM sessions WHERE {_LASTS} AND operator = ?2 ORDER BY turned_at DESC LIMIT -1 OFFSET ?3",  # noqa: S608 ours
        (now, operator, LIVE_SESSIONS - 1),
    )
    tx.execute_many(
        "UPDATE sessions SET ended_at = ?, ended_why = 'others took its place' WHERE id = ?",
        [(now, id) for (id,) in live],
    )
    tx.execute("DELETE FROM sessions WHERE ends_at <= ?", (now,))
    tx.execute(
        "DELETE FROM sessions WHERE operator = ?1 AND id NOT IN"
        " (SELECT id FROM sessions WHERE operator = ?1 ORDER BY ended_at IS NULL DESC, turned_at DESC LIMIT ?2)",
        (operator, SESSIONS_KEPT - 1),
    )
