"""Measures the endpoint as its users meet it: what it costs, how it bears a crowd, and that healing goes on beneath it.

    python -m benchmarks.face [--only memory,load,streams,scrape,page,fire] [--share 1.0]

The daemon is the real one at its defaults; clients and readers are processes of their own and show a key with a rate of
its own, so that what is measured is not the limit. Two times that are compared come from one daemon, in pairs and in
random order, because the machine is never equally quiet twice. Exits with 1 when a number misses its goal.
"""

import argparse
import asyncio
import gc
import gzip
import http.client
import json
import math
import os
import random
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from benchmarks.ground import ROOT, Ground, Site, end_on_sigterm
from benchmarks.mttr import TRIES, Broken, hang, kill, percentile
from benchmarks.resources import Daemon
from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel.facts import (
    Answer,
    Condition,
    Finding,
    Incident,
    IncidentState,
    Move,
    Observation,
    Outcome,
    Plan,
    Result,
    Severity,
    Step,
    Verdict,
)
from x0tta6bl4.knowledge.sqlite import Config as KnowledgeConfig
from x0tta6bl4.knowledge.sqlite import SqliteKnowledge, migrations

MIB = 1 << 20
PATIENCE = 30.0
SETTLED = 4.0
"""Seconds from a heal until its proof is over and told."""
KEY_RATE = 1_000_000
"""Requests a minute of the key that the clients show."""

Found = dict[str, float]
Say = Callable[[str], None]

GOALS: Mapping[str, float] = {
    "memory: the endpoint, MiB": 15.0,
    "memory: the endpoint after 1,000 requests, MiB": 15.0,
    "memory: the endpoint with 100 readers, MiB": 15.0,
    "memory: all of the daemon, MiB": 64.0,
    "load: p95 of /health, ms": 10.0,
    "load: p95 of /api/v1/incidents, ms": 10.0,
    "load: errors": 0.0,
    "load: heals lost": 0.0,
    "streams: time to heal a kill, times": 1.10,
    "streams: time to heal a hang, times": 1.10,
    "streams: readers that missed something": 0.0,
    "scrape: p95, ms": 5.0,
    "scrape: series that a scrape changes": 0.0,
    "page: all that the first paint needs, kB": 150.0,
    "fire: heals lost": 0.0,
    "fire: answers that nobody foresaw": 0.0,
}


# -- the ground --------------------------------------------------------------------------------------------------------


class Past(SystemClock):
    """Stands where the story is that is being written."""

    at = 0.0

    def wall(self) -> float:
        return self.at


def fill(state_dir: Path, count: int) -> list[str]:
    """Healed incidents of the last month, each with all that the journal keeps about one; their ids, oldest first."""

    async def filled() -> list[str]:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = await SqliteDatabase.open(state_dir / "knowledge.db", migrations())
        try:
            clock = Past()
            knowledge = SqliteKnowledge("outside", KnowledgeConfig(), database, clock)
            epoch, ids = await knowledge.boot(), []
            first, apart = time.time() - 30 * 86400.0, 29 * 86400.0 / count
            for at in range(0, count, 250):  # written together, as a loop with much to do writes them
                numbers = range(at, min(at + 250, count))
                ids += await asyncio.gather(*(_story(knowledge, clock, n, first + n * apart, epoch) for n in numbers))
            return ids
        finally:
            await database.close()

    return asyncio.run(filled())


