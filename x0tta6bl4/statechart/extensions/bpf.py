"""Assembles the filter that the kernel lays over a sandboxed process: which system calls it may make, and how."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

# Classic BPF, as linux/filter.h numbers it: load a word of the call's description, compare and skip, or return.
_LOAD = 0x20
_EQUAL = 0x15
_AT_LEAST = 0x35
_ANY_BIT = 0x45
_RETURN = 0x06

KILL = 0x80000000
REFUSE = 0x00050000 | 1
"""The call fails with EPERM, so that Python says so in an exception instead of dying without a word."""
ALLOW = 0x7FFF0000

_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Where struct seccomp_data has what is asked about."""
_X32 = 0x40000000
"""Set in the numbers of x86_64's second table of calls, which would be a way around this one."""

_WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, and O_TMPFILE without the bit it shares with O_DIRECTORY."""
_PROT_WRITE, _PROT_EXEC, _MAP_ANONYMOUS = 2, 4, 0x20
_FCNTL = (0, 1, 2, 3, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC. F_SETOWN and F_SETSIG would send signals to others."""
_IOCTL = (0x5401, 0x5451)
"""TCGETS, with which Python asks whether a file is a terminal, and FIOCLEX."""

_FREELY = """
    read write futex clock_gettime brk munmap mremap madvise
    close fstat stat lstat newfstatat statx lseek pread64 readv writev getdents64 readlink readlinkat getcwd
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall
    nanosleep clock_nanosleep clock_getres gettimeofday time
    getpid gettid getuid geteuid getgid getegid
    sched_yield sched_getaffinity getrlimit getrusage sysinfo uname getrandom
    exit exit_group
"""
"""What Python needs for computing, importing and sleeping. None of it reaches beyond the process and the files that
Landlock leaves readable; what would (sockets, processes, signals, tracing, mounts, rings) is simply not here. The most
frequent come first: older kernels go through the list for every call."""


@dataclass(frozen=True, slots=True)
class Architecture:
    audit: int
    """What the kernel calls it in each call's description."""
    numbers: Mapping[str, int]
    has_x32: bool = False


_X86_64 = """
    read 0 write 1 open 2 close 3 stat 4 fstat 5 lstat 6 lseek 8 mmap 9 mprotect 10 munmap 11 brk 12 rt_sigaction 13
    rt_sigprocmask 14 rt_sigreturn 15 ioctl 16 pread64 17 readv 19 writev 20 sched_yield 24 mremap 25 madvise 28
    nanosleep 35 getpid 39 exit 60 uname 63 fcntl 72 getcwd 79 readlink 89 gettimeofday 96 getrlimit 97 getrusage 98
    sysinfo 99 getuid 102 getgid 104 geteuid 107 getegid 108 sigaltstack 131 gettid 186 time 201 futex 202
    sched_getaffinity 204 getdents64 217 restart_syscall 219 clock_gettime 228 clock_getres 229 clock_nanosleep 230
    exit_group 231 openat 257 newfstatat 262 readlinkat 267 prlimit64 302 getrandom 318 statx 332
"""
_AARCH64 = """
    getcwd 17 fcntl 25 ioctl 29 openat 56 close 57 getdents64 61 lseek 62 read 63 write 64 readv 65 writev 66
    pread64 67 readlinkat 78 newfstatat 79 fstat 80 exit 93 exit_group 94 futex 98 nanosleep 101 clock_gettime 113
    clock_getres 114 clock_nanosleep 115 sched_getaffinity 123 sched_yield 124 restart_syscall 128 sigaltstack 132
    rt_sigaction 134 rt_sigprocmask 135 rt_sigreturn 139 uname 160 getrlimit 163 getrusage 165 gettimeofday 169
    getpid 172 getuid 174 geteuid 175 getgid 176 getegid 177 gettid 178 sysinfo 179 brk 214 munmap 215 mremap 216
    mmap 222 mprotect 226 madvise 233 prlimit64 261 getrandom 278 statx 291
"""


def architecture(machine: str) -> Architecture | None:
    """The one that ``uname -m`` names; None: no table was written for it, hence no filter can be had."""
    if machine == "x86_64":
        return Architecture(0xC000003E, _numbered(_X86_64), has_x32=True)
    if machine == "aarch64":
        return Architecture(0xC00000B7, _numbered(_AARCH64))
    return None


def _numbered(table: str) -> dict[str, int]:
    words = table.split()
    return {name: int(number) for name, number in zip(words[::2], words[1::2], strict=True)}


def _do(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One instruction; ``yes`` and ``no`` say how many of the next ones a comparison skips."""
    return struct.pack("=HBBI", code, yes, no, value)


def _low(argument: int) -> bytes:
    """Loads the lower half. It is all the kernel looks at in flags and commands (both machines are little-endian)."""
    return _do(_LOAD, _ARGUMENTS + 8 * argument)


def _one_of(argument: int, values: tuple[int, ...]) -> bytes:
    tests = b"".join(_do(_EQUAL, value, 0, 1) + _do(_RETURN, ALLOW) for value in values)
    return _low(argument) + tests + _do(_RETURN, REFUSE)


def _none_of(argument: int, bits: int) -> bytes:
    return _low(argument) + _do(_ANY_BIT, bits, 0, 1) + _do(_RETURN, REFUSE) + _do(_RETURN, ALLOW)


def _map() -> bytes:
    """Code may be mapped from a file, as shared libraries are; never from memory, and never writable."""
    return b"".join(
        (
            _low(2),
            _do(_ANY_BIT, _PROT_EXEC, 1, 0),
            _do(_RETURN, ALLOW),
            _do(_ANY_BIT, _PROT_WRITE, 2, 0),
            _low(3),
            _do(_ANY_BIT, _MAP_ANONYMOUS, 0, 1),
            _do(_RETURN, REFUSE),
            _do(_RETURN, ALLOW),
        )
    )


def _own_limits() -> bytes:
    """Asks for limits of one's own: no other process (argument 0), nothing set (argument 2, a pointer, is null)."""
    null = _low(0) + _do(_EQUAL, 0, 0, 4) + _low(2) + _do(_EQUAL, 0, 0, 2)
    high = _do(_LOAD, _ARGUMENTS + 8 * 2 + 4) + _do(_EQUAL, 0, 1, 0)
    return null + high + _do(_RETURN, REFUSE) + _do(_RETURN, ALLOW)


def assemble(target: Architecture) -> bytes:
    """The program, ready for the kernel. What it does not know it refuses."""
    checked = {
        "mmap": _map(),
        "mprotect": _none_of(2, _PROT_EXEC),
        "openat": _none_of(2, _WRITING),
        "open": _none_of(1, _WRITING),
        "fcntl": _one_of(1, _FCNTL),
        "ioctl": _one_of(1, _IOCTL),
        "prlimit64": _own_limits(),
    }
    program = [
        _do(_LOAD, _ARCHITECTURE),
        _do(_EQUAL, target.audit, 1, 0),
        _do(_RETURN, KILL),
        _do(_LOAD, _NUMBER),
    ]
    if target.has_x32:
        program += _do(_AT_LEAST, _X32, 0, 1), _do(_RETURN, KILL)
    for name in _FREELY.split():
        if name in target.numbers:
            program += _do(_EQUAL, target.numbers[name], 0, 1), _do(_RETURN, ALLOW)
    for name, check in checked.items():
        if name in target.numbers:
            program += _do(_EQUAL, target.numbers[name], 0, len(check) // 8), check
    program.append(_do(_RETURN, REFUSE))
    return b"".join(program)
