"""Foreign code in its cage: each attack is a real attempt from inside, and works where there is no cage."""

import asyncio
import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Faulted
from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.core.machine import Chart
from x0tta6bl4.statechart.core.state import Definition, State, Variable
from x0tta6bl4.statechart.core.transition import Call, Transition
from x0tta6bl4.statechart.extensions import bpf
from x0tta6bl4.statechart.extensions.sandbox import (
    Bounds,
    FunctionFailed,
    Sandbox,
    SandboxError,
    SandboxUnavailable,
)
from x0tta6bl4.statechart.runtime.executor import handle, new, start

ROOT = Path(__file__).parents[2]
PATIENT = Bounds(timeout=60.0, start=60.0, crashes=1_000, backoff=0.0, cpu=3_600)
"""Times that a busy machine does not break, and lives enough for every attack."""
MACHINE = os.uname().machine

PLUGIN = """
import builtins, os, sys, time

def add(a, b):
    return a + b

def echo(value):
    return value

def fails(text):
    raise ValueError(text)

def leaves(status):
    sys.exit(status)

def dies(status):
    os._exit(status)

def is_warm(data, event):
    print("asked about", data["celsius"])
    return data["celsius"] > 30

def is_vague(data, event):
    return data["celsius"]

def cooled(data, event):
    return {"celsius": data["celsius"] - event["data"]["by"]}

def invents(data, event):
    return {"kelvin": 1}

def seed():
    return [hash("x"), list({"a", "b", "c", "d"}), sys.argv[1:], dict(os.environ), os.getcwd(), time.tzname[0]]

def remember(value):
    builtins.kept = value

def recall():
    return getattr(builtins, "kept", None)

def say(text, times):
    for _ in range(times):
        print(text)
        os.write(2, b"!")

not_a_function = 3
"""

ATTACKS = """
import os, signal, socket, struct, subprocess, sys, threading

def read(path):
    return open(path).read()

def read_binary(path):
    return len(open(path, "rb").read(16))

def lists(path):
    return os.listdir(path)

def write(path):
    with open(path, "w") as file:
        file.write("was here")

def append(path):
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))

def delete(path):
    os.unlink(path)

def make_directory(path):
    os.mkdir(path)

def rename(path):
    os.rename(path, path + ".moved")

def change_mode(path):
    os.chmod(path, 0o777)

def link(path):
    os.symlink("/etc/shadow", path + ".link")

def tcp(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass

def udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"secret", ("127.0.0.1", port))

def unix(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)

def pair():
    for each in socket.socketpair():
        each.close()

def dns():
    # A name with a resolver to ask; the address family keeps the library from answering on its own.
    import socket
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.53", 53))
    socket.getaddrinfo("localhost", 80)

def run():
    subprocess.run(["/bin/true"], check=True)

def replace_self():
    os.execv("/bin/true", ["true"])

def shell():
    if os.system("exit 3") >> 8 != 3:
        raise PermissionError("no shell")

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

def thread():
    t = threading.Thread(target=print)
    t.start()
    t.join()

def ask_signal(pid):
    os.kill(pid, 0)

def kill(pid):
    os.kill(pid, signal.SIGKILL)

def kill_by_fd(pid):
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)

def memory(size):
    return len(bytearray(size))

def memfd():
    os.close(os.memfd_create("x"))

def raise_limits():
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))

def new_session():
    os.setpgid(0, 0)

def alarm():
    signal.setitimer(signal.ITIMER_REAL, 1000)
    signal.setitimer(signal.ITIMER_REAL, 0)

def writable_code():
    import mmap
    mmap.mmap(-1, 4096, prot=7).close()

def later_code():
    import ctypes, mmap
    page = mmap.mmap(-1, 4096, prot=3)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4096), 5):
        raise OSError(ctypes.get_errno(), "mprotect")

def trace(pid):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(ctypes.c_long(16), ctypes.c_long(pid), None, None):
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(pid, 0)
    libc.ptrace(ctypes.c_long(17), ctypes.c_long(pid), None, None)

def peek(pid):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    word = ctypes.create_string_buffer(8)
    vector = struct.pack("@PN", ctypes.addressof(word), 8)
    if libc.process_vm_readv(pid, vector, ctypes.c_ulong(1), vector, ctypes.c_ulong(1), ctypes.c_ulong(0)) < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")

def fork_bomb():
    count = 0
    while True:
        try:
            if os.fork() == 0:
                while True:
                    pass
        except PermissionError:
            count += 1
            if count == 1000:
                raise

def thread_bomb():
    started = 0
    for _ in range(1000):
        try:
            threading.Thread(target=input, daemon=True).start()
            started += 1
        except RuntimeError:
            pass
    return started

def open_many():
    kept = []
    while True:
        kept.append(open(__file__))

def recurse(limit):
    if limit:
        sys.setrecursionlimit(limit)
    def deeper(n):
        return [deeper(n + 1)]
    return deeper(0)

def c_stack():
    sys.setrecursionlimit(10 ** 9)
    class Deep:
        def __repr__(self):
            return repr(self)
    return repr(Deep())

def spin(ignoring=()):
    for each in ignoring:
        signal.signal(each, signal.SIG_IGN)
    while True:
        pass

def hangs_as_action(data, event):
    spin()

def sleep():
    import time
    time.sleep(3600)

def giant():
    return "x" * (8 << 20)

def deep(n):
    value = []
    for _ in range(n):
        value = [value]
    return value

def circle():
    value = []
    value.append(value)
    return value

def odd(what):
    return {"nan": float("nan"), "bytes": b"x", "set": {1}, "object": object(), "half": chr(0xD800)}[what]

def flood():
    while True:
        os.write(1, b"x" * 65536)

def close_everything():
    os.closerange(0, 64)

def close_output():
    os.close(1)
    os.close(2)
    return "still here"

def channel():
    frame = sys._getframe(2)
    return frame.f_locals["channel"], frame.f_locals["number"]

def raw(text, times=1):
    fd, _ = channel()
    for _ in range(times):
        os.write(fd, bytes.fromhex(text))
    return "as if nothing had been"

def answer(text, ahead=0, kind=2):
    fd, number = channel()
    os.write(fd, struct.pack(">IIB", len(text), number + ahead, kind) + text.encode())
    return "as if nothing had been"

def takes_over(text):
    # Answers the call itself and then goes on to hold the process.
    fd, number = channel()
    os.write(fd, struct.pack(">IIB", len(text), number, 2) + text.encode())
    os.read(fd, 1)
    while True:
        pass

def nested(n):
    fd, number = channel()
    text = b"[" * n + b"]" * n
    sent = memoryview(struct.pack(">IIB", len(text), number, 2) + text)
    while sent:
        sent = sent[os.write(fd, sent):]
    while True:
        pass

def sabotage():
    main = sys.modules["__main__"]
    main.describe = main.encode = main.find = None
    return True

class Odd(BaseException):
    def __str__(self):
        raise MemoryError

def raises_oddly():
    raise Odd

def finds_inode(device, inode):
    found = []
    for fd in range(4096):
        try:
            status = os.fstat(fd)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == (device, inode):
            found.append(fd)
    return found

def environment(name):
    import ctypes
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    return [name in os.environ, libc.getenv(name.encode()) is not None]

def calls(numbers):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    zero = ctypes.c_long(0)
    said = {}
    for name, number in numbers.items():
        ctypes.set_errno(0)
        said[name] = [libc.syscall(ctypes.c_long(number), *[zero] * 6), ctypes.get_errno()]
    return said

def identity():
    return [os.getuid(), os.geteuid()]
"""