async def _story(knowledge: SqliteKnowledge, clock: Past, number: int, at: float, epoch: int) -> str:
    """As a daemon has told it that found a service dead, restarted it, and saw it answer."""
    id, subject, fault = f"inc-{number:018x}", f"service{number % 40}", ("dead", "hung", "gray")[number % 3]
    pid, took = 4000 + number, 0.2 + number % 17 / 10
    signs = (Condition("process_up", ">=", 1.0), Condition("work_up", ">=", 1.0))
    summary = f"{subject} is {fault}: no process: pid {pid} was killed by SIGKILL"
    seen = f"process_up is 0: no process: pid {pid} was killed by SIGKILL (seen by {subject}.process)"
    incident = Incident(
        id,
        subject,
        fault,
        IncidentState.CLOSED,
        tuple(Severity)[number % len(Severity)],
        summary,
        opened_at=at,
        onset_at=at,
        updated_at=at + took + 3,
        closed_at=at + took + 3,
        ended="healed",
        because=(seen,),
        healthy_when=signs,
        data={},
        place={},
    )
    told = {"incident": {"id": id, "fault": fault, "summary": summary}, "subject": {"name": subject, "kind": "process"}}
    detail = f"{subject} did not run, started pid {pid + 1} in 0.05 s; proved by process_up >= 1, work_up >= 1 for 3 s"
    moves = (
        Move(id, 1, at, "$start", told, states=("treat.next",), effects=("wants choose treat.next.1",)),
        Move(id, 2, at, "done.act.treat.next", {"rung": "restart"}, "treat.next.1", states=("restart",)),
        Move(id, 3, at + took + 3, "done.act.restart", {"detail": detail}, "restart.2", states=("healed",)),
    )
    await knowledge.save_incident(incident, moves)
    because = Observation(
        f"{subject}.process", subject, "process_up", 0.0, detail=f"no process: pid {pid} was killed by SIGKILL"
    )
    finding = Finding("liveness", subject, fault, summary, because=(because,), healthy_when=signs)
    await knowledge.add_finding(id, finding, at + 0.1)
    step = Step(f"plan-{number}.1", "process.restart", subject, {"grace": "1s"}, incident=id, epoch=epoch)
    plan = Plan(f"plan-{number}", id, subject, fault, "service-down", "restart", (step,), (summary, seen), "auto")
    verdict = Verdict("guard", Answer.ALLOW, f"{subject} is in mode auto")
    await knowledge.record_decision(plan, step, verdict, at + 0.15)
    clock.at = at + 0.15  # read before the first wait
    await knowledge.record_intent(step, plan, epoch)
    outcome = Outcome(step.id, Result.VERIFIED, detail, at + 0.16, at + took + 3, at + took, (seen,), "started\n")
    await knowledge.record_outcome(step.id, outcome)
    return id


class Storied(Ground):
    """A ground whose daemon has much to remember."""

    def __init__(self, *sites: Site, stories: int) -> None:
        super().__init__(*sites)
        self.told = fill(self.state_dir, stories)


def sites(faults: int) -> list[Site]:
    """As many as it takes, for a victim is broken so often only."""
    return [Site(f"victim-{number}") for number in range(math.ceil(faults / TRIES))]


def key_for(folder: Path, scope: str = "read") -> str:
    """Made as an operator makes one."""
    words = ["--output", "json", "--config", str(folder / "daemon.yaml"), "keys", "create", "crowd", "--scope", scope]
    made = subprocess.check_output([sys.executable, "-m", "x0tta6bl4", *words, "--per-minute", str(KEY_RATE)], cwd=ROOT)
    key: str = json.loads(made)["key"]
    return key


def cpu(pid: int) -> float:
    """Seconds so far, of all threads, as the scheduler counts them."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total


def resident(pid: int) -> float:
    """MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) / 1024


