"""The sample service that the daemon is shown healing: it breaks, for real, in every way it is asked to.

    python -m x0tta6bl4.demo.victim --port 8391 [--folder DIR] [--start-delay S] [--depends-on HOST:PORT]

It listens on 127.0.0.1 only. What can be asked of it:

- ``GET /health``: 200 with its pid. ``GET /work``: 200 with pid and uptime after a little work; 503 when what it
  depends on takes no connection.
- ``POST /break/KIND?name=number``: breaks it; ``GET /`` lists the kinds with their parameters and defaults.
- ``GET /state``: what is broken now. ``POST /mend``: undoes what can be undone; a hang, a deadlock, a SIGSTOP or a
  closed door can only be ended from outside (over a connection that was open before, `/mend` reopens the door).

`slow`, `gray` and `flap` spare `/state`, `/break` and `/mend`; `hang`, `stall`, `lock` and `stop` spare nothing.

Three breaks outlive the process, as small files below ``--folder``. They concern the starts to come, not the process
that was asked, unless it is asked with ``now=1``. Each can be made by hand (an empty file means the default) and
lasts until somebody, or `/mend`, removes the file:

- ``crashloop``: holds seconds, 0.5 by default. Every start serves for so long and then exits with 1.
- ``slowstart``: holds seconds, 20 by default. Every start takes so long before it listens.
- ``cache/index``: the cache. When it does not begin with ``ok``, every start exits with 3 and says why.

Only modules that the interpreter needs anyway, or that load in a few milliseconds, are imported at the top: how soon it
answers after a start is part of every healing time measured with it.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

HOST = "127.0.0.1"
CONNECTIONS = 64
"""Served at once; further ones wait in the kernel's queue, as they would with any bounded pool."""
IDLE = 5.0
HEAD_LIMIT = 16384
BODY_LIMIT = 65536
TICK = 0.02
MIB = 1 << 20

CRASHLOOP_AFTER = 0.5
SLOWSTART_SECONDS = 20.0
CORRUPT_EXIT = 3

USAGE = (
    "usage: python -m x0tta6bl4.demo.victim --port PORT [--folder DIR] [--start-delay SECONDS] [--depends-on HOST:PORT]"
)

REASONS: Mapping[int, str] = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}

KINDS: Mapping[str, tuple[Mapping[str, float], str]] = {
    "kill": ({}, "SIGKILL to itself"),
    "exit": ({"code": 1}, "exits with that code"),
    "hang": ({}, "stops answering anything; the process lives"),
    "stop": ({}, "SIGSTOP to itself; SIGCONT wakes it"),
    "lock": ({}, "two threads deadlock, one of them on the lock that every request takes"),
    "gray": ({}, "/health says ok while /work answers 500"),
    "leak": ({"mib_per_s": 100, "limit": 400}, "resident memory grows up to the limit (MiB)"),
    "fds": ({"per_s": 500, "limit": 1000, "nofile": 0}, "leaks descriptors; nofile lowers its own limit first"),
    "threads": ({"per_s": 200, "limit": 300}, "leaks threads"),
    "slow": ({"seconds": 3, "times": 1}, "the next so many answers are slow, others are not"),
    "stall": ({"seconds": 3}, "nothing is answered for so long, then all is well"),
    "refuse": ({}, "closes the listening socket and lives on"),
    "crashloop": ({"after": CRASHLOOP_AFTER, "now": 0}, "every start dies after so long (file in the folder)"),
    "poison": ({"now": 0}, "every start fails over a corrupt cache (file in the folder)"),
    "busy": ({"cores": 1}, "burns CPU"),
    "logflood": ({"lines_per_s": 2000}, "floods its standard output"),
    "flap": ({"period": 2, "down": 0.3}, "answers 503 for a moment of each period"),
    "zombies": ({"n": 20}, "leaves dead children uncollected"),
    "ignore-term": ({}, "ignores SIGTERM"),
    "slowstart": ({"seconds": SLOWSTART_SECONDS, "now": 0}, "every start takes so long (file in the folder)"),
}

TIMES_AND_CODES = ("code", "times", "n", "limit", "nofile", "cores", "now")
"""Parameters that count something, and so must be whole."""


def log(text: str) -> None:
    try:
        os.write(2, f"victim[{os.getpid()}]: {text}\n".encode())
    except OSError:
        pass  # nobody reads its log, which is no reason to fail


