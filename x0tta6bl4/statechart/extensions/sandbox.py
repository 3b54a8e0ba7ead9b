"""Runs foreign guards and actions in a warm child process that can compute, read its own modules, and nothing else.

A function is named ``module:function``, stands in a directory of its plugin, and takes and returns JSON values. What
the child does to itself before it sees the first of them stands in ``cage.py``, which system calls are left to it in
``bpf.py``. Without seccomp and Landlock nothing is loaded at all.

What is left to foreign code: computing within its limits, reading the Python library (with packages that are installed
inside of it) and its own directory, the clock, randomness, and learning by ``stat`` that some file exists. Under root
it stays root by name and has none of root's capabilities. One call can
leave things behind for the next, and code of one directory can change what other code of it returns: give each plugin
a sandbox of its own, and ``Bounds(calls=1)`` where that is not enough.

The engine may ask a guard more than once and take back what an action did; foreign functions cannot touch the world,
so that does no harm. Calls block their thread for at most their timeout each; on an event loop, use ``acall``.
"""

import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from x0tta6bl4.statechart.core.transition import Scope
from x0tta6bl4.statechart.extensions import bpf
from x0tta6bl4.statechart.extensions.cage import CALL, ERROR, HEADER, STATE, TERMS, VALUE
from x0tta6bl4.statechart.types.base import EvaluationError, byte_size

_T = TypeVar("_T")
_ESSENTIAL = ("limits", "no-capabilities", "dies-with-parent", "no-new-privileges", "seccomp")
_FILES = "landlock-files"
_LONGEST_BACKOFF = 60.0
_ENDING = 5.0
"""Seconds a killed child gets to disappear; one that needs more hangs inside the kernel and is reaped later."""
_ERROR_TEXT = 2_000
_CHUNK = 65_536
"""What a pipe holds unless it is told otherwise: one read empties it."""


class SandboxError(EvaluationError):
    """The call has no result: the child was too slow, broke a rule, or is gone."""


class FunctionFailed(SandboxError):
    """The function itself failed, or gave back what it may not; the child is well and takes the next call."""


class SandboxUnavailable(SandboxError):
    """Nothing will be run, now or later: the kernel cannot confine it, or the child died too often in a row."""


class _Broken(Exception):
    """The conversation with the child cannot go on."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one sandbox may use. Bytes and seconds."""

    timeout: float = 1.0
    """Of a call, on the wall clock, with the import that the first call of a module needs. A child that is slower is
    killed, and the next call pays for another. The engine's thread waits for so long at worst."""
    start: float = 10.0
    """For the child to come up and lock itself; a machine under load needs some."""
    memory: int = 256 << 20
    """Address space of the child, of which Python itself takes about 30 MiB."""
    cpu: int = 60
    """Processor seconds of one life, ended by the kernel. A child whose calls have taken so long together is replaced
    before, so that only a single call that uses all of it is ever cut."""
    open_files: int = 32
    message: int = 1 << 20
    """A call's arguments, or its result, as JSON. In memory a hostile result can take twenty times as much."""
    output: int = 8 << 10
    """What is kept of what one call prints; the rest is counted."""
    crashes: int = 5
    """So many lives in a row that ended badly without one good call, and nothing is started any more."""
    backoff: float = 0.1
    """From the second such life on: calls are refused for so long before another child is started, doubled each time
    up to a minute. The first one is replaced at once."""
    calls: int = 0
    """After so many calls the child is replaced by a fresh one; 0: never. 1 costs a start for each call."""

    def __post_init__(self) -> None:
        for name in ("timeout", "start", "memory", "cpu", "open_files", "message", "crashes"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value!r}: it has to be a number above 0")
        for name in ("output", "backoff", "calls"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it cannot be below 0")


@dataclass(frozen=True, slots=True)
class Tally:
    """What has happened in a sandbox so far."""

    starts: int = 0
    calls: int = 0
    failed: int = 0
    """Calls in which the function failed."""
    timeouts: int = 0
    crashes: int = 0
    """Lives that ended badly, timeouts among them."""


class _Life(threading.Thread):
    """Starts a child and stays until it has ended.

    The kernel sends the death signal when the *thread* that started the child ends, not the process. This one ends
    with the child or with the process.
    """

    def __init__(self, command: Sequence[str], channel: int, output: int) -> None:
        super().__init__(name="sandbox", daemon=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.error: OSError | None = None
        self.settled = threading.Event()
        self._command = command
        self._channel = channel
        self._output = output

    def run(self) -> None:
        # Hash order and time zone are fixed, so that the same call gives the same result everywhere. A Python that was
        # installed outside the usual places may need the search path of its libraries; the child forgets it at once.
        environment = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8", "TZ": "UTC0"}
        if "LD_LIBRARY_PATH" in os.environ:
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        try:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                cwd="/",
                env=environment,
                pass_fds=(self._channel,),
                start_new_session=True,
            )
        except OSError as error:
            self.error = error
            return
        finally:
            self.settled.set()
        # Not reaped here: the pid stays ours for as long as somebody might still want to kill it.
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)