class Patient:
    """Breaks one victim after the other, each as often as its daemon lets it be healed without asking."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.taken: list[float] = []
        self.lost = 0
        self._next = 0
        self._names = list(ground.sites)

    def fault(self, broken: Broken) -> float:
        name = self._names[self._next % len(self._names)]
        self._next += 1
        try:
            took = broken(self.ground, name)
        except (TimeoutError, OSError):
            self.lost += 1
            return math.inf
        self.taken.append(took)
        return took


# -- clients, in processes of their own --------------------------------------------------------------------------------


class Crowd:
    """So many clients that keep their connections; each asks its questions in turn, every ``pace`` seconds.

    With ``pace`` 0 each asks again at once. A question that had to wait for the answer before it counts from when it
    was due: a slow server must not be asked less often and look the better for it.
    """

    def __init__(self, port: int, questions: Sequence[bytes], clients: int, seconds: float, pace: float) -> None:
        self.port, self.questions, self.pace = port, questions, pace
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time() + 0.5
        self.until = self.began + seconds
        self.took: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.clients = [_Client(self, number, clients) for number in range(clients)]

    async def run(self) -> Mapping[str, Any]:
        await asyncio.gather(*(client.connect() for client in self.clients))
        await asyncio.sleep(self.until - self.loop.time())
        for client in self.clients:
            client.leave()
        return {"took": [round(seconds, 6) for seconds in self.took], "statuses": self.statuses}


class _Client(asyncio.Protocol):
    def __init__(self, crowd: Crowd, number: int, clients: int) -> None:
        self.crowd = crowd
        self.source = f"127.0.1.{number % 250 + 1}"
        self.due = crowd.began + crowd.pace * number / clients
        self.asked = number
        self.transport: asyncio.Transport | None = None
        self.since: float | None = None
        """When what it waits for was due; None: nothing."""
        self.buffer = bytearray()
        self.is_last = False
        """The server said with its answer that it closes the connection."""
        self.missing = -1
        """Bytes to come of the answer; negative: its head is not there yet."""

    async def connect(self) -> None:
        loop = self.crowd.loop
        try:
            await loop.create_connection(lambda: self, "127.0.0.1", self.crowd.port, local_addr=(self.source, 0))
        except OSError as error:
            self.crowd.statuses[f"no connection: {error.strerror or error}"] += 1
            await asyncio.sleep(0.05)
            if loop.time() < self.crowd.until:
                await self.connect()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "what TCP has"
        self.transport = transport
        self.crowd.loop.call_at(self.due, self.ask)

    def ask(self) -> None:
        crowd, now = self.crowd, self.crowd.loop.time()
        if now >= crowd.until or self.transport is None or self.transport.is_closing():
            return
        if self.since is None:
            self.since = now
        self.due = max(self.due, self.since) + crowd.pace if crowd.pace else now
        self.transport.write(crowd.questions[self.asked % len(crowd.questions)])
        self.asked += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.missing < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.buffer[: end + 2]).lower()
            _, found, rest = head.partition(b"content-length:")
            self.missing = end + 4 + (int(rest.partition(b"\r")[0]) if found else 0)
            self.is_last = b"\r\nconnection: close\r" in head
        if len(self.buffer) < self.missing or self.since is None:
            return
        now = self.crowd.loop.time()
        self.crowd.statuses[self.buffer[9:12].decode("ascii")] += 1
        self.crowd.took.append(now - self.since)
        self.buffer.clear()
        self.missing, self.since = -1, None
        if self.is_last:
            return
        if self.due > now:
            self.crowd.loop.call_at(self.due, self.ask)
        else:
            self.since = self.due if self.crowd.pace else None
            self.crowd.loop.call_soon(self.ask)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.since is not None and self.crowd.loop.time() < self.crowd.until:
            self.crowd.statuses["cut off"] += 1
        self.buffer.clear()
        self.missing, self.since, self.is_last = -1, None, False
        if self.crowd.loop.time() < self.crowd.until:
            self.due = self.crowd.loop.time() + self.crowd.pace
            self.again = self.crowd.loop.create_task(self.connect())

    def leave(self) -> None:
        if self.transport is not None:
            self.transport.abort()


def readers(port: int, key: str, count: int) -> None:
    """Reads the stream with so many connections; told by lines what to do. Nothing is parsed while it is read."""
    places = selectors.DefaultSelector()
    places.register(sys.stdin, selectors.EVENT_READ)
    heard: dict[socket.socket, bytearray] = {}
    cut_off = 0
    question = f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\n\r\n".encode()

    def opened() -> Mapping[str, Any]:
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            one.sendall(question)
            head = one.recv(65536)
            assert head.startswith(b"HTTP/1.1 200 "), head
            one.setblocking(False)
            places.register(one, selectors.EVENT_READ)
            heard[one] = bytearray()
        return {"readers": len(heard)}

    def told() -> Mapping[str, Any]:
        lists = Counter(tuple(re.findall(rb"^id: (ev\S+)$", bytes(words), re.MULTILINE)) for words in heard.values())
        kinds = Counter(re.findall(rb"^event: x0tta6bl4\.(\S+)$", b"".join(heard.values()), re.MULTILINE))
        most = max(lists, key=lambda ids: (len(ids), lists[ids]))
        disturbed = kinds[b"gap"] + kinds[b"dropped"]
        return {
            "events": len(most),
            "missed": count - lists[most] + cut_off + disturbed,
            "kinds": {kind.decode(): number for kind, number in kinds.items()},
            "bytes": sum(map(len, heard.values())),
        }

    while True:
        for place, _ in places.select():
            one = place.fileobj
            if not isinstance(one, socket.socket):
                match sys.stdin.readline().strip():
                    case "open":
                        answer = opened()
                    case "mark":
                        for words in heard.values():
                            words.clear()
                        answer = {}
                    case "tell":
                        answer = told()
                    case "close":
                        for reader in heard:
                            with suppress(KeyError):
                                places.unregister(reader)
                            reader.close()
                        heard.clear()
                        cut_off, answer = 0, {}
                    case _:
                        return
                print(json.dumps(answer), flush=True)
            elif one in heard:  # those that were closed just now are still in the list
                piece = one.recv(65536)
                heard[one] += piece
                if not piece:
                    places.unregister(one)
                    cut_off += 1


def _process(what: str, *given: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.face", "--as", json.dumps([what, *given])],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class Readers:
    """The readers' process, as whoever starts it has it."""

    def __init__(self, port: int, key: str, count: int) -> None:
        self._process = _process("readers", port, key, count)

    def __enter__(self) -> "Readers":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, word: str) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def question(port: int, path: str, key: str = "", method: str = "GET", more: str = "", body: bytes = b"") -> bytes:
    shown = f"X-API-Key: {key}\r\n" if key else ""
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{shown}{more}{length}\r\n".encode() + body