class Refused(Exception):
    """A request that is answered with an error and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Reply:
    """What goes back, and what is done once it has gone: dying, mostly."""

    __slots__ = ("afterwards", "body", "kind", "status")

    def __init__(
        self,
        status: int,
        body: str,
        kind: str = "application/json",
        afterwards: Callable[[socket.socket], object] | None = None,
    ) -> None:
        self.status = status
        self.body = body.encode()
        self.kind = kind
        self.afterwards = afterwards


def as_json(status: int, afterwards: Callable[[socket.socket], object] | None = None, **members: object) -> Reply:
    import json

    return Reply(status, json.dumps({**members, "pid": os.getpid()}) + "\n", afterwards=afterwards)


def end_by_kill(_: socket.socket) -> None:
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def end_with(code: int) -> Callable[[socket.socket], object]:
    return lambda _: os._exit(code)


def stop_itself(connection: socket.socket) -> None:
    """Ends the answer first, as a client that reads to the end of the connection would wait for SIGCONT otherwise."""
    import signal

    connection.shutdown(socket.SHUT_WR)
    os.kill(os.getpid(), signal.SIGSTOP)


def listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def parameters(kind: str, query: str) -> dict[str, float]:
    """The kind's defaults, overridden by what was asked; a name or a number that makes no sense is an error."""
    values = dict(KINDS[kind][0])
    for pair in filter(None, query.split("&")):
        name, _, text = pair.partition("=")
        if name not in values:
            known = ", ".join(values) or "none"
            raise Refused(400, f"{kind} has no parameter {name!r}; it has: {known}")
        try:
            value = float(text)
        except ValueError:
            raise Refused(400, f"{name} must be a number, not {text!r}") from None
        if not 0 <= value <= 1e9 or (name in TIMES_AND_CODES and value != int(value)):
            whole = "a whole number" if name in TIMES_AND_CODES else "a number"
            raise Refused(400, f"{name} must be {whole} from 0 to 1e9, not {text!r}")
        values[name] = value
    if not 0 <= values.get("code", 0) <= 255:
        raise Refused(400, f"an exit code goes from 0 to 255, not {values['code']:g}")
    if values.get("period", 1) <= 0:
        raise Refused(400, "a period is longer than 0 seconds")
    return values