@pytest.fixture(scope="session")
def locks(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Sandbox(tmp_path_factory.mktemp("empty"), bounds=PATIENT) as sandbox:
        try:
            sandbox.start()
        except SandboxUnavailable as error:
            pytest.skip(str(error))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "plugin"
    place.mkdir()
    (place / "plugin.py").write_text(PLUGIN)
    (place / "attacks.py").write_text(ATTACKS)
    return place


Make = Callable[..., Sandbox]


@pytest.fixture
def make(locks: None, home: Path) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:
        yield lambda bounds=PATIENT, **more: stack.enter_context(Sandbox(home, bounds=bounds, **more))


@pytest.fixture
def caged(make: Make) -> Sandbox:
    return make()


@pytest.fixture
def victim() -> Iterator[int]:
    """A process that the attacks may try their luck on."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rsplit(")", 1)[1].split()[0] not in "ZX"


def goes_on(sandbox: Sandbox) -> bool:
    return bool(sandbox.call("plugin:add", 20, 22) == 42)


def still_right(sandbox: Sandbox) -> bool:
    """A second answer may come while the next question is on its way: that is refused then, never answered wrong."""
    with contextlib.suppress(SandboxError):
        return goes_on(sandbox)
    return goes_on(sandbox)


def wait_end(pidfd: int) -> bool:
    """Whether it ends at all; a minute is for machines that have better things to do."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    return bool(waiting.poll(60_000))


# --- what it is for ---------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=json_values)
def test_a_value_goes_in_and_comes_back_as_it_was(caged: Sandbox, value: Any) -> None:
    assert json.dumps(value) == json.dumps(caged.call("plugin:echo", value))


def test_one_child_answers_all_calls(caged: Sandbox) -> None:
    assert [0, 1, 2] == [caged.call("plugin:add", n, 0) for n in range(3)]
    assert (1, 3) == (caged.tally.starts, caged.tally.calls)


def test_the_essential_locks_hold_and_what_is_lacking_is_said(caged: Sandbox) -> None:
    caged.start()

    assert {"limits", "no-capabilities", "dies-with-parent", "no-new-privileges", "seccomp", "landlock-files"} <= {
        *caged.holds
    }
    assert not {*caged.holds} & {*caged.lacks}
    assert {"landlock-tcp", "landlock-signals"} <= {*caged.holds, *caged.lacks}
    status = Path(f"/proc/{caged.pid}/status").read_text()
    for line in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"):
        assert line in status
    limits = Path(f"/proc/{caged.pid}/limits").read_text()
    for name in ("Max file size", "Max processes", "Max core file size"):
        assert re.search(rf"{name}\s+0\s+0\s", limits), name
    for name in ("Max address space", "Max data size"):
        assert re.search(rf"{name}\s+{PATIENT.memory}\s+{PATIENT.memory}\s", limits), name


def test_a_failing_function_is_told_with_its_place_and_the_child_lives(caged: Sandbox) -> None:
    with pytest.raises(FunctionFailed, match=r"^plugin:fails: ValueError: too hot \(plugin\.py:11\)$"):
        caged.call("plugin:fails", "too hot")
    assert goes_on(caged)
    assert (1, 1, 0) == (caged.tally.starts, caged.tally.failed, caged.tally.crashes)


def test_sys_exit_and_odd_exceptions_are_failures_like_others(caged: Sandbox) -> None:
    with pytest.raises(FunctionFailed, match="SystemExit: 3"):
        caged.call("plugin:leaves", 3)
    with pytest.raises(FunctionFailed, match="cannot be put into words"):
        caged.call("attacks:raises_oddly")
    with pytest.raises(FunctionFailed) as failed:
        caged.call("plugin:fails", "\x1b[2J\n" + "x" * 100_000)
    assert str(failed.value).isprintable() and len(str(failed.value)) < 3_000
    assert goes_on(caged) and caged.tally.starts == 1


def test_unknown_functions_and_modules_are_named(caged: Sandbox) -> None:
    with pytest.raises(FunctionFailed, match="no function 'absent'"):
        caged.call("plugin:absent")
    with pytest.raises(FunctionFailed, match="no function 'not_a_function'"):
        caged.call("plugin:not_a_function")
    with pytest.raises(FunctionFailed, match="No module named 'absent'"):
        caged.call("absent:f")
    with pytest.raises(FunctionFailed, match="library has a module 'os' of its own"):
        caged.call("os:getcwd")
    for name in ("plugin", "plugin.add", "plugin:a.b", ":f", "../x:f", "plugin:"):
        with pytest.raises(ValueError, match="names no function"):
            caged.call(name)
        with pytest.raises(ValueError, match="names no function"):
            caged.as_guard(name)


def test_arguments_that_are_no_json_or_too_large_are_refused_before_anything_is_sent(make: Make) -> None:
    small = make(Bounds(message=1_000, timeout=60, start=60))
    for argument in (object(), float("inf"), "\ud800", b"x"):
        with pytest.raises(SandboxError, match="was not called"):
            small.call("plugin:echo", argument)
    with pytest.raises(SandboxError, match="take 5020 bytes of JSON, and 1000 are allowed"):
        small.call("plugin:echo", "x" * 5_000)
    assert 0 == small.tally.starts


def test_messages_larger_than_any_buffer_pass_both_ways(caged: Sandbox) -> None:
    text = "é" * 500_000

    assert text == caged.call("plugin:echo", text)


def test_a_guard_says_true_or_false_and_nothing_else(make: Make) -> None:
    heard: list[tuple[str, str]] = []
    caged = make(on_output=lambda *words: heard.append(words))
    scope = FakeScope({"celsius": 31}, None)

    assert caged.as_guard("plugin:is_warm")(scope) is True
    assert [("plugin:is_warm", "asked about 31\n")] == heard
    assert caged.as_guard("plugin:is_warm")(FakeScope({"celsius": 30}, None)) is False
    with pytest.raises(FunctionFailed, match="has to say true or false, and said 31"):
        caged.as_guard("plugin:is_vague")(scope)


def test_an_action_assigns_what_the_function_returns_and_only_variables_there_are(caged: Sandbox) -> None:
    scope = FakeScope({"celsius": 31}, Event("cooled", {"by": 2}))
    caged.as_action("plugin:cooled")(scope)

    assert {"celsius": 29} == scope.data
    with pytest.raises(FunctionFailed, match="no such variable"):
        caged.as_action("plugin:invents")(scope)
    with pytest.raises(FunctionFailed, match="variables by name"):
        caged.as_action("plugin:is_warm")(scope)
    assert {"celsius": 29} == scope.data


def test_the_engine_takes_a_step_back_when_foreign_code_in_it_fails_or_hangs(caged: Sandbox) -> None:
    def chart(*actions: str) -> Chart:
        calls = tuple(Call(caged.as_action(name, timeout=0.5 if "hangs" in name else None)) for name in actions)
        warm = Transition("cooled", ("cold",), guard=caged.as_guard("plugin:is_warm"), do=calls)
        states = (State("warm", transitions=(warm,)), State("cold"))
        return Chart(Definition("rack", State(states=states, variables=(Variable("celsius", value=31),))))

    for actions, end, celsius in (
        (("plugin:cooled",), "cold", 29),
        (("plugin:cooled", "plugin:invents"), "warm", 31),
        (("plugin:cooled", "attacks:hangs_as_action"), "warm", 31),
    ):
        instance = new(chart(*actions), "r", runtime := Runtime())
        start(instance)
        handle(instance, Event("cooled", {"by": 2}))

        assert instance.is_in(end) and celsius == instance.data["celsius"]
        assert (end == "warm") == any(isinstance(effect, Faulted) for effect in runtime.effects)
    assert goes_on(caged)


def test_guards_of_different_functions_have_different_names_for_the_charts_hash(caged: Sandbox) -> None:
    assert ["plugin:is_warm", "plugin:is_vague"] == [
        caged.as_guard(name).__qualname__ for name in ("plugin:is_warm", "plugin:is_vague")
    ]


class FakeScope:
    def __init__(self, data: dict[str, Any], event: Event | None) -> None:
        self.data = data
        self.event = event

    def is_in(self, state: str) -> bool:
        return False

    def send(self, name: str, data: Any = None) -> None:
        raise AssertionError("foreign functions send nothing")


def test_the_same_call_gives_the_same_result_in_every_child(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    first = make().call("plugin:seed")
    monkeypatch.setenv("PYTHONHASHSEED", "8")

    assert first == make().call("plugin:seed")
    assert [[], {}, "/", "UTC0"[:3]] == first[2:]


def test_what_is_printed_is_told_up_to_its_bound_and_counted_beyond(make: Make) -> None:
    heard: list[str] = []
    caged = make(Bounds(output=10, timeout=60, start=60), on_output=lambda function, text: heard.append(text))
    caged.call("plugin:say", "abc", 1_000)
    caged.call("plugin:add", 1, 1)

    assert ["abc\n!abc\n! … and 4990 bytes more"] == heard


def test_many_threads_get_each_their_own_answers(caged: Sandbox) -> None:
    wrong: list[Any] = []

    def ask(n: int) -> None:
        for i in range(20):
            if (said := caged.call("plugin:add", n, i)) != n + i:
                wrong.append((n, i, said))

    threads = [threading.Thread(target=ask, args=(n * 1_000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == wrong
    assert (160, 1) == (caged.tally.calls, caged.tally.starts)


def test_the_child_outlives_the_thread_that_first_called_it(caged: Sandbox) -> None:
    thread = threading.Thread(target=caged.call, args=("plugin:add", 1, 1))
    thread.start()
    thread.join()
    pid = caged.pid

    assert goes_on(caged) and pid == caged.pid and caged.tally.starts == 1


def test_an_event_loop_runs_on_beside_a_call(caged: Sandbox) -> None:
    async def both() -> tuple[int, Any]:
        turns = 0
        call = asyncio.create_task(caged.acall("plugin:add", 1, 2))
        while not call.done():
            turns += 1
            await asyncio.sleep(0)
        return turns, await call

    turns, answer = asyncio.run(both())

    assert 3 == answer and turns > 1


# --- its life ---------------------------------------------------------------------------------------------------------


def test_closing_leaves_no_process_and_no_descriptor_behind(home: Path, locks: None) -> None:
    sandbox = Sandbox(home, bounds=PATIENT)
    before = len(os.listdir("/proc/self/fd"))
    sandbox.start()
    pid = sandbox.pid
    assert pid and is_alive(pid)
    sandbox.close()

    assert not Path(f"/proc/{pid}").exists()
    assert before == len(os.listdir("/proc/self/fd"))
    with pytest.raises(SandboxUnavailable, match="closed"):
        sandbox.call("plugin:add", 1, 2)
    sandbox.close()


def test_a_child_killed_between_calls_is_replaced_without_anybody_noticing(caged: Sandbox) -> None:
    caged.start()
    pid = caged.pid
    assert pid
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert wait_end(pidfd)
    os.close(pidfd)

    assert goes_on(caged) and pid != caged.pid
    assert (2, 0) == (caged.tally.starts, caged.tally.crashes)


def test_a_function_that_exits_is_told_with_its_status_and_the_child_is_replaced(caged: Sandbox) -> None:
    with pytest.raises(SandboxError, match="plugin:dies was ended: it exited with status 7"):
        caged.call("plugin:dies", 7)
    assert caged.pid is None
    assert goes_on(caged)
    assert (2, 1) == (caged.tally.starts, caged.tally.crashes)


def test_after_two_bad_lives_calls_are_refused_for_a_while(make: Make) -> None:
    caged = make(Bounds(timeout=60, start=60, backoff=50.0))
    for _ in range(2):
        with pytest.raises(SandboxError, match="exited with status 1"):
            caged.call("plugin:dies", 1)
    with pytest.raises(SandboxError, match=r"died 2 times in a row; next try in [45]\d\.\d s"):
        caged.call("plugin:add", 1, 1)
    assert 2 == caged.tally.starts


def test_it_gives_up_after_so_many_bad_lives_in_a_row(make: Make) -> None:
    caged = make(Bounds(timeout=60, start=60, crashes=3, backoff=0.0))
    for _ in range(2):
        with pytest.raises(SandboxError, match="status 1"):
            caged.call("plugin:dies", 1)
    assert goes_on(caged), "a good call ends the row"
    for _ in range(3):
        with pytest.raises(SandboxError, match="status 1"):
            caged.call("plugin:dies", 1)
    with pytest.raises(SandboxUnavailable, match="died 3 times in a row and is given up"):
        caged.call("plugin:add", 1, 1)
    assert 5 == caged.tally.crashes


def test_what_one_call_leaves_behind_is_gone_with_a_child_for_each(make: Make) -> None:
    shared, fresh = make(), make(Bounds(calls=1, timeout=60, start=60))
    for sandbox in (shared, fresh):
        sandbox.call("plugin:remember", "secret")

    assert "secret" == shared.call("plugin:recall"), "documented: one sandbox for each plugin"
    assert fresh.call("plugin:recall") is None
    assert (2, 0) == (fresh.tally.starts, fresh.tally.crashes)


def test_a_child_is_replaced_before_its_processor_time_could_run_out_in_the_middle_of_a_call(make: Make) -> None:
    caged = make(Bounds(cpu=60, timeout=60, start=60))

    assert goes_on(caged) and goes_on(caged)
    assert (2, 0) == (caged.tally.starts, caged.tally.crashes)


def test_the_child_dies_with_its_parent_even_in_the_middle_of_a_call(home: Path, locks: None) -> None:
    script = (
        "import sys, threading\n"
        "from x0tta6bl4.statechart.extensions.sandbox import Bounds, Sandbox\n"
        "s = Sandbox(sys.argv[1], bounds=Bounds(timeout=600, cpu=600))\n"
        "s.start()\n"
        "print(s.pid, flush=True)\n"
        "s.call('attacks:spin')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(home)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            assert wait_end(pidfd)
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def test_a_directory_that_is_none_is_said(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "absent") as sandbox, pytest.raises(SandboxError, match="is no directory"):
        sandbox.start()


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"cpu": -1}, {"timeout": float("nan")}, {"backoff": -1}])
def test_senseless_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Bounds(**wrong)


# --- attacks ----------------------------------------------------------------------------------------------------------

DEEDS: dict[str, str] = {
    "read": "file",
    "read_binary": "file",
    "lists": "directory",
    "write": "new",
    "append": "file",
    "make_directory": "new",
    "change_mode": "file",
    "link": "file",
    "rename": "file",
    "delete": "doomed",
    "tcp": "tcp",
    "udp": "udp",
    "unix": "unix",
    "pair": "",
    "run": "",
    "shell": "",
    "fork": "",
    "thread": "",
    "ask_signal": "pid",
    "kill_by_fd": "pid",
    "memfd": "",
    "raise_limits": "",
    "new_session": "",
    "alarm": "",
    "writable_code": "",
    "later_code": "",
    "peek": "self",
}
"""Attack -> what it is aimed at. Each is done without a cage, too, to show that it is one."""


class Targets:
    def __init__(self, place: Path, victim: int) -> None:
        self.directory = place / "outside"
        self.directory.mkdir()
        self.file = self.directory / "secret"
        self.file.write_text("the secret")
        self.doomed = self.directory / "doomed"
        self.doomed.write_text("")
        self.new = self.directory / "new"
        self.pid = victim
        self.sockets = [socket.socket(), socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX)]
        listening, self.datagrams, local = self.sockets
        listening.bind(("127.0.0.1", 0))
        self.datagrams.bind(("127.0.0.1", 0))
        self.datagrams.setblocking(False)
        local.bind(str(self.directory / "s"))
        listening.listen()
        local.listen()
        self.tcp, self.udp, self.unix = listening.getsockname()[1], self.datagrams.getsockname()[1], local.getsockname()

    def of(self, kind: str) -> tuple[Any, ...]:
        target = getattr(self, kind) if kind and kind != "self" else os.getpid()
        return () if not kind else (str(target) if isinstance(target, Path) else target,)

    def picture(self) -> list[Any]:
        files = sorted((path.name, path.stat().st_mode, path.stat().st_size) for path in self.directory.iterdir())
        return [files, select.select(self.sockets, [], [], 0)[0], is_alive(self.pid)]


@pytest.fixture
def targets(tmp_path: Path, victim: int) -> Iterator[Targets]:
    aims = Targets(tmp_path, victim)
    yield aims
    for each in aims.sockets:
        each.close()


@pytest.mark.parametrize("attack", DEEDS)
def test_an_attack_is_refused_and_changes_nothing(caged: Sandbox, targets: Targets, attack: str) -> None:
    before = targets.picture()
    with pytest.raises(
        FunctionFailed, match=r"PermissionError|Errno 1\b|Errno 13\b|can't start new thread|not allowed to raise"
    ):
        caged.call(f"attacks:{attack}", *targets.of(DEEDS[attack]))
    assert before == targets.picture()
    assert goes_on(caged) and caged.tally.starts == 1


@pytest.mark.parametrize("attack", DEEDS)
def test_without_a_cage_the_same_attack_succeeds(home: Path, targets: Targets, attack: str) -> None:
    arguments = targets.of(DEEDS[attack])
    if DEEDS[attack] == "self":
        script = f"import attacks, os; attacks.{attack}(os.getpid())"
    else:
        script = f"import attacks; attacks.{attack}(*{arguments!r})"
    done = subprocess.run([sys.executable, "-c", script], cwd=home, capture_output=True, text=True, check=False)
    if "Errno" in done.stderr and attack in ("peek", "memfd", "kill_by_fd"):
        pytest.skip("what this test runs in refuses it already")

    assert 0 == done.returncode, done.stderr


@pytest.mark.parametrize(
    "path",
    ["/etc/shadow", "/etc/passwd", "/proc/self/environ", "/proc/self/mem", "/proc/1/cmdline", "/dev/null", "/dev/mem"],
)
def test_no_file_outside_can_be_read(caged: Sandbox, path: str) -> None:
    with pytest.raises(FunctionFailed, match=r"PermissionError|FileNotFoundError"):
        caged.call("attacks:read_binary", path)
    with pytest.raises(FunctionFailed, match=r"PermissionError|FileNotFoundError"):
        caged.call("attacks:read_binary", f"/../..{path}")


@pytest.mark.parametrize("file", ["environ", "mem", "maps", "cmdline", "fd"])
def test_the_parents_memory_and_environment_cannot_be_read(caged: Sandbox, file: str) -> None:
    for attack in ("read_binary", "lists"):
        with pytest.raises(FunctionFailed, match=r"PermissionError|NotADirectoryError"):
            caged.call(f"attacks:{attack}", f"/proc/{os.getpid()}/{file}")


def test_its_own_directory_and_a_link_out_of_it(caged: Sandbox, home: Path, targets: Targets) -> None:
    (home / "note").write_text("mine")
    (home / "way_out").symlink_to(targets.file)

    assert "mine" == caged.call("attacks:read", str(home / "note"))
    with pytest.raises(FunctionFailed, match="PermissionError"):
        caged.call("attacks:read", str(home / "way_out"))
    with pytest.raises(FunctionFailed, match="PermissionError"):
        caged.call("attacks:write", str(home / "note"))
    with pytest.raises(FunctionFailed, match="PermissionError"):
        caged.call("attacks:delete", str(home / "note"))
    assert "mine" == (home / "note").read_text()


def test_what_the_operator_calls_readable_can_be_read_and_not_written(make: Make, targets: Targets) -> None:
    caged = make(readable=[str(targets.file)])

    assert "the secret" == caged.call("attacks:read", str(targets.file))
    with pytest.raises(FunctionFailed, match="PermissionError"):
        caged.call("attacks:write", str(targets.file))
    with pytest.raises(FunctionFailed, match="PermissionError"):
        caged.call("attacks:read", str(targets.doomed))


def test_no_name_is_looked_up(caged: Sandbox) -> None:
    with pytest.raises(FunctionFailed, match="PermissionError"):
        caged.call("attacks:dns")
    assert goes_on(caged)


def test_nobody_is_killed_or_traced(caged: Sandbox, victim: int) -> None:
    for attack in ("kill", "trace"):
        with pytest.raises(FunctionFailed, match="Errno 1"):
            caged.call(f"attacks:{attack}", victim)
    for pid in (os.getpid(), 1, -1, 0):
        with pytest.raises(FunctionFailed, match="Errno 1"):
            caged.call("attacks:ask_signal", pid)
    assert is_alive(victim) and goes_on(caged) and caged.tally.starts == 1


def test_it_cannot_turn_into_another_program(caged: Sandbox) -> None:
    with pytest.raises(FunctionFailed, match="PermissionError"):
        caged.call("attacks:replace_self")
    assert goes_on(caged)


def test_bombs_of_processes_and_threads_have_no_fuse(caged: Sandbox) -> None:
    with pytest.raises(FunctionFailed, match="PermissionError"):
        caged.call("attacks:fork_bomb")
    assert 0 == caged.call("attacks:thread_bomb")
    assert "Threads:\t1\n" in Path(f"/proc/{caged.pid}/status").read_text()
    children = Path(f"/proc/{caged.pid}/task/{caged.pid}/children")
    assert "" == (children.read_text() if children.exists() else "")


def test_memory_is_bounded_and_the_child_survives_asking_for_more(caged: Sandbox) -> None:
    with pytest.raises(FunctionFailed, match="MemoryError"):
        caged.call("attacks:memory", 1 << 30)
    assert 1 << 20 == caged.call("attacks:memory", 1 << 20)
    assert 1 == caged.tally.starts


def test_open_files_are_bounded(caged: Sandbox) -> None:
    with pytest.raises(FunctionFailed, match="Too many open files"):
        caged.call("attacks:open_many")
    assert goes_on(caged)


def test_recursion_ends_in_an_error_or_in_a_dead_child_never_in_a_dead_parent(make: Make) -> None:
    caged = make(replace(PATIENT, memory=96 << 20))
    with pytest.raises(FunctionFailed, match="RecursionError"):
        caged.call("attacks:recurse", 0)
    with pytest.raises(SandboxError):
        caged.call("attacks:recurse", 10**9)
    assert goes_on(caged)
    with pytest.raises(SandboxError):
        caged.call("attacks:c_stack")
    assert goes_on(caged)


@pytest.mark.parametrize("attack", ["spin", "sleep"])
def test_a_call_that_does_not_end_is_ended_and_counted(caged: Sandbox, attack: str) -> None:
    assert goes_on(caged)
    pid = caged.pid
    with pytest.raises(SandboxError, match=f"attacks:{attack} took longer than 0.2 s"):
        caged.call(f"attacks:{attack}", timeout=0.2)
    assert pid and not is_alive(pid)
    assert goes_on(caged)
    assert (2, 1, 1) == (caged.tally.starts, caged.tally.timeouts, caged.tally.crashes)


def test_ignoring_every_signal_does_not_help_against_the_timeout(caged: Sandbox) -> None:
    with pytest.raises(SandboxError, match="took longer"):
        caged.call("attacks:spin", [signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGHUP], timeout=0.5)
    assert goes_on(caged)


def test_processor_time_ends_by_the_kernels_hand_when_the_parent_is_patient(make: Make) -> None:
    caged = make(Bounds(cpu=1, timeout=300, start=60))
    with pytest.raises(SandboxError, match="used up its 1 s of processor time"):
        caged.call("attacks:spin")
    assert goes_on(caged)


def test_results_that_are_too_large_too_deep_or_no_json_are_failures(caged: Sandbox) -> None:
    with pytest.raises(FunctionFailed, match="takes 8388610 bytes of JSON, and 1048576 are allowed"):
        caged.call("attacks:giant")
    with pytest.raises(FunctionFailed, match="nested more than"):
        caged.call("attacks:deep", 200)
    with pytest.raises(FunctionFailed, match="RecursionError"):
        caged.call("attacks:deep", 100_000)
    with pytest.raises(FunctionFailed, match="Circular"):
        caged.call("attacks:circle")
    for what in ("nan", "bytes", "set", "object", "half"):
        with pytest.raises(FunctionFailed):
            caged.call("attacks:odd", what)
    assert goes_on(caged) and caged.tally.starts == 1


def test_depth_that_is_written_past_the_child_into_the_conversation_is_refused(caged: Sandbox) -> None:
    with pytest.raises(FunctionFailed, match="cannot be used"):
        caged.call("attacks:nested", 500_000)
    assert caged.pid


@pytest.mark.parametrize("text", ['"\\ud800"', "1e999", "NaN", "-Infinity", "[1", "", "\x00", "9" * 5_000, "1 2"])
def test_values_that_only_a_hostile_child_can_send_are_refused(caged: Sandbox, text: str) -> None:
    with pytest.raises(FunctionFailed, match="cannot be used"):
        caged.call("attacks:takes_over", text)
    with pytest.raises(SandboxError, match="took longer"):
        caged.call("plugin:add", 1, 1, timeout=0.1)
    assert goes_on(caged)


def test_noise_in_the_conversation_ends_the_child(caged: Sandbox) -> None:
    for text, why in (
        ("00" * 50, "out of turn"),
        ("ff" * 9, "out of turn"),
        ("deadbeef" * 10_000, "out of turn"),
    ):
        with pytest.raises(SandboxError, match=why):
            caged.call("attacks:raw", text)
        assert goes_on(caged)
    assert 3 == caged.tally.crashes


def test_an_announced_giant_is_not_waited_for(caged: Sandbox) -> None:
    # A life's second message from us is its first call: terms were the first.
    with pytest.raises(SandboxError, match="has 4294967295 bytes"):
        caged.call("attacks:raw", struct.pack(">IIB", 0xFFFFFFFF, 2, 2).hex())
    assert goes_on(caged)


def test_two_answers_at_once_are_none(caged: Sandbox) -> None:
    one = struct.pack(">IIB", 1, 2, 2) + b"1"
    with pytest.raises(SandboxError, match="said more than one answer"):
        caged.call("attacks:raw", (one + one).hex())
    assert goes_on(caged)


def test_answering_twice_never_shifts_the_answers(caged: Sandbox) -> None:
    for ahead in (0, 1):
        for _ in range(3):
            with contextlib.suppress(SandboxError):
                caged.call("attacks:answer", '"a lie"', ahead)
            assert still_right(caged)
    assert 6 == caged.tally.crashes


def test_a_message_of_a_foreign_kind_is_no_value(caged: Sandbox) -> None:
    for kind in (0, 1, 4, 255):
        with pytest.raises(SandboxError):
            caged.call("attacks:answer", "{}", 0, kind)
        assert still_right(caged)


def test_closing_the_conversation_or_all_files_ends_the_child(caged: Sandbox) -> None:
    with pytest.raises(SandboxError, match="was ended"):
        caged.call("attacks:close_everything")
    assert goes_on(caged)


def test_closing_the_output_costs_nothing_but_the_output(caged: Sandbox) -> None:
    assert "still here" == caged.call("attacks:close_output")
    assert goes_on(caged) and caged.tally.starts == 1


def test_a_flood_of_output_is_bounded_in_memory_and_time(make: Make) -> None:
    heard: list[str] = []
    caged = make(on_output=lambda function, text: heard.append(text))
    with pytest.raises(SandboxError, match="took longer"):
        caged.call("attacks:flood", timeout=0.3)

    assert len(heard) == 1 and len(heard[0]) < PATIENT.output + 100
    assert re.search(r"and \d+ bytes more$", heard[0])
    assert goes_on(caged)


def test_breaking_our_own_code_in_the_child_harms_the_child_alone(caged: Sandbox) -> None:
    caged.call("attacks:sabotage")
    with pytest.raises(SandboxError, match="was ended: it exited with status 1"):
        caged.call("plugin:add", 1, 1)
    assert goes_on(caged)


def test_nothing_of_the_parents_is_inherited(make: Make, targets: Targets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X0TTA6BL4_TEST_SECRET", "abc")
    with targets.file.open() as secret:
        os.set_inheritable(secret.fileno(), True)
        status = os.fstat(secret.fileno())
        caged = make()

        assert [] == caged.call("attacks:finds_inode", status.st_dev, status.st_ino)
    assert [False, False] == caged.call("attacks:environment", "X0TTA6BL4_TEST_SECRET")


FORBIDDEN = """
    socket 41 198 connect 42 203 bind 49 200 sendto 44 206 sendmsg 46 211 recvmsg 47 212 socketpair 53 199
    clone 56 220 clone3 435 435 execve 59 221 execveat 322 281 unshare 272 97 setns 308 268
    kill 62 129 tkill 200 130 tgkill 234 131 rt_sigqueueinfo 129 138 rt_tgsigqueueinfo 297 240
    pidfd_open 434 434 pidfd_send_signal 424 424 pidfd_getfd 438 438
    ptrace 101 117 process_vm_readv 310 270 process_vm_writev 311 271 kcmp 312 272 process_madvise 440 440
    bpf 321 280 perf_event_open 298 241 userfaultfd 323 282 seccomp 317 277 prctl 157 167 personality 135 92
    io_uring_setup 425 425 io_uring_enter 426 426 io_uring_register 427 427 io_setup 206 0 io_submit 209 2
    mount 165 40 umount2 166 39 pivot_root 155 41 chroot 161 51 open_tree 428 428 move_mount 429 429 fsopen 430 430
    name_to_handle_at 303 264 open_by_handle_at 304 265 openat2 437 437 memfd_create 319 279 memfd_secret 447 447
    truncate 76 45 ftruncate 77 46 fallocate 285 47 fchmod 91 52 fchmodat 268 53 fchown 93 55 fchownat 260 54
    unlinkat 263 35 renameat2 316 276 mkdirat 258 34 mknodat 259 33 linkat 265 37 symlinkat 266 36 utimensat 280 88
    setxattr 188 5 getxattr 191 8 inotify_init1 294 26 fanotify_init 300 262
    splice 275 76 tee 276 77 vmsplice 278 75 sendfile 40 71 copy_file_range 326 285 pwritev2 328 287 preadv2 327 286
    setuid 105 146 setgid 106 144 setresuid 117 147 setgroups 116 159 capset 126 91 setpgid 109 154 setsid 112 157
    setrlimit 160 164 setpriority 141 140 sched_setscheduler 144 119 sched_setaffinity 203 122 ioprio_set 251 30
    add_key 248 217 keyctl 250 219 request_key 249 218 init_module 175 105 finit_module 313 273 delete_module 176 106
    kexec_load 246 104 reboot 169 142 swapon 167 224 sethostname 170 161 settimeofday 164 170 clock_settime 227 112
    clock_adjtime 305 266 acct 163 89 quotactl 179 60 syslog 103 116 lookup_dcookie 212 18 nfsservctl 180 42
    shmget 29 194 shmat 30 196 msgget 68 186 semget 64 190 mq_open 240 180
    setitimer 38 103 timer_create 222 107 timerfd_create 283 85 eventfd2 290 19 signalfd4 289 74 epoll_create1 291 20
    pkey_mprotect 329 288 remap_file_pages 216 234 mlockall 151 230 landlock_create_ruleset 444 444
    pipe2 293 59 dup 32 23 dup3 292 24 getppid 110 173 fchdir 81 50 chdir 80 49 wait4 61 260
"""


def forbidden(column: int) -> dict[str, int]:
    words = FORBIDDEN.split()
    return {words[i]: int(words[i + column]) for i in range(0, len(words), 3)}


def test_no_forbidden_call_is_reached_by_calling_the_kernel_directly(caged: Sandbox) -> None:
    said = caged.call("attacks:calls", forbidden(2 if MACHINE == "aarch64" else 1))

    assert {} == {name: answer for name, answer in said.items() if answer != [-1, 1]}
    assert len(said) > 110 and goes_on(caged) and caged.tally.starts == 1


@pytest.mark.skipif(MACHINE != "x86_64", reason="only x86_64 has a second table of calls")
def test_the_second_table_of_calls_is_no_way_around(caged: Sandbox) -> None:
    with pytest.raises(SandboxError, match="it died of SIGSYS"):
        caged.call("attacks:calls", {"getpid": 0x40000000 | 39})
    assert goes_on(caged)


# --- the filter, run on paper for both machines -----------------------------------------------------------------------


def judge(program: bytes, number: int, audit: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel's own interpreter would return: the instructions as linux/filter.h defines them."""
    call = struct.pack("<IIQ6Q", number, audit, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    at, loaded = 0, 0
    while True:
        code, yes, no, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        match code:
            case 0x20:
                (loaded,) = struct.unpack_from("<I", call, value)
            case 0x15 | 0x35 | 0x45:
                holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: loaded & value != 0}[code]
                at += yes if holds else no
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"no instruction: {code:#x}")


MACHINES = ("x86_64", "aarch64")


def filtered(machine: str) -> tuple[bytes, bpf.Architecture]:
    target = bpf.architecture(machine)
    assert target
    return bpf.assemble(target), target


@pytest.mark.parametrize("machine", MACHINES)
@given(data=st.data())
def test_a_number_that_is_not_in_the_table_is_never_let_through(machine: str, data: st.DataObject) -> None:
    program, target = filtered(machine)
    number = data.draw(st.integers(0, 600) | st.integers(0, 2**32 - 1))
    arguments = tuple(data.draw(st.lists(st.integers(0, 2**64 - 1), max_size=6)))
    verdict = judge(program, number, target.audit, arguments)
    if number >= 0x40000000 and machine == "x86_64":
        assert bpf.KILL == verdict
    elif number not in target.numbers.values():
        assert bpf.REFUSE == verdict
    else:
        assert verdict in (bpf.ALLOW, bpf.REFUSE)
    assert bpf.KILL == judge(program, number, target.audit ^ 1, arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_forbidden_call_is_refused_by_both_machines_filters(machine: str) -> None:
    program, target = filtered(machine)
    numbers = forbidden(1 + MACHINES.index(machine))

    assert {} == {n: v for n, v in numbers.items() if judge(program, v, target.audit) != bpf.REFUSE}


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_decide_where_a_call_can_be_either(machine: str) -> None:
    program, target = filtered(machine)
    cases: list[tuple[str, tuple[int, ...], bool]] = [
        ("openat", (0, 0, os.O_RDONLY | os.O_CLOEXEC), True),
        ("openat", (0, 0, os.O_RDONLY | 0o200000), True),
        ("openat", (0, 0, os.O_WRONLY), False),
        ("openat", (0, 0, os.O_RDWR), False),
        ("openat", (0, 0, os.O_RDONLY | os.O_CREAT), False),
        ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), False),
        ("openat", (0, 0, 0o20200000), False),
        ("openat", (0, 0, 1 << 32 | os.O_WRONLY), False),
        ("mmap", (0, 4096, 3, 0x22), True),
        ("mmap", (0, 4096, 5, 0x2), True),
        ("mmap", (0, 4096, 7, 0x2), False),
        ("mmap", (0, 4096, 5, 0x22), False),
        ("mmap", (0, 4096, 1 << 32 | 7, 0x22), False),
        ("mprotect", (0, 4096, 3), True),
        ("mprotect", (0, 4096, 5), False),
        ("fcntl", (1, 1030), True),
        ("fcntl", (1, 8), False),
        ("fcntl", (1, 4), False),
        ("ioctl", (1, 0x5401), True),
        ("ioctl", (1, 0x5412), False),
        ("prlimit64", (0, 7, 0, 1), True),
        ("prlimit64", (0, 7, 1, 0), False),
        ("prlimit64", (0, 7, 1 << 32, 0), False),
        ("prlimit64", (1, 7, 0, 0), False),
    ]
    if machine == "x86_64":
        cases += [("open", (0, os.O_RDONLY), True), ("open", (0, os.O_WRONLY), False), ("open", (0, 0o101), False)]
    for name, arguments, allowed in cases:
        verdict = judge(program, target.numbers[name], target.audit, arguments)
        assert (bpf.ALLOW if allowed else bpf.REFUSE) == verdict, (name, arguments)


HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_tables_say_what_the_kernels_headers_say(machine: str) -> None:
    found = [path for path in map(Path, HEADERS[machine]) if path.exists()]
    if not found:
        pytest.skip("no kernel headers are installed here")
    text = found[0].read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", text)}
    known.setdefault("newfstatat", known.get("fstatat", -1))
    numbers = filtered(machine)[1].numbers

    assert dict(numbers) == {name: known[name] for name in numbers}
    column = 1 + MACHINES.index(machine)
    assert {} == {n: v for n, v in forbidden(column).items() if n in known and known[n] != v}


def test_a_machine_without_a_table_runs_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    with Sandbox(home) as sandbox, pytest.raises(SandboxUnavailable, match="no list of calls for riscv64"):
        sandbox.call("plugin:add", 1, 1)
    assert 0 == sandbox.tally.starts


# --- where the kernel does not help -----------------------------------------------------------------------------------

DEPRIVED = '''
import ctypes, struct, sys
from pathlib import Path

def deprive(number, argument, value, errno):
    """A real filter over this process: the call fails as if the kernel did not have it."""
    which = [(0x20, 0, 0, 16 + 8 * argument), (0x15, 0, 1, value)] if argument is not None else []
    deny, allow = (0x06, 0, 0, 0x00050000 | errno), (0x06, 0, 0, 0x7FFF0000)
    steps = [(0x20, 0, 0, 0), (0x15, 0, len(which) + 1, number), *which, deny, allow]
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    text = ctypes.create_string_buffer(program, len(program))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, ctypes.c_ulong(1), *[ctypes.c_ulong(0)] * 3) == 0
    fprog = struct.pack("@HP", len(steps), ctypes.addressof(text))
    assert libc.prctl(22, ctypes.c_ulong(2), fprog, *[ctypes.c_ulong(0)] * 2) == 0, ctypes.get_errno()

from x0tta6bl4.statechart.extensions.sandbox import Bounds, Sandbox, SandboxUnavailable
home, kind, without_landlock = sys.argv[1:]
prctl = 167 if {machine!r} == "aarch64" else 157
if kind == "landlock":
    deprive(444, None, 0, 38)
elif kind == "seccomp":
    deprive(prctl, 0, 22, 22)
with Sandbox(home, bounds=Bounds(timeout=60, start=60), without_landlock=without_landlock == "yes") as sandbox:
    try:
        print("answered", sandbox.call("plugin:add", 1, 2), sorted(sandbox.lacks))
    except SandboxUnavailable as error:
        print("refused:", error, sandbox.pid)
'''


def deprived(home: Path, kind: str, without_landlock: bool = False, **more: Any) -> str:
    more.setdefault("env", {**os.environ, "PYTHONPATH": str(ROOT)})
    done = subprocess.run(
        [
            more.pop("python", sys.executable),
            "-c",
            DEPRIVED.replace("{machine!r}", repr(MACHINE)),
            str(home),
            kind,
            "yes" if without_landlock else "no",
        ],
        capture_output=True,
        text=True,
        check=False,
        **more,
    )
    assert 0 == done.returncode, done.stderr
    return str(done.stdout).strip()


def test_without_landlock_nothing_is_run_unless_the_operator_says_so(home: Path, locks: None) -> None:
    said = deprived(home, "landlock")

    assert said.startswith("refused: nothing confines foreign code here") and said.endswith("None")
    assert "landlock-files (Function not implemented)" in said
    said = deprived(home, "landlock", without_landlock=True)
    assert "answered 3 ['landlock-files', 'landlock-signals', 'landlock-tcp']" == said


@pytest.mark.parametrize("without_landlock", [False, True])
def test_without_seccomp_nothing_is_run_at_all(home: Path, locks: None, without_landlock: bool) -> None:
    said = deprived(home, "seccomp", without_landlock)

    assert said.startswith("refused:") and "seccomp (Invalid argument)" in said and said.endswith("None")


def test_it_works_for_a_user_without_any_rights(tmp_path: Path, locks: None) -> None:
    if os.getuid() != 0:
        pytest.skip("not root: every other test here has shown it")
    python = next(
        (
            path
            for path in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3")
            if shutil.which(path) and runs_as_nobody(path)
        ),
        None,
    )
    if python is None:
        pytest.skip("there is no Python >= 3.11 here that a user without rights may run")
    place = Path("/var/tmp") if not runs_as_nobody(python, f"import os; os.listdir({str(tmp_path)!r})") else tmp_path
    with contextlib.ExitStack() as stack:
        home = place / f"x0tta6bl4-test-{os.getpid()}"
        home.mkdir()
        stack.callback(shutil.rmtree, home)
        home.chmod(0o755)
        (home / "plugin.py").write_text(PLUGIN)
        environment = {"PYTHONPATH": str(ROOT)}

        assert "answered 3 []" == re.sub(
            r"\[.*\]", "[]", deprived(home, "nothing", python=python, user=65534, group=65534, env=environment, cwd="/")
        )


def runs_as_nobody(python: str, code: str = "") -> bool:
    test = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import x0tta6bl4.statechart.extensions.bpf\n{code}"
    with contextlib.suppress(PermissionError):
        return not subprocess.run(
            [python, "-c", test], user=65534, group=65534, env={}, cwd="/", capture_output=True, check=False
        ).returncode
    return False


def test_root_is_root_no_more(caged: Sandbox) -> None:
    caged.start()
    status = Path(f"/proc/{caged.pid}/status").read_text()

    assert re.search(r"CapInh:\t0+\nCapPrm:\t0+\nCapEff:\t0+\n", status)
    assert [os.getuid(), os.geteuid()] == caged.call("attacks:identity")