def crowded(
    port: int,
    questions: Sequence[bytes],
    clients: int,
    seconds: float,
    pace: float,
    processes: int = 2,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[list[float], Counter[str]]:
    """What the clients met, while ``meanwhile`` is called again and again."""
    words = [text.decode("latin-1") for text in questions]
    running = [_process("crowd", port, words, clients // processes, seconds, pace) for _ in range(processes)]
    try:
        while any(process.poll() is None and not _has_ended(process) for process in running):
            meanwhile()
        told = [json.loads(process.communicate(timeout=PATIENCE)[0]) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    statuses: Counter[str] = Counter()
    for one in told:
        statuses.update(one["statuses"])
    return [seconds for one in told for seconds in one["took"]], statuses


def _has_ended(process: "subprocess.Popen[str]") -> bool:
    """Whether its answer has begun to come, which it does at its end only."""
    with selectors.DefaultSelector() as place:
        assert process.stdout is not None
        place.register(process.stdout, selectors.EVENT_READ)
        return bool(place.select(0))


def shares(took: Sequence[float]) -> str:
    ms = [percentile(list(took), share) * 1e3 for share in (0.5, 0.95, 0.99)]
    return f"p50 {ms[0]:.2f} ms, p95 {ms[1]:.2f} ms, p99 {ms[2]:.2f} ms"


def counted(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{number} × {status}" for status, number in sorted(statuses.items()))


# -- what is measured --------------------------------------------------------------------------------------------------


class Configured(Daemon):
    """With other settings of the endpoint, and stories in its store."""

    def __init__(self, targets: int, status: Mapping[str, Any], stories: int, prelude: Sequence[str] = ()) -> None:
        super().__init__(targets, prelude)
        path = self.folder / "daemon.yaml"
        config = yaml.safe_load(path.read_text())
        config["status"] |= status
        path.write_text(yaml.safe_dump(config))
        self.told = fill(self.folder / "state", stories)


def memory(share: float, say: Say) -> Found:
    """Two fresh daemons at a time, one with the endpoint and one without, so that both meet the same machine."""
    kinds = ("after 20 s", "after 1,000 requests", "with 100 readers")
    more: dict[str, list[float]] = {kind: [] for kind in kinds}
    all_of_it: dict[str, list[float]] = {kind: [] for kind in ("without", *kinds)}
    for _ in range(max(1, round(5 * share))):
        with Configured(10, {"enabled": False}, 200) as off, Configured(10, {}, 200) as on:
            off.start()
            on.start()
            time.sleep(20.0)
            without, seen = resident(off.pid), {"after 20 s": resident(on.pid)}
            key = key_for(on.folder)
            with ExitStack() as left:
                connection = http.client.HTTPConnection("127.0.0.1", on.status_port, timeout=PATIENCE)
                left.callback(connection.close)
                paths = all_pages(connection, key, on.told[-1])
                for number in range(1000):
                    ask(connection, paths[number % len(paths)], key)
                seen["after 1,000 requests"] = resident(on.pid)
                crowd = left.enter_context(Readers(on.status_port, key, 100))
                crowd.ask("open")
                time.sleep(2.0)
                seen["with 100 readers"] = resident(on.pid)
            without_now = resident(off.pid)
        all_of_it["without"].append(without)
        for kind, mib in seen.items():
            more[kind].append(mib - (without if kind == "after 20 s" else without_now))
            all_of_it[kind].append(mib)
    medians = {kind: statistics.median(found) for kind, found in more.items()}
    say(
        f"memory with 10 targets, {len(all_of_it['without'])} pairs of fresh daemons (medians): "
        + ", ".join(f"{kind} {statistics.median(found):.1f} MiB" for kind, found in all_of_it.items())
    )
    for kind, mib in medians.items():
        say(
            f"    the endpoint {kind}: {mib:.1f} MiB more than without"
            f" (from {min(more[kind]):.1f} to {max(more[kind]):.1f})"
        )
    return {
        "memory: the endpoint, MiB": medians["after 20 s"],
        "memory: the endpoint after 1,000 requests, MiB": medians["after 1,000 requests"],
        "memory: the endpoint with 100 readers, MiB": medians["with 100 readers"],
        "memory: all of the daemon, MiB": statistics.median(all_of_it["after 20 s"]),
    }


def ask(connection: http.client.HTTPConnection, path: str, key: str, **headers: str) -> tuple[bytes, Mapping[str, str]]:
    shown = {"X-API-Key": key} if key else {}
    connection.request("GET", path, headers={"Accept-Encoding": "gzip", **shown, **headers})
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise SystemExit(f"{path}: {response.status} {body[:300]!r}")
    return body, {name.lower(): value for name, value in response.getheaders()}


def all_pages(connection: http.client.HTTPConnection, key: str, incident: str) -> list[str]:
    """Every path that can be read, by the endpoint's own description, and the files of its page."""
    told = json.loads(ask(connection, "/openapi.json", key)[0])
    found = ["/openapi.json"]
    for path, methods in told["paths"].items():
        answers = methods.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
        if "get" in methods and "101" not in methods["get"]["responses"] and "text/event-stream" not in answers:
            filled = path.replace("/incidents/{id}", f"/incidents/{incident}").replace("{target}", incident)
            if "{" not in filled:
                found.append(filled)
    found += first_paint(connection, key)
    with_answers = []
    for path in dict.fromkeys(found):
        connection.request("GET", path, headers={"X-API-Key": key})
        response = connection.getresponse()
        response.read()
        if response.status == 200:  # what a reader's key cannot ask for is another one's page
            with_answers.append(path)
    return with_answers


def load(share: float, say: Say) -> Found:
    """The list changes all the while, because the daemon heals."""
    found: Found = {"load: errors": 0.0}
    clients, pace, seconds, every = 200, 0.4, max(4.0, 15.0 * share), 3.0
    kills = math.ceil((2 * seconds + 4) / every) + 4
    with Storied(*sites(kills), stories=10_000) as ground:
        port, key, patient = ground.status_port, key_for(ground.folder), Patient(ground)
        say(f"load: {len(ground.told)} incidents stored; a service is killed every {every:g} s all the while")
        latest = [0.0]

        def heal() -> None:
            if time.monotonic() - latest[0] >= every:
                latest[0] = time.monotonic()
                patient.fault(kill)
            ground.sleep(0.05)

        for path, words in (
            ("/health", question(port, "/health")),
            ("/api/v1/incidents", question(port, "/api/v1/incidents", key)),
        ):
            before, began = cpu(_pid(ground)), time.monotonic()
            took, statuses = crowded(port, [words], clients, seconds, pace, meanwhile=heal)
            used = (cpu(_pid(ground)) - before) / (time.monotonic() - began)
            say(
                f"    {path}: {clients} clients, {1 / pace:g} requests a second each ({len(took) / seconds:.0f}/s in"
                f" all): {shares(took)}, longest {max(took) * 1e3:.1f} ms, {counted(statuses)};"
                f" the daemon used {used * 100:.0f} % of a core"
            )
            found[f"load: p95 of {path}, ms"] = percentile(took, 0.95) * 1e3
            found["load: errors"] += sum(number for status, number in statuses.items() if status != "200")
        say(f"    {len(patient.taken)} heals meanwhile, median {statistics.median(patient.taken):.3f} s")
        found["load: heals lost"] = float(patient.lost)
        for path, words in (
            ("/health", question(port, "/health")),
            ("/api/v1/incidents", question(port, "/api/v1/incidents", key)),
        ):
            took, statuses = crowded(port, [words], clients, max(2.0, 4.0 * share), 0.0)
            rate = len(took) / max(2.0, 4.0 * share)
            say(f"    {path} as fast as they can: {rate:.0f}/s, {shares(took)}, {counted(statuses)} (no goal)")
    return found


def _pid(ground: Ground) -> int:
    assert ground.daemon is not None
    return ground.daemon.pid


def streams(share: float, say: Say) -> Found:
    found: Found = {"streams: readers that missed something": 0.0}
    count = 500
    for kind, broken, usual in (("kill", kill, 16), ("hang", hang, 10)):
        pairs = max(2, round(usual * share))
        without: list[float] = []
        with_them: list[float] = []
        spent: dict[bool, list[float]] = {False: [], True: []}
        events: list[int] = []
        with Ground(*sites(2 * pairs)) as ground:
            patient = Patient(ground)
            with Readers(ground.status_port, key_for(ground.folder), count) as crowd:
                for _ in range(pairs):
                    # What looks at a victim does so on a grid of the clock: both faults come at the same place of it.
                    place = random.random()
                    for has_readers in random.sample((False, True), 2):
                        if has_readers:
                            crowd.ask("open")
                        ground.sleep(random.uniform(1.0, 2.0))
                        if has_readers:
                            crowd.ask("mark")
                        ground.sleep((place - time.monotonic()) % 1.0)
                        before = cpu(_pid(ground))
                        took = patient.fault(broken)
                        ground.sleep(SETTLED)
                        spent[has_readers].append(cpu(_pid(ground)) - before)
                        (with_them if has_readers else without).append(took)
                        if has_readers:
                            told = crowd.ask("tell")
                            events.append(told["events"])
                            missed = told["missed"] if told["events"] else count
                            found["streams: readers that missed something"] += missed
                            crowd.ask("close")
        ratios = [loud / quiet for quiet, loud in zip(without, with_them, strict=True)]
        say(
            f"streams: time to heal a {kind}, {pairs} pairs: median {statistics.median(without):.3f} s without readers,"
            f" {statistics.median(with_them):.3f} s with {count}; median of the ratios {statistics.median(ratios):.3f}"
            f" (half of them {_quarter(ratios, 1):.2f} to {_quarter(ratios, 3):.2f}); {patient.lost} lost"
        )
        say(
            f"    each reader got {statistics.median(events):.0f} events a heal; the daemon used"
            f" {statistics.median(spent[False]) * 1e3:.0f} ms of CPU a heal without them,"
            f" {statistics.median(spent[True]) * 1e3:.0f} ms with them"
        )
        found[f"streams: time to heal a {kind}, times"] = statistics.median(ratios)
    return found


def _quarter(values: Sequence[float], number: int) -> float:
    return percentile(list(values), number / 4)


SCRAPE_HOOK = """
import atexit, json, os, sys, time
from x0tta6bl4.observability import metrics
from x0tta6bl4.status import probes
took = {"written": [], "packed": []}
def timed(name, real):
    def call(*given):
        began, own = time.perf_counter(), time.thread_time()
        try:
            return real(*given)
        finally:
            took[name].append([time.perf_counter() - began, time.thread_time() - own])
    return call
begin = metrics.Metrics.__init__
def with_more(self, *given, **named):
    begin(self, *given, **named)
    for number in range(600):
        self.set("x0tta6bl4_subject_up", 1.0, subject=f"another-service-{number:04d}")
    for number in range(300):
        self.count("x0tta6bl4_steps_total", action=f"executor{number // 10}.verb{number % 10}", result="verified")
    for number in range(6):
        for at in range(20):
            self.observe("x0tta6bl4_self_healing_mttr_seconds", 0.1 * at, fault=f"fault{number}")
metrics.Metrics.__init__ = with_more
metrics.Metrics.exposition = timed("written", metrics.Metrics.exposition)
probes._packed = timed("packed", probes._packed)
atexit.register(lambda: open(os.environ["X0T_SCRAPES"], "w").write(json.dumps(took)))
sys.argv = ["x0tta6bl4", *sys.argv[1:]]
from x0tta6bl4.cli import main
raise SystemExit(main())
"""
PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
OF_THE_MOMENT = ("process_", "python_gc_")
"""What the operating system and the interpreter say about themselves differs whether anybody looks or not."""


def scrape(share: float, say: Say) -> Found:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        os.environ["X0T_SCRAPES"] = file.name
        with Configured(10, {}, 200, prelude=(sys.executable, "-c", SCRAPE_HOOK)) as daemon:
            daemon.start()
            time.sleep(3.0)
            connection = http.client.HTTPConnection("127.0.0.1", daemon.status_port, timeout=PATIENCE)
            took: list[float] = []
            pages: list[dict[bytes, bytes]] = []
            size = packed = 0
            for number in range(max(20, round(300 * share))):
                began = time.perf_counter()
                body, _ = ask(connection, "/metrics", "", Accept=PROMETHEUS)
                took.append(time.perf_counter() - began)
                if number < 20:  # right after one another
                    packed, body = len(body), gzip.decompress(body)
                    size = len(body)
                    pages.append(dict(line.rsplit(b" ", 1) for line in _numbers(body)))
                else:
                    time.sleep(random.uniform(0.0, 0.02))
            connection.close()
        told = json.loads(Path(file.name).read_text())
    changed = [{name for name in {*one, *two} if one.get(name) != two.get(name)} for one, two in pairwise(pages)]
    # The daemon goes on with its work; what it is not, but the scrape, changes each time.
    always = set.intersection(*changed)
    say(
        f"scrape: {len(pages[0])} series, {size / 1000:.0f} kB, {packed / 1000:.1f} kB packed: {shares(took)};"
        f" {sum(not names for names in changed)} of {len(changed)} pairs are equal to the last digit"
    )
    for name, words in (("written", "writing the page"), ("packed", "packing it")):
        wall, own = zip(*told[name], strict=True)
        say(
            f"    {words}: median {statistics.median(wall) * 1e3:.2f} ms,"
            f" {statistics.median(own) * 1e3:.2f} ms of CPU (p95 {percentile(list(own), 0.95) * 1e3:.2f} ms)"
        )
    for gone in sorted(always):
        say(f"    changed by each scrape: {gone.decode()}")
    return {"scrape: p95, ms": percentile(took, 0.95) * 1e3, "scrape: series that a scrape changes": float(len(always))}


def _numbers(page: bytes) -> list[bytes]:
    names = tuple(name.encode() for name in OF_THE_MOMENT)
    return [line for line in page.splitlines() if not line.startswith((b"#", *names)) and b" # " not in line]


def first_paint(connection: http.client.HTTPConnection, key: str) -> list[str]:
    """The page and all that it names, and what that names."""
    found, waiting = [], ["/"]
    while waiting:
        path = waiting.pop(0)
        if path in found:
            continue
        found.append(path)
        body, headers = ask(connection, path, key)
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        words = body.decode()
        if path == "/":
            names = re.findall(r'<(?:link|script|img)\b[^>]*?\b(?:href|src)="([^"]+)"', words)
        elif path.endswith(".js"):
            names = re.findall(r'^\s*(?:import|export)\b[^;]*?"\./([^"]+)"', words, re.MULTILINE)
        else:
            names = re.findall(r'url\("?([^")]+)"?\)', words)
        waiting += ["/" + name.lstrip("./") for name in names if not name.startswith("data:")]
    return found


def page(share: float, say: Say) -> Found:
    with Configured(1, {}, 1) as daemon:
        daemon.start()
        connection = http.client.HTTPConnection("127.0.0.1", daemon.status_port, timeout=PATIENCE)
        total = moved = 0
        parts = []
        for path in first_paint(connection, ""):
            body, headers = ask(connection, path, "")
            head = sum(len(name) + len(value) + 4 for name, value in headers.items())
            unpacked = len(gzip.decompress(body)) if headers.get("content-encoding") == "gzip" else len(body)
            total += unpacked
            moved += len(body) + head
            parts.append(f"{path} {unpacked / 1000:.1f} ({len(body) / 1000:.1f} packed)")
        connection.close()
    say(f"page, kB: {', '.join(parts)}")
    say(f"    in all {total / 1000:.1f} kB unpacked, {moved / 1000:.1f} kB transferred with heads")
    return {"page: all that the first paint needs, kB": total / 1000}


def fire(share: float, say: Say) -> Found:
    """More than it can answer, most of it nonsense, while a service is killed every two seconds."""
    seconds, every = max(6.0, 20.0 * share), 2.0
    count = round(seconds / every)
    with Storied(*sites(2 * count + 2), stories=1000) as ground:
        port, key = ground.status_port, key_for(ground.folder, "operate")
        quiet, loud = Patient(ground), Patient(ground)
        loud._next = len(ground.sites) // 2
        for _ in range(count):
            quiet.fault(kill)
            ground.sleep(random.uniform(0.75, 1.25) * every)
        small, large = [f"/api/v1/incidents/{ground.told[-1]}", "/api/v1/incidents?limit=10"], b'"' + b"x" * 80_000
        questions = [
            *(question(port, path, key) for path in ("/health", "/livez", "/status", "/api/v1/summary", *small)),
            *(question(port, path, key) for path in ("/nothing", "/api/v1/incidents/nothing", "/" + "a" * 3000)),
            question(port, "/api/v1/incidents", "x0k_000000000000_" + "a" * 43),
            question(port, "/api/v1/incidents", more="Authorization: Bearer e30.e30.e30\r\n"),
            question(port, "/api/v1/pauses", key, "POST", body=b'{"target": 1}'),
            question(port, "/api/v1/commands", key, "POST", body=large),
            question(port, "/health", more=f"X-Long: {'x' * 20_000}\r\n"),
        ]
        latest = [time.monotonic()]

        def heal() -> None:
            if time.monotonic() - latest[0] >= every and len(loud.taken) + loud.lost < count:
                latest[0] = time.monotonic()
                loud.fault(kill)
            ground.sleep(0.05)

        # Beside all of them somebody who only wants to know whether the daemon lives.
        probe = _process("crowd", port, [question(port, "/livez").decode("latin-1")], 5, seconds, 0.2)
        try:
            took, statuses = crowded(port, questions, 200, seconds, 0.0, meanwhile=heal)
            probed = json.loads(probe.communicate(timeout=PATIENCE)[0])
        finally:
            probe.kill()
            probe.wait()
        ground.sleep(SETTLED)
        acts = [act for act in ground.acts() if act.at >= ground.began and act.disruptive]
        unproved = sum(act.result != "verified" for act in acts)
        complaints = ground.complaints()
    say(f"fire: {len(took) / seconds:.0f} requests a second for {seconds:.0f} s, {shares(took)}: {counted(statuses)}")
    say(f"    /livez asked 25 times a second meanwhile: {shares(probed['took'])}, {counted(probed['statuses'])}")
    say(
        f"    a killed service answers again: median {statistics.median(quiet.taken):.3f} s quiet,"
        f" {statistics.median(loud.taken):.3f} s under fire (worst {max(loud.taken):.3f} s, {len(loud.taken)} kills);"
        f" {unproved} of {len(acts)} actions not proved"
    )
    for line in complaints[:5]:
        say(f"    the daemon's log: {line[:300]}")
    nobody = sum(number for status, number in statuses.items() if status.startswith("5") and status != "503")
    return {
        "fire: heals lost": float(quiet.lost + loud.lost + unproved),
        "fire: answers that nobody foresaw": float(nobody + len(complaints)),
    }


# -- all of it ---------------------------------------------------------------------------------------------------------

PARTS: Mapping[str, Callable[[float, Say], Found]] = {
    "memory": memory,
    "page": page,
    "scrape": scrape,
    "load": load,
    "streams": streams,
    "fire": fire,
}


def _as(what: str, given: Sequence[Any]) -> None:
    gc.disable()  # a pause of the client is none of the server's
    if what == "readers":
        readers(*given)
        return

    async def run() -> Mapping[str, Any]:
        port, words, clients, seconds, pace = given
        return await Crowd(port, [text.encode("latin-1") for text in words], clients, seconds, pace).run()

    print(json.dumps(asyncio.run(run())))


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="what to measure")
    parser.add_argument("--share", type=float, default=1.0, help="part of the usual length, such as 0.2")
    parser.add_argument("--as", dest="part_of", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.part_of:
        what, *more = json.loads(given.part_of)
        _as(what, more)
        return 0
    wanted = given.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    end_on_sigterm()
    found: Found = {}
    for name, measure in PARTS.items():
        if name in wanted:
            found |= measure(given.share, print)
            sys.stdout.flush()
    print()
    for name, value in found.items():
        print(f"{'met   ' if value <= GOALS[name] else 'MISSED'}  {name}: {value:.2f} (goal {GOALS[name]:g})")
    return 1 if any(value > GOALS[name] for name, value in found.items()) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