class Running:
    """A break that goes on in a thread of its own until it is told to stop."""

    def __init__(self, work: Callable[[threading.Event], None]) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=work, args=(self._stop,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join(1.0)  # one that is stuck writing its log into a full pipe is left to itself


def at_rate(per_second: float, do: Callable[[int], bool]) -> Callable[[threading.Event], None]:
    """Work for `Running`: calls ``do`` with how many are due, until it says False. Does not catch up after SIGSTOP."""

    def work(stop: threading.Event) -> None:
        begun, done = time.monotonic(), 0
        while not stop.wait(TICK):
            due = int((time.monotonic() - begun) * per_second) - done
            done += due
            if due and not do(min(due, int(per_second) + 1)):
                return

    return work


class Folder:
    """The breaks that outlive the process, as files."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    def path(self, name: str) -> str:
        if self._path is None:
            raise Refused(409, "this break outlives the process: start the victim with --folder DIR")
        return os.path.join(self._path, name)

    def write(self, name: str, text: str) -> None:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def present(self) -> list[str]:
        if self._path is None:
            return []
        found = [name for name in ("crashloop", "slowstart") if os.path.exists(self.path(name))]
        return found + ["cache/index"] * bool(self.corrupt())

    def seconds(self, name: str, default: float) -> float | None:
        """What the file holds; None without one, the default when it holds no number."""
        if self._path is None:
            return None
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return min(max(0.0, float(file.read(64))), 1e6)
        except FileNotFoundError:
            return None
        except ValueError:
            return default

    def corrupt(self) -> str:
        """Says what is wrong with the cache; empty when it is fine or absent."""
        if self._path is None:
            return ""
        path = self.path("cache/index")
        try:
            with open(path, "rb") as file:
                start = file.read(16)
        except FileNotFoundError:
            return ""
        if start.startswith(b"ok"):
            return ""
        return f"cache file {path} is corrupt: it begins with {start!r}, not with b'ok'"

    def clear(self) -> None:
        for name in self.present():
            os.unlink(self.path(name))


class Victim:
    """The service itself; all of its state, so that nothing lives in the module."""

    def __init__(self, port: int, folder: Folder, depends_on: tuple[str, int] | None) -> None:
        self._folder = folder
        self._depends_on = depends_on
        self._began = time.monotonic()
        self._listener = listen(port)
        self._port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._slots = threading.Semaphore(CONNECTIONS)

        self._ledger = threading.Lock()  # every request counts itself under it, which is what `lock` makes use of
        self._vault = threading.Lock()
        self._requests = 0
        self._controls = threading.Lock()  # one /break or /mend at a time
        self._broken: dict[str, dict[str, float]] = {}
        self._running: dict[str, Running] = {}

        self._hangs = False
        self._stalls_until = 0.0
        self._slow_left = 0
        self._slow_seconds = 0.0
        self._flaps_since = 0.0
        self._blocks: list[Callable[[], None]] = []  # each gives one leaked block back
        self._descriptors: list[int] = []
        self._descriptors_limit = 0
        self._limits: tuple[int, int] | None = None
        self._threads: list[threading.Thread] = []
        self._threads_end = threading.Event()
        self._zombies: list[int] = []

        # Only the main thread may change what a signal does, so it waits to be asked.
        self._ignores_term = False
        self._asked = threading.Event()
        self._obeyed = threading.Event()

    def run(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()
        self._obey_crashloop()
        log(f"listens on {HOST}:{self._port}; try `curl {HOST}:{self._port}`")
        while True:
            self._asked.wait()
            self._asked.clear()
            import signal

            signal.signal(signal.SIGTERM, signal.SIG_IGN if self._ignores_term else signal.SIG_DFL)
            self._obeyed.set()

    def _obey_crashloop(self) -> None:
        after = self._folder.seconds("crashloop", CRASHLOOP_AFTER)
        if after is None:
            return

        def die() -> None:
            if self._folder.seconds("crashloop", CRASHLOOP_AFTER) is not None:
                log(f"FATAL: dies {after:g} s after its start, as {self._folder.path('crashloop')} says")
                os._exit(1)

        timer = threading.Timer(after, die)
        timer.daemon = True
        timer.start()

    # Serving

    def _accept(self) -> None:
        listener = self._listener
        while True:
            self._slots.acquire()
            try:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
                continue
            except OSError:
                if not self._open.is_set() or listener is not self._listener:
                    listener.close()
                    self._open.wait()
                    listener = self._listener
                else:
                    time.sleep(0.05)  # out of descriptors: the connection stays queued, and asking faster helps nobody
            except RuntimeError as error:
                connection.close()
                log(f"no thread for a connection: {error}")
            self._slots.release()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(IDLE)
            rest: bytes | None = b""
            while rest is not None:
                rest = self._serve_one(connection, rest)
            if len(self._descriptors) < self._descriptors_limit:
                # A waiting accept holds one descriptor back, which the leak can get at only in this way.
                connection.shutdown(socket.SHUT_RDWR)
                self._descriptors.append(connection.detach())
        except OSError:
            pass  # the client went away or stayed silent, which is its right
        finally:
            connection.close()
            self._slots.release()

    def _serve_one(self, connection: socket.socket, buffer: bytes) -> bytes | None:
        """Reads and answers one request; what was read beyond it, or None when the connection is to be closed."""
        keep = False
        method, rest = "", b""
        try:
            while b"\r\n\r\n" not in buffer:
                if len(buffer) > HEAD_LIMIT:
                    raise Refused(431, f"a request's head has at most {HEAD_LIMIT} bytes")
                more = connection.recv(4096)
                if not more:
                    return None
                buffer += more
            head, _, rest = buffer.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            words = first.split(" ")
            if len(words) != 3 or not words[2].startswith("HTTP/1."):
                raise Refused(400, f"not a request of HTTP/1: {first[:80]!r}")
            method, target, version = words
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            if "transfer-encoding" in headers:
                raise Refused(501, "send a Content-Length, or no body at all")
            length = headers.get("content-length", "0")
            if not length.isdecimal():
                raise Refused(400, f"not a Content-Length: {length[:80]!r}")
            if len(length) > 9 or int(length) > BODY_LIMIT:
                raise Refused(413, f"a body has at most {BODY_LIMIT} bytes, and none is needed")
            while len(rest) < int(length):
                more = connection.recv(4096)
                if not more:
                    return None
                rest += more
            rest = rest[int(length) :]
            keep = version != "HTTP/1.0" and "close" not in headers.get("connection", "").lower()
            reply = self._answer(method, target, headers)
        except Refused as refused:
            reply = as_json(refused.status, error=refused.sentence)
        keep = keep and reply.afterwards is None
        start = (
            f"HTTP/1.1 {reply.status} {REASONS[reply.status]}\r\nContent-Type: {reply.kind}\r\n"
            f"Content-Length: {len(reply.body)}\r\n{'' if keep else 'Connection: close' + chr(13) + chr(10)}\r\n"
        )
        connection.sendall(start.encode("latin-1") + (b"" if method == "HEAD" else reply.body))
        if reply.afterwards is not None:
            reply.afterwards(connection)
        return rest if keep else None

    def _answer(self, method: str, target: str, headers: Mapping[str, str]) -> Reply:
        if self._hangs:
            threading.Event().wait()
        while (left := self._stalls_until - time.monotonic()) > 0:
            time.sleep(left)
        path, _, query = target.partition("?")
        is_plain = path in ("/", "/health", "/work")
        with self._ledger:
            self._requests += 1
            is_slow = is_plain and self._slow_left > 0
            if is_slow:
                self._slow_left -= 1
        if is_slow:
            time.sleep(self._slow_seconds)

        if is_plain or path == "/state":
            if method not in ("GET", "HEAD"):
                raise Refused(405, f"{path} is for GET")
            if path == "/state":
                return self._state()
            if self._is_down():
                raise Refused(503, "flapping: down for a moment")
            if path == "/health":
                return Reply(200, f'{{"status":"ok","pid":{os.getpid()}}}\n')
            return self._work() if path == "/work" else self._page()
        kind = path.removeprefix("/break/")
        if path != "/mend" and kind not in KINDS:
            if kind != path:
                raise Refused(404, f"cannot break like {kind!r}; can: {', '.join(KINDS)}")
            raise Refused(404, f"nothing at {path}; there are /, /health, /work, /state, /break/KIND and /mend")
        if method != "POST":
            raise Refused(405, f"{path} is for POST")
        if "origin" in headers:
            raise Refused(403, "breaking is for command lines, not for web pages")
        with self._controls:
            try:
                return self._mend() if path == "/mend" else self._break(kind, parameters(kind, query))
            except OSError as error:
                raise Refused(500, f"{path} did not work: {error}") from error

    def _is_down(self) -> bool:
        flap = self._broken.get("flap")
        return flap is not None and (time.monotonic() - self._flaps_since) % flap["period"] < flap["down"]

    def _work(self) -> Reply:
        if "gray" in self._broken:
            raise Refused(500, "gray: healthy to look at, of no use")
        if self._depends_on is not None:
            # Named by family instead of looked up: the resolver's codecs would cost the first answer milliseconds.
            family = socket.AF_INET6 if ":" in self._depends_on[0] else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as dependency:
                dependency.settimeout(1.0)
                try:
                    dependency.connect(self._depends_on)
                except OSError as error:
                    host, port = self._depends_on
                    raise Refused(503, f"depends on {host}:{port}, which cannot be reached: {error}") from error
        squares = sum(number * number for number in range(500))
        uptime = time.monotonic() - self._began
        return Reply(200, f'{{"status":"ok","pid":{os.getpid()},"uptime":{uptime:.3f},"squares":{squares}}}\n')

    def _page(self) -> Reply:
        lines = []
        for kind, (defaults, sentence) in KINDS.items():
            query = "&amp;".join(f"{name}={value:g}" for name, value in defaults.items())
            url = f"{HOST}:{self._port}/break/{kind}" + (f"?{query}" if query else "")
            lines.append(f"curl -X POST '{url}'\n    {sentence}")
        return Reply(
            200,
            "<!doctype html><meta charset=utf-8><title>victim</title><h1>A service to be broken</h1>"
            f"<p>Process {os.getpid()}. It answers <a href=/health>/health</a> and <a href=/work>/work</a>, tells its "
            "<a href=/state>/state</a>, and exists to be killed: in a terminal, with the defaults shown,</p>"
            f"<pre>kill -9 {os.getpid()}\n" + "\n".join(lines) + "\n"
            f"curl -X POST {HOST}:{self._port}/mend\n    undoes what can be undone</pre>\n",
            "text/html; charset=utf-8",
        )

    def _state(self) -> Reply:
        broken = {kind: dict(values) for kind, values in self._broken.items()}
        if self._slow_left <= 0:
            broken.pop("slow", None)
        if self._stalls_until <= time.monotonic():
            broken.pop("stall", None)
        return as_json(
            200,
            uptime=round(time.monotonic() - self._began, 3),
            requests=self._requests,
            broken=broken,
            held={
                "mib": len(self._blocks),
                "fds": len(self._descriptors),
                "threads": len(self._threads),
                "zombies": len(self._zombies),
            },
            files=self._folder.present(),
        )

    # Breaking

    def _break(self, kind: str, values: dict[str, float]) -> Reply:
        afterwards: Callable[[socket.socket], object] | None = None
        match kind:
            case "kill":
                afterwards = end_by_kill
            case "stop":
                afterwards = stop_itself
            case "exit":
                afterwards = end_with(int(values["code"]))
            case "hang":
                self._hangs = True
            case "stall":
                self._stalls_until = time.monotonic() + values["seconds"]
            case "slow":
                with self._ledger:
                    self._slow_left, self._slow_seconds = int(values["times"]), values["seconds"]
            case "flap":
                self._flaps_since = time.monotonic()
            case "gray":
                pass  # being noted as broken is all that /work looks at
            case "lock":
                self._deadlock()
            case "refuse":
                if self._open.is_set():
                    self._open.clear()
                    # A mere close would leave the accept that is under way listening.
                    self._listener.shutdown(socket.SHUT_RDWR)
            case "ignore-term":
                self._ignore_term(True)
            case "zombies":
                self._leave_zombies(int(values["n"]))
            case "leak":
                self._start(kind, at_rate(values["mib_per_s"], lambda due: self._leak(due, int(values["limit"]))))
            case "fds":
                if values["nofile"]:
                    self._lower_nofile(int(values["nofile"]))
                self._descriptors_limit = int(values["limit"])
                self._start(kind, at_rate(values["per_s"], self._leak_fds))
            case "threads":
                self._start(kind, at_rate(values["per_s"], lambda due: self._leak_threads(due, int(values["limit"]))))
            case "logflood":
                self._start(kind, at_rate(values["lines_per_s"], self._flood))
            case "busy":
                for core in range(min(int(values["cores"]), 2 * (os.cpu_count() or 1))):
                    self._start(f"busy {core}", self._burn)
            case "crashloop":
                self._folder.write("crashloop", f"{values['after']:g}\n")
            case "slowstart":
                self._folder.write("slowstart", f"{values['seconds']:g}\n")
            case "poison":
                self._folder.write("cache/index", "\0\0poisoned\n")
            case _:
                raise AssertionError(f"{kind} is listed and not built")
        if kind not in ("stop", "crashloop", "slowstart", "poison"):  # woken again it is well; files tell of themselves
            self._broken[kind] = values
        if values.get("now"):
            log(f"FATAL: exits at once, as /break/{kind} asked it to")
            afterwards = end_with(CORRUPT_EXIT if kind == "poison" else 1)
        return as_json(200, broken=kind, afterwards=afterwards, **values)

    def _start(self, name: str, work: Callable[[threading.Event], None]) -> None:
        if name in self._running:
            self._running[name].end()
        self._running[name] = Running(work)

    def _deadlock(self) -> None:
        both_hold_one = threading.Barrier(3)

        def take(first: threading.Lock, second: threading.Lock) -> None:
            with first:
                both_hold_one.wait()
                with second:
                    pass

        for locks in ((self._ledger, self._vault), (self._vault, self._ledger)):
            threading.Thread(target=take, args=locks, daemon=True).start()
        both_hold_one.wait()

    def _ignore_term(self, ignore: bool) -> None:
        self._ignores_term = ignore
        self._obeyed.clear()
        self._asked.set()
        self._obeyed.wait()

    def _leave_zombies(self, count: int) -> None:
        for _ in range(count):
            self._zombies.append(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {}))

    def _leak(self, due: int, limit: int) -> bool:
        import mmap

        for _ in range(min(due, limit - len(self._blocks))):
            # Mapped rather than allocated, so that mending gives it back; written to, so that it is resident.
            try:
                block = mmap.mmap(-1, MIB)
            except OSError as error:
                log(f"no memory left to leak: {error}")
                return False
            block.write(b"x" * MIB)
            self._blocks.append(block.close)
        return len(self._blocks) < limit

    def _leak_fds(self, due: int) -> bool:
        for _ in range(min(due, self._descriptors_limit - len(self._descriptors))):
            try:
                self._descriptors.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                return True  # at its limit: takes each one that becomes free, as a real leak would
        return len(self._descriptors) < self._descriptors_limit

    def _leak_threads(self, due: int, limit: int) -> bool:
        for _ in range(min(due, limit - len(self._threads))):
            thread = threading.Thread(target=self._threads_end.wait, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return True
            self._threads.append(thread)
        return len(self._threads) < limit

    def _lower_nofile(self, soft: int) -> None:
        import resource

        if self._limits is None:
            self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, self._limits[1]))
        except ValueError as error:
            raise Refused(400, f"nofile={soft} cannot be set: {error}") from error

    def _flood(self, due: int) -> bool:
        line = "INFO the victim has nothing to say and says it, again and again and again\n"
        try:
            os.write(1, (line * due).encode())
        except OSError:
            return False
        return True

    def _burn(self, stop: threading.Event) -> None:
        import zlib

        block = bytes(MIB)
        while not stop.is_set():
            zlib.crc32(block)  # works without the interpreter's lock, so that answering goes on and cores can be many

    def _mend(self) -> Reply:
        for running in self._running.values():
            running.end()
        self._running.clear()
        while self._blocks:
            self._blocks.pop()()
        self._descriptors_limit = 0
        while self._descriptors:
            os.close(self._descriptors.pop())
        if self._limits is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
            self._limits = None
        self._threads_end.set()
        while self._threads:
            self._threads.pop().join()
        self._threads_end = threading.Event()
        while self._zombies:
            os.waitpid(self._zombies.pop(), 0)
        with self._ledger:
            self._slow_left = 0
        if self._ignores_term:
            self._ignore_term(False)
        self._folder.clear()
        if not self._open.is_set():
            self._listener = listen(self._port)
            self._open.set()
        mended = list(self._broken)
        self._broken.clear()
        return as_json(200, mended=mended)


def options(words: Sequence[str]) -> dict[str, str]:
    """By hand: argparse alone would double the time to the first answer."""
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name in ("-h", "--help"):
            print(USAGE)
            print(f"\nThen see http://{HOST}:PORT/ for the ways in which it can be broken.")
            raise SystemExit(0)
        if name not in ("--port", "--folder", "--start-delay", "--depends-on"):
            raise ValueError(f"unknown option {name}")
        if not equals:
            if not rest:
                raise ValueError(f"{name} needs a value")
            value = rest.pop(0)
        found[name] = value
    return found


def main(words: Sequence[str]) -> int:
    try:
        given = options(words)
        port = int(given["--port"])
        delay = float(given.get("--start-delay", "0"))
        host, _, depends_port = given.get("--depends-on", "").rpartition(":")
        depends_on = (host.strip("[]"), int(depends_port)) if host or depends_port else None
        if not (0 <= port <= 65535 and 0 <= delay < 1e6 and (not depends_on or (host and 0 < depends_on[1] <= 65535))):
            raise ValueError("a number is out of range, or HOST:PORT is incomplete")
    except KeyError:
        print(f"victim: --port is missing\n{USAGE}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"victim: {error}\n{USAGE}", file=sys.stderr)
        return 2
    folder = Folder(given.get("--folder"))
    try:
        if wrong := folder.corrupt():
            log(f"FATAL: {wrong}; not starting until the file is removed")
            return CORRUPT_EXIT
        slow = folder.seconds("slowstart", SLOWSTART_SECONDS)
        if slow:
            log(f"starts slowly, {slow:g} s, as {folder.path('slowstart')} says")
        time.sleep(delay + (slow or 0.0))
        Victim(port, folder, depends_on).run()
    except OSError as error:
        log(f"FATAL: cannot serve on {HOST}:{port}: {error}")
        return 1
    except KeyboardInterrupt:
        log("interrupted")
        os._exit(130)  # at once, as for SIGTERM: its threads are made to be in the way
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
