"""Locks the process it runs in and then calls foreign functions, one after the other, until its parent hangs up.

The sandbox starts this file alone, as a script: it knows nothing of the package, so that nothing of ours but this is in
the process. Everything here happens before the first foreign line is read, modules included; what
foreign code changes in this interpreter afterwards harms itself only, because the parent believes nothing it is told.
"""

import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

if __name__ == "__main__":
    # The parent imports this file for the form of the messages, and stays as small as it was.
    import ctypes
    import resource

HEADER = struct.Struct(">IIB")
"""Length of what follows, number of the call, kind."""
TERMS, CALL, VALUE, ERROR, STATE = range(5)
"""Kinds of messages: terms and calls from the parent; values, errors and the state of the locks from here."""

_PDEATHSIG, _NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 1, 38, 22, 2
_SIGKILL = 9
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
"""The same on every architecture."""
_READ_FILE, _READ_DIRECTORY = 1 << 2, 1 << 3
_CAPABILITIES_V3 = 0x20080522
_ERROR_TEXT = 2_000


class Locks:
    """What was asked of the kernel, and what it said."""

    def __init__(self) -> None:
        self.holds: list[str] = []
        self.lacks: dict[str, str] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long

    def _asked(self, part: str, *answers: int) -> None:
        if all(answer == 0 for answer in answers):
            self.holds.append(part)
        else:
            self.lacks[part] = os.strerror(ctypes.get_errno())

    def _prctl(self, option: int, *arguments: Any) -> int:
        # Variadic C functions take what they are given: each argument has to be as wide as the kernel reads it.
        wide = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in (*arguments, 0, 0, 0, 0)[:4]]
        return int(self._libc.prctl(option, *wide))

    def limits(self, memory: int, cpu: int, open_files: int) -> None:
        wanted = {
            resource.RLIMIT_AS: memory,
            resource.RLIMIT_DATA: memory,
            resource.RLIMIT_NOFILE: open_files,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_NPROC: 0,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
        }
        try:
            for limit, value in wanted.items():
                hard = resource.getrlimit(limit)[1]
                value = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(limit, (value, value))
            # The signal says why; who ignores it is killed a second later. An older, lower limit stays.
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            last = cpu + 1 if hard == resource.RLIM_INFINITY else min(cpu + 1, hard)
            resource.setrlimit(resource.RLIMIT_CPU, (min(cpu, last), last))
        except (OSError, ValueError) as error:
            self.lacks["limits"] = str(error)
        else:
            self.holds.append("limits")

    def privileges(self) -> None:
        header = struct.pack("=Ii", _CAPABILITIES_V3, 0)
        self._asked("no-capabilities", self._libc.capset(header, bytes(24)))
        # Giving up privileges can clear the death signal, so it is asked for afterwards.
        self._asked("dies-with-parent", self._prctl(_PDEATHSIG, _SIGKILL))
        self._asked("no-new-privileges", self._prctl(_NO_NEW_PRIVS, 1))

    def landlock(self, readable: Sequence[str]) -> None:
        """Read-only on these paths; no TCP, no signals and no abstract sockets to the outside where it knows them."""
        abi = self._libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
        if abi < 1:
            why = os.strerror(ctypes.get_errno())
            self.lacks.update(dict.fromkeys(("landlock-files", "landlock-tcp", "landlock-signals"), why))
            return
        rights = (1 << (16 if abi >= 5 else 15 if abi >= 3 else 14 if abi == 2 else 13)) - 1
        attributes = struct.pack("=QQQ", rights, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
        size = 24 if abi >= 6 else 16 if abi >= 4 else 8
        ruleset = self._libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0)
        if ruleset < 0:
            self.lacks["landlock-files"] = os.strerror(ctypes.get_errno())
            return
        try:
            self._restrict(ruleset, readable, abi)
        finally:
            os.close(ruleset)

    def _restrict(self, ruleset: int, readable: Sequence[str], abi: int) -> None:
        answers = []
        for path in readable:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # Python lists an archive of its library that is hardly ever there.
            try:
                allowed = _READ_FILE | _READ_DIRECTORY if os.path.isdir(path) else _READ_FILE
                rule = struct.pack("=Qi", allowed, place)
                answers.append(self._libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0))
            finally:
                os.close(place)
        answers.append(self._libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
        self._asked("landlock-files", *answers)
        for part, since in (("landlock-tcp", 4), ("landlock-signals", 6)):
            if abi >= since:
                self._asked(part, *answers)
            else:
                self.lacks[part] = f"this kernel's Landlock (ABI {abi}) cannot; seccomp refuses it"

    def seccomp(self, program: bytes) -> None:
        text = ctypes.create_string_buffer(program, len(program))
        filter_ = struct.pack("@HP", len(program) // 8, ctypes.addressof(text))
        self._asked("seccomp", self._prctl(_SET_SECCOMP, _FILTER, filter_))


def receive(channel: int) -> tuple[int, int, bytes] | None:
    """Kind, number and body of the next message; None when the parent is gone."""
    head = _exactly(channel, HEADER.size)
    if head is None:
        return None
    length, number, kind = HEADER.unpack(head)
    body = _exactly(channel, length)
    return None if body is None else (kind, number, body)


def _exactly(channel: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(channel, size)
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send(channel: int, number: int, kind: int, body: bytes) -> None:
    rest = memoryview(HEADER.pack(len(body), number, kind) + body)
    while rest:
        rest = rest[os.write(channel, rest) :]


def encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def serve(channel: int, home: str, largest: int) -> None:
    functions: dict[str, Callable[..., Any]] = {}
    while (message := receive(channel)) is not None:
        _, number, body = message
        try:
            name, arguments = json.loads(body)
            if name not in functions:
                functions[name] = find(name, home)
            answer = encode(functions[name](*arguments))
            if len(answer) > largest:
                raise ValueError(f"its result takes {len(answer)} bytes of JSON, and {largest} are allowed")
            kind = VALUE
        # Whatever foreign code raises is an answer, also SystemExit and what it derives from BaseException itself.
        except BaseException as error:  # noqa: BLE001
            kind, answer = ERROR, encode(describe(error))
        send(channel, number, kind, answer)


def find(name: str, home: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    module = import_module(module_name)
    # The library comes first in the search, so that nobody can stand in for a part of it.
    if not (getattr(module, "__file__", None) or "").startswith(home.rstrip("/") + "/"):
        raise ImportError(f"the Python library has a module {module_name!r} of its own: rename the one in {home}")
    function = getattr(module, function_name, None)
    if not callable(function):
        raise LookupError(f"{module_name} has no function {function_name!r}")
    return function  # type: ignore[no-any-return]  # whatever is callable may be called; its result is checked


def describe(error: BaseException) -> str:
    try:
        trace, place = error.__traceback__, ""
        while trace is not None:
            place = f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})"
            trace = trace.tb_next
        text = f"{type(error).__name__}: {str(error)[:_ERROR_TEXT]}{place}"
        return text.encode(errors="replace").decode()
    # A foreign exception's __str__ is foreign code as well.
    except BaseException:  # noqa: BLE001
        return "an error that cannot be put into words"


def main() -> None:
    channel = int(sys.argv[1])
    message = receive(channel)
    if message is None:
        return
    terms = json.loads(message[2])
    library = [entry for entry in sys.path if entry]
    home = terms["home"]
    sys.path[:] = [*library, home]
    del sys.argv[1:]
    os.environ.clear()
    locks = Locks()
    locks.limits(terms["memory"], terms["cpu"], terms["open_files"])
    locks.privileges()
    locks.landlock([*library, home, *terms["readable"]])
    locks.seccomp(bytes.fromhex(terms["filter"]))
    send(channel, message[1], STATE, encode({"holds": locks.holds, "lacks": locks.lacks}))
    serve(channel, home, terms["message"])


if __name__ == "__main__":
    main()