class _Child:
    """One child process and the conversation with it."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.calls = 0
        self.busy = 0.0
        """Seconds that its calls have taken: no less than the processor time they have used."""
        self.printed = b""
        self.dropped = 0
        self._number = 0
        with ExitStack() as on_failure, ExitStack() as theirs:
            self._channel, channel = socket.socketpair()
            on_failure.callback(self._channel.close)
            theirs.callback(channel.close)
            self._output, output = os.pipe()
            on_failure.callback(os.close, self._output)
            theirs.callback(os.close, output)
            self._channel.setblocking(False)
            os.set_blocking(self._output, False)
            cage = str(Path(__file__).with_name("cage.py"))
            # -P -s -S: no directory of a user or of the daemon, and no code of either, before the locks are shut.
            command = (sys.executable, "-P", "-s", "-S", "-B", "-u", cage, str(channel.fileno()))
            self._life = _Life(command, channel.fileno(), output)
            self._life.start()
            self._life.settled.wait()
            if self._life.process is None:
                raise OSError(str(self._life.error))
            on_failure.pop_all()
        self.process = self._life.process
        self._poll = select.poll()
        self._poll.register(self._channel, select.POLLIN)
        self._poll.register(self._output, select.POLLIN)

    def says_something(self) -> bool:
        """Whether there is something to hear before anything was asked: an end, or a child that breaks the rules."""
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        return bool(waiting.poll(0))

    def has_ended(self) -> bool:
        with suppress(BlockingIOError, ConnectionResetError):
            return not self._channel.recv(1, socket.MSG_PEEK)
        return True

    def ask(self, kind: int, body: bytes, timeout: float) -> tuple[int, bytes]:
        """Kind and body of the answer."""
        self.printed, self.dropped = b"", 0
        self._number = (self._number + 1) & 0xFFFFFFFF
        began = time.monotonic()
        try:
            return self._exchange(HEADER.pack(len(body), self._number, kind) + body, began + timeout)
        finally:
            self.busy += time.monotonic() - began

    def _exchange(self, message: bytes, deadline: float) -> tuple[int, bytes]:
        unsent = self._send(memoryview(message))
        self._poll.modify(self._channel, select.POLLIN | (select.POLLOUT if unsent else 0))
        heard = bytearray()
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for place, what in self._poll.poll(math.ceil(left * 1000)):
                if place == self._output:
                    self._hear_output()
                    continue
                if unsent and what & select.POLLOUT:
                    unsent = self._send(unsent)
                    if not unsent:
                        self._poll.modify(self._channel, select.POLLIN)
                if what & ~select.POLLOUT:
                    self._hear(heard)
                    if len(heard) >= HEADER.size and (answer := self._answer(heard)):
                        if unsent:
                            raise _Broken("it answered before it was asked")
                        self._hear_output()
                        return answer

    def _send(self, rest: memoryview) -> memoryview:
        try:
            return rest[self._channel.send(rest) :]
        except BlockingIOError:
            return rest
        except (BrokenPipeError, ConnectionResetError):
            raise _Broken("it hung up") from None

    def _hear(self, heard: bytearray) -> None:
        try:
            chunk = self._channel.recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            raise _Broken("it hung up")
        heard += chunk

    def _answer(self, heard: bytearray) -> tuple[int, bytes] | None:
        length, number, kind = HEADER.unpack_from(heard)
        if number != self._number or kind not in (VALUE, ERROR, STATE):
            raise _Broken("it spoke out of turn")
        # An error is as long as its text, however little a result may take.
        if length > max(self.bounds.message, 4 * _ERROR_TEXT):
            raise _Broken(f"its answer has {length} bytes, and {self.bounds.message} are allowed")
        if len(heard) > HEADER.size + length:
            raise _Broken("it said more than one answer")
        if len(heard) < HEADER.size + length:
            return None
        return kind, bytes(heard[HEADER.size :])

    def _hear_output(self) -> None:
        try:
            chunk = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            # Closed on the other side; asked again, poll would say so for ever.
            with suppress(KeyError):
                self._poll.unregister(self._output)
        kept = chunk[: max(0, self.bounds.output - len(self.printed))]
        self.printed += kept
        self.dropped += len(chunk) - len(kept)

    def end(self) -> int | None:
        """How it ended, as subprocess tells it; None when it is stuck inside the kernel. Leaves nothing behind, and
        may be called again."""
        if self._channel.fileno() < 0:
            return self.process.returncode
        # Its group: it cannot have made others, and if ever it could they go with it.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._life.join(_ENDING)
        code = None if self._life.is_alive() else self.process.wait()
        self._hear_output()
        self._channel.close()
        os.close(self._output)
        return code


class Sandbox:
    """The foreign functions of one directory, each call bounded, in one child that is started when it is needed."""

    def __init__(
        self,
        home: str | os.PathLike[str],
        *,
        bounds: Bounds | None = None,
        readable: Sequence[str] = (),
        without_landlock: bool = False,
        on_output: Callable[[str, str], None] | None = None,
    ) -> None:
        """``home`` is the directory of the modules; besides it, they can read everything below ``readable``.

        ``without_landlock``: run on a kernel that has none as well. Foreign code can then read (never write) whatever
        the daemon's user can. ``on_output`` is told the function and what a call of it has printed.
        """
        self.home = Path(home).resolve()
        self.bounds = bounds or Bounds()
        self.tally = Tally()
        self.holds: tuple[str, ...] = ()
        """The locks that are shut around the child, once it was started."""
        self.lacks: dict[str, str] = {}
        """Those that this kernel does not have, and why; what is essential among them keeps the child from running."""
        self._readable = tuple(readable)
        self._without_landlock = without_landlock
        self._on_output = on_output
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._bad_lives = 0
        self._not_before = 0.0
        self._over = ""

    def start(self) -> None:
        """Starts the child now instead of with the first call; fails when this machine cannot confine it."""
        with self._lock:
            self._ready(self.bounds.timeout)

    def close(self) -> None:
        """Ends the child, after the call that may be under way. Nothing is run any more."""
        with self._lock:
            self._over = "the sandbox was closed"
            self._discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's; None while there is none."""
        child = self._child
        return child.process.pid if child else None

    def call(self, function: str, *arguments: Any, timeout: float | None = None) -> Any:
        """The function's result. Waits for its turn, then for at most ``timeout`` (and, without a child, its start)."""
        _checked(function)
        limit = self.bounds.timeout if timeout is None else timeout
        if not (math.isfinite(limit) and limit > 0):
            raise ValueError(f"the timeout is {limit!r}: it has to be a number above 0")
        body = self._written(function, arguments)
        printed = ""
        try:
            with self._lock:
                child = self._ready(limit)
                self.tally = replace(self.tally, calls=self.tally.calls + 1)
                try:
                    return self._asked(child, function, body, limit)
                finally:
                    printed = child.printed.decode(errors="replace")
                    if child.dropped:
                        printed += f" … and {child.dropped} bytes more"
        finally:
            # Not under the lock: it may want to call something itself.
            if printed and self._on_output:
                self._on_output(function, printed)

    async def acall(self, function: str, *arguments: Any, timeout: float | None = None) -> Any:
        """``call`` beside a running event loop. Cancelled, it leaves the call to its end or its timeout."""
        import asyncio

        return await asyncio.to_thread(self.call, function, *arguments, timeout=timeout)

    def as_guard(self, function: str, *, timeout: float | None = None) -> Callable[[Scope], bool]:
        """``function(data, event)`` as a guard: the variables, and the event as ``{"name", "data"}`` or None. It has to
        say true or false; anything else is a failure, not a guess."""

        def holds(scope: Scope) -> bool:
            answer = self.call(function, *_seen(scope), timeout=timeout)
            if not isinstance(answer, bool):
                raise FunctionFailed(f"{function} has to say true or false, and said {_brief(answer)}")
            return answer

        return _named(holds, function)

    def as_action(self, function: str, *, timeout: float | None = None) -> Callable[[Scope], None]:
        """``function(data, event)`` as an action: what it returns, a mapping of variables, is assigned."""

        def do(scope: Scope) -> None:
            answer = self.call(function, *_seen(scope), timeout=timeout)
            if answer is None:
                return
            if not isinstance(answer, dict):
                raise FunctionFailed(f"{function} has to return variables by name, and returned {_brief(answer)}")
            strange = [name for name in answer if name not in scope.data]
            if strange:
                raise FunctionFailed(f"{function} returned {strange[0]!r}, and there is no such variable")
            for name, value in answer.items():
                scope.data[name] = value

        return _named(do, function)

    # Everything below is done by whoever holds the lock.

    def _ready(self, timeout: float) -> _Child:
        child = self._child
        if child and child.says_something():
            if not child.has_ended():
                self._crashed()
            self._discard()
        elif child and self._is_worn(child, timeout):
            self._discard()
        if self._over:
            raise SandboxUnavailable(self._over)
        if self._child is None:
            wait = self._not_before - time.monotonic()
            if wait > 0:
                raise SandboxError(f"the sandbox has died {self._bad_lives} times in a row; next try in {wait:.1f} s")
            return self._start()
        return self._child

    def _is_worn(self, child: _Child, timeout: float) -> bool:
        if self.bounds.calls and child.calls >= self.bounds.calls:
            return True
        return child.calls > 0 and child.busy + timeout > self.bounds.cpu

    def _start(self) -> _Child:
        machine = os.uname().machine
        target = bpf.architecture(machine)
        if target is None:
            self._over = f"nothing confines foreign code here: there is no list of calls for {machine}"
            raise SandboxUnavailable(self._over)
        if not self.home.is_dir():
            raise SandboxError(f"{self.home} is no directory: it has to be the one in which the modules stand")
        terms = {
            "home": str(self.home),
            "readable": self._readable,
            "memory": self.bounds.memory,
            "cpu": self.bounds.cpu,
            "open_files": self.bounds.open_files,
            "message": self.bounds.message,
            "filter": bpf.assemble(target).hex(),
        }
        self.tally = replace(self.tally, starts=self.tally.starts + 1)
        try:
            child = _Child(self.bounds)
        # RuntimeError: no thread could be started beside it.
        except (OSError, RuntimeError) as error:
            self._crashed()
            raise SandboxError(f"the sandbox could not be started: {error}") from error
        confined = False
        try:
            # No foreign line was read yet: what the child says here is our own code's word.
            state = json.loads(child.ask(TERMS, json.dumps(terms).encode(), self.bounds.start)[1])
            self.holds, self.lacks = tuple(state["holds"]), dict(state["lacks"])
            needed = _ESSENTIAL if self._without_landlock else (*_ESSENTIAL, _FILES)
            missing = [f"{part} ({self.lacks.get(part, 'not asked for')})" for part in needed if part not in self.holds]
            if missing:
                self._over = f"nothing confines foreign code here: this machine does not grant {', '.join(missing)}"
                raise SandboxUnavailable(self._over)
            child.busy = 0.0
            confined = True
        except TimeoutError:
            self._crashed()
            raise SandboxError(f"the sandbox did not come up within {self.bounds.start:g} s") from None
        except _Broken as broken:
            self._crashed()
            raise SandboxError(f"the sandbox did not come up: {self._post_mortem(child, broken)}") from None
        finally:
            # Whatever came between, a child whose locks were not seen shut never gets a call.
            if not confined:
                child.end()
        self._child = child
        return child

    def _asked(self, child: _Child, function: str, body: bytes, limit: float) -> Any:
        settled = False
        try:
            kind, answer = child.ask(CALL, body, limit)
            settled = True
        except TimeoutError:
            self.tally = replace(self.tally, timeouts=self.tally.timeouts + 1)
            raise SandboxError(f"{function} took longer than {limit:g} s") from None
        except _Broken as broken:
            raise SandboxError(f"{function} was ended: {self._post_mortem(child, broken)}") from None
        finally:
            # Also when a signal's handler breaks in: a conversation that was left in the middle cannot go on.
            if not settled:
                self._crashed()
                self._discard()
        child.calls += 1
        self._bad_lives = 0
        value = self._read(function, answer)
        if kind != VALUE:
            self.tally = replace(self.tally, failed=self.tally.failed + 1)
            text = value[:_ERROR_TEXT] if isinstance(value, str) else _brief(value)
            raise FunctionFailed(f"{function}: {''.join(c if c.isprintable() else ' ' for c in text)}")
        return value

    def _crashed(self) -> None:
        self.tally = replace(self.tally, crashes=self.tally.crashes + 1)
        self._bad_lives += 1
        if self._bad_lives >= self.bounds.crashes:
            self._over = f"the sandbox of {self.home} has died {self._bad_lives} times in a row and is given up"
        elif self._bad_lives > 1:
            wait = self.bounds.backoff * 2.0 ** min(self._bad_lives - 2, 30)
            self._not_before = time.monotonic() + min(wait, _LONGEST_BACKOFF)

    def _discard(self) -> None:
        child, self._child = self._child, None
        if child:
            child.end()

    def _post_mortem(self, child: _Child, broken: _Broken) -> str:
        code = child.end()
        if code is None or code == -signal.SIGKILL:
            # Our own signal, unless something else (a lack of memory) was faster.
            why = str(broken)
        elif code == -signal.SIGXCPU:
            why = f"it used up its {self.bounds.cpu} s of processor time"
        elif code < 0:
            why = f"it died of {signal.Signals(-code).name}"
        else:
            why = f"it exited with status {code}"
        words = child.printed.decode(errors="replace").split()
        return f"{why}; its last words: {' '.join(words)[-300:]}" if words else why

    def _written(self, function: str, arguments: Sequence[Any]) -> bytes:
        try:
            text = json.dumps((function, arguments), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            body = text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise SandboxError(f"{function} was not called: its arguments are no JSON: {error}") from error
        if len(body) > self.bounds.message:
            raise SandboxError(
                f"{function} was not called: its arguments take {len(body)} bytes of JSON, and {self.bounds.message} "
                "are allowed"
            )
        return body

    def _read(self, function: str, answer: bytes) -> Any:
        try:
            value = json.loads(answer.decode())
            # Its length is bounded; this is for depth, infinities and halves of characters, which JSON lets through.
            byte_size(value, sys.maxsize)
        except (ValueError, RecursionError, EvaluationError) as error:
            self.tally = replace(self.tally, failed=self.tally.failed + 1)
            raise FunctionFailed(f"{function} returned what cannot be used: {error}") from error
        return value


def _checked(function: str) -> None:
    module, colon, name = function.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ValueError(f"{function!r} names no function: it has to be written as module:function")


def _seen(scope: Scope) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    event = scope.event
    return dict(scope.data), None if event is None else {"name": event.name, "data": event.data}


def _named(function: Callable[[Scope], _T], name: str) -> Callable[[Scope], _T]:
    """A chart's hash knows functions by their qualified names: each of ours needs its own."""
    _checked(name)
    function.__name__ = function.__qualname__ = name
    return function


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
