"""Runs other programs for the daemon: argv lists in a session of their own, bounded in time and in output."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from x0tta6bl4.kernel.errors import StepRefused
from x0tta6bl4.ports.commands import CommandResult

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_GRACE = 0.5
"""Seconds between asking a tree to end and ending it."""
_LINGER = 0.2
"""Seconds the output is still read after the program ended: a service it left behind may hold the pipe for ever."""
_CHUNK = 65536


class LinuxCommands:
    """Does not reach what a program moves into yet another session and abandons (a service it was meant to start)."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        limit: int = 65536,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,
    ) -> CommandResult:
        command = tuple(argv)
        if not command or not os.path.isabs(command[0]):
            raise StepRefused(
                f"not a command: {list(command)!r}", remedy="begin it with the absolute path of the program"
            )
        if any("\0" in word for word in command):
            raise StepRefused(f"not a command: {list(command)!r} has a zero byte in it")
        started = time.monotonic()
        run = _Run(command, limit, dict(_ENVIRONMENT if env is None else env), input)
        ended = False
        try:
            async with asyncio.timeout(timeout):
                # Not `await run.ended`: our cancellation would cancel that future, and its end would never be seen.
                await asyncio.wait([run.ended])
                ended = True
                await asyncio.wait([run.drained], timeout=_LINGER)
        except TimeoutError:
            pass
        finally:
            try:
                if not ended:
                    await run.end_tree()
            finally:
                run.close()
        output, truncated = run.output()
        return CommandResult(
            command, run.process.returncode if ended else None, output, truncated, time.monotonic() - started
        )


class _Run:
    """A started program. It is not collected before ``close``, so its number stays its own until then."""

    def __init__(self, argv: tuple[str, ...], limit: int, env: dict[str, str], text: bytes | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=env,
            bufsize=0,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.drained: asyncio.Future[None] = self._loop.create_future()
        self._readers = {self.process.stdout.fileno(): bytearray(), self.process.stderr.fileno(): bytearray()}
        self._open = set(self._readers)
        self._dropped = False
        try:
            self._pidfd = os.pidfd_open(self.process.pid)
        except OSError:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()
            raise
        self._loop.add_reader(self._pidfd, self._on_end)
        for fd in self._readers:
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._on_output, fd)
        if self.process.stdin is not None:
            os.set_blocking(self.process.stdin.fileno(), False)
            self._input = memoryview(text or b"")
            self._loop.add_writer(self.process.stdin.fileno(), self._on_room)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if not self.ended.done():
            self.ended.set_result(None)

    def _on_output(self, fd: int) -> None:
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._loop.remove_reader(fd)
            self._open.discard(fd)
            if not self._open and not self.drained.done():
                self.drained.set_result(None)
            return
        kept = self._readers[fd]
        room = self._limit - len(kept)
        # What is over the limit is still read, or the program would wait for ever for somebody to take it.
        self._dropped = self._dropped or len(chunk) > room
        kept += chunk[: max(0, room)]

    def _on_room(self) -> None:
        assert self.process.stdin is not None
        try:
            self._input = self._input[os.write(self.process.stdin.fileno(), self._input[:_CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:
            self._input = memoryview(b"")  # It does not want to read any more, which is its right.
        if not self._input:
            self._close_input()

    def _close_input(self) -> None:
        if self.process.stdin is not None and not self.process.stdin.closed:
            self._loop.remove_writer(self.process.stdin.fileno())
            self.process.stdin.close()

    async def end_tree(self) -> None:
        try:
            self._signal(signal.SIGTERM)
            await asyncio.wait([self.ended], timeout=_GRACE)
        finally:
            # The program itself may be gone and its children deaf to SIGTERM; also when we are cancelled once more.
            self._signal(signal.SIGKILL)
        # One that hangs in the kernel, waiting for a dead disk, dies when the disk says so: nobody waits for that here.
        await asyncio.wait([self.ended], timeout=_GRACE)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass
        for pid in _session(self.process.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def close(self) -> None:
        assert self.process.stdout is not None and self.process.stderr is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        for fd in self._open:
            self._loop.remove_reader(fd)
        self._dropped = self._dropped or bool(self._open)
        self._close_input()
        self.process.stdout.close()
        self.process.stderr.close()
        # Collects it. Should it not be dead yet, subprocess does so when the next program is started.
        self.process.poll()

    def output(self) -> tuple[str, bool]:
        whole = b"".join(self._readers.values())
        return whole[: self._limit].decode(errors="replace"), self._dropped or len(whole) > self._limit


def _session(leader: int) -> list[int]:
    """The live processes of one session, whatever groups they formed in it (an interactive shell forms many)."""
    members = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields and fields[0] != b"Z" and int(fields[3]) == leader:
                members.append(int(name))
    return members
