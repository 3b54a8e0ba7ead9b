"""Breaks real victims in every way there is and says of each whether the daemon did what it must, and nothing else.

    python -m benchmarks.campaign [--kinds a,b] [--quick] [--beside N]

Each kind has a fresh daemon at its defaults, with fresh victims. What was done is read from the daemon's journal, how
the victims fared is seen from outside. An action is needless when its target had no fault at that moment. Exits with 1
when an expectation is not met.
"""

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.ground import Act, Ground, GroundFailed, Ports, Site, Story, end_on_sigterm, longest_row
from x0tta6bl4.demo.breaker import ask, break_, mend, wait_until_answers

QUIET = 6.0
"""Seconds for which nothing more may be done once all is well; proof (3 s) and settling (3 s) are over within them."""
CLOSED_WITHIN = 20.0
LATE = 10.0
"""Seconds beyond its bound for which a heal is waited for, to tell a late one from none."""
EQUAL_TRIES = 3
BLURRED = 0.05
"""Seconds by which our clock readings and the journal's may miss each other."""


class Missed(Exception):
    """An expectation that was not met, in a sentence."""


@dataclass
class Trial:
    """One kind under way: its ground, which victim is ill at which time, and what comes out of it."""

    ports: Ports
    stack: ExitStack
    laid: Callable[[Ground], None]
    """Is told of each ground, so that it can be cleared away when everything is stopped."""
    grounds: list[Ground] = field(default_factory=list)
    ill: dict[str, list[list[float]]] = field(default_factory=dict)
    """Victim -> spells of [begin, end] in wall-clock seconds; an open one ends at infinity."""
    recovered: float | None = None
    """Seconds from the fault (or from the end of its cause) to good answers of all concerned."""
    notes: list[str] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    stories: list[Story] = field(default_factory=list)
    needless: list[Act] = field(default_factory=list)
    row: int = 0

    def ground(self, *sites: Site, allow: Iterable[str] = ("process.*", "cleanup.*")) -> Ground:
        ground = Ground(*sites, ports=self.ports, allow=tuple(allow))
        self.grounds.append(ground)
        self.laid(ground)
        return self.stack.enter_context(ground)

    # -- who is ill when

    def begins(self, *names: str) -> float:
        now = time.time()
        for name in names:
            self.ill.setdefault(name, []).append([now, float("inf")])
        return time.monotonic()

    def ends(self, *names: str) -> None:
        for name in names:
            self.ill[name][-1][1] = time.time()

    def break_(self, ground: Ground, kind: str, _name: str = "victim", **params: float) -> tuple[float, int]:
        """Breaks it: when (monotonic) and which process."""
        began = self.begins(_name)
        return began, break_(ground.ports[_name], kind, **params)

    def heals(self, ground: Ground, began: float, pid: int | None, within: float, name: str = "victim") -> float:
        patience = max(0.1, began + within + LATE - time.monotonic())
        try:
            seconds = wait_until_answers(ground.ports[name], began, pid, patience)
        except TimeoutError as error:
            raise Missed(f"not healed: {error}") from error
        self.ends(name)
        self.recovered = max(self.recovered or 0.0, seconds)
        if seconds > within:
            raise Missed(f"healed after {seconds:.1f} s, later than {within:g} s")
        return seconds

    # -- what was done

    def read(self, ground: Ground) -> None:
        self.acts, self.stories = ground.acts(), ground.stories()
        self.row = longest_row(self.acts)
        self.needless = [
            act
            for act in self.acts
            if act.disruptive
            and not any(begin - BLURRED <= act.at <= end + BLURRED for begin, end in self.ill.get(act.target, ()))
        ]

    def settle(
        self,
        ground: Ground,
        faults: Iterable[str] = (),
        *,
        quiet: float = QUIET,
        told: bool | None = False,
        closed: bool = True,
        doing: int | None = None,
        complains: bool = False,
    ) -> None:
        """The end of every kind: nothing more is done, every incident closes, and all was called by its name.

        ``told``: whether a human had to be told; None: may be. ``doing``: how many disruptive steps there must be.
        """
        ground.sleep(quiet)
        give_up = time.monotonic() + CLOSED_WITHIN
        while closed and (still := [s for s in ground.stories() if s.closed_at is None]):
            if time.monotonic() > give_up:
                self.read(ground)
                raise Missed(
                    f"incident never closed: {still[0].subject} {still[0].fault} ({still[0].state}): {still[0].summary}"
                )
            ground.sleep(0.5)
        self.read(ground)
        if self.needless:
            act = self.needless[0]
            raise Missed(f"{len(self.needless)} needless: {act.action} on {act.target} (rung {act.rung}): {act.detail}")
        if self.row > EQUAL_TRIES:
            raise Missed(f"{self.row} equal tries in a row")
        named = {story.fault for story in self.stories if story.subject in ground.sites}
        if wrong := named - set(faults):
            summary = next(s.summary for s in self.stories if s.fault in wrong)
            right = " or ".join(faults) or "nothing at all"
            raise Missed(f"called {', '.join(sorted(wrong))} and not {right}: {summary}")
        others = {f"{s.subject} {s.fault}" for s in self.stories if s.subject not in ground.sites}
        self.notes += [f"also: {other}" for other in sorted(others)]
        done = [act for act in self.acts if act.disruptive]
        if doing is not None and len(done) != doing:
            raise Missed(
                f"{len(done)} steps where {doing} are enough: "
                + ", ".join(f"{a.action} on {a.target} ({a.result})" for a in done)
            )
        was_told = any(act.action == "notify.human" for act in self.acts)
        if told is not None and was_told != told:
            raise Missed("a human was told, and need not be" if was_told else "no human was told")
        if unended := [act for act in self.acts if act.result is None]:
            raise Missed(f"no outcome was written for {unended[0].action} on {unended[0].target}")
        complaints = ground.complaints()
        if complains != bool(complaints) or any("Traceback" in line for line in complaints):
            raise Missed(f"the daemon complains: {complaints[0][:300]}" if complaints else "it did not complain")
        for name in ground.sites:
            if ask(ground.ports[name], timeout=2.0).status != 200:
                raise Missed(f"{name} is not well in the end")
        if code := ground.stop_daemon():
            raise Missed(f"the daemon ended with {code}")


Run = Callable[[Trial], None]


@dataclass(frozen=True)
class Kind:
    name: str
    must: str
    run: Run
    quick: bool = False
    alone: bool = False
    """Whether nothing else may run beside it: it takes the machine's CPU, or measures it."""


# -- what the daemon must leave alone ----------------------------------------------------------------------------------


def leaves_alone(watched: float, kind: str, **params: float) -> Run:
    """A passing weakness that is no fault: no action, no incident, nobody woken."""

    def run(trial: Trial) -> None:
        ground = trial.ground()
        before = ground.pid("victim")
        break_(ground.ports["victim"], kind, **params)
        ground.sleep(watched)
        if kind in ("flap", "logflood", "zombies", "busy"):
            mend(ground.ports["victim"])
        trial.settle(ground, doing=0)
        if (after := ask(ground.ports["victim"]).pid) not in (before, None):
            raise Missed(f"it was restarted (pid {before} became {after})")

    return run


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Processes of somebody else that want all of the CPU."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def busy_neighbour(trial: Trial) -> None:
    ground = trial.ground()
    with busy_neighbours(2):
        ground.sleep(8.0)
    trial.settle(ground, doing=0)


def crowded(trial: Trial) -> None:
    """Far more work than cores: slowness that no restart could cure."""
    ground = trial.ground(*(Site(f"v{number}") for number in range(4)))
    with busy_neighbours(4 * (os.cpu_count() or 1)):
        ground.sleep(20.0)
    trial.settle(ground, ("overloaded",), doing=0, told=None)


def suggest(trial: Trial) -> None:
    ground = trial.ground(Site(subject={"mode": "suggest"}))
    trial.break_(ground, "kill")
    ground.sleep(6.0)
    trial.read(ground)
    if [act for act in trial.acts if act.disruptive]:
        raise Missed("it acted in mode suggest")
    would = [s for s in ground.said() if s.check == "mode" and s.answer == "deny"]
    if not any("would do process.restart" in s.sentence for s in would):
        raise Missed(f"what it would do was not recorded: {[(s.check, s.sentence) for s in ground.said()]}")
    if [s.fault for s in trial.stories] != ["dead"]:
        raise Missed(f"incidents: {[(s.fault, s.state) for s in trial.stories]}")
    if code := ground.stop_daemon():
        raise Missed(f"the daemon ended with {code}")


def not_allowed(trial: Trial) -> None:
    ground = trial.ground(allow=["systemd.*"])
    trial.break_(ground, "hang")
    ground.sleep(6.0)
    trial.read(ground)
    if [act for act in trial.acts if act.disruptive]:
        raise Missed("it did what guard.allow does not name")
    if not [s for s in ground.said() if s.check == "allowlist" and s.answer == "deny"]:
        raise Missed(f"why not was not recorded: {[(s.check, s.sentence) for s in ground.said()]}")


def operator_at_work(trial: Trial) -> None:
    """Pauses the target, stops it for a while, lets it go on, ends the pause: nobody asked the daemon to help."""
    ground = trial.ground()
    ground.tell(lambda store: store.add_pause("victim", time.time() + 3600, who="operator", reason="works on it"))
    ground.sleep(1.0)
    pid = ground.pid("victim")
    os.kill(pid, signal.SIGSTOP)
    ground.sleep(6.0)
    os.kill(pid, signal.SIGCONT)
    ground.sleep(2.0)
    ground.tell(lambda store: store.remove_pause("victim", "operator"))
    trial.settle(ground, ("hung",), doing=0)
    if ground.sites and ask(ground.ports["victim"]).pid not in (pid, None):
        raise Missed("it was restarted")


# -- what the daemon must heal -----------------------------------------------------------------------------------------


def healed(
    kind: str,
    within: float,
    fault: str | tuple[str, ...],
    site: Site | None = None,
    doing: int | None = 1,
    **params: float,
) -> Run:
    def run(trial: Trial) -> None:
        ground = trial.ground(site or Site())
        began = trial.begins("victim")
        pid = break_(ground.ports["victim"], kind, **params)
        trial.heals(ground, began, pid, within)
        trial.settle(ground, (fault,) if isinstance(fault, str) else fault, doing=doing)

    return run


def unheard_term(trial: Trial) -> None:
    ground = trial.ground()
    break_(ground.ports["victim"], "ignore-term")
    began, pid = trial.break_(ground, "hang")
    trial.heals(ground, began, pid, 4.0)
    trial.settle(ground, ("hung",), doing=1)


def memory(trial: Trial) -> None:
    ground = trial.ground(Site(subject={"memory_limit": "120MiB"}))
    began, pid = trial.break_(ground, "leak", mib_per_s=20, limit=400)
    trial.heals(ground, began, pid, 10.0)
    trial.settle(ground, ("leaking-memory", "exhausting-memory"), doing=1, told=None)


def descriptors(trial: Trial) -> None:
    ground = trial.ground()
    began, pid = trial.break_(ground, "fds", per_s=200, limit=1000, nofile=64)
    trial.heals(ground, began, pid, 6.0)
    trial.settle(ground, ("hung", "exhausting-descriptors"), doing=1)


def ten_killed(trial: Trial) -> None:
    names = [f"v{number}" for number in range(10)]
    ground = trial.ground(*(Site(name) for name in names))
    pids = {name: ground.pid(name) for name in names}
    began = trial.begins(*names)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    late: list[str] = []

    def watch(name: str) -> None:
        try:
            trial.heals(ground, began, pids[name], 30.0, name)
        except Missed as missed:
            late.append(f"{name}: {missed}")

    watchers = [threading.Thread(target=watch, args=(name,)) for name in names]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()
    if late:
        raise Missed("; ".join(late))
    trial.settle(ground, ("dead",), doing=10)


def with_dependents(trial: Trial, count: int) -> Ground:
    return trial.ground(Site("db"), *(Site(f"v{number}", depends_on="db") for number in range(count)))


def dependency(kind: str, fault: str, within: float) -> Run:
    def run(trial: Trial) -> None:
        ground = with_dependents(trial, 10)
        began, pid = trial.break_(ground, kind, "db")
        trial.heals(ground, began, pid, within, "db")
        for number in range(10):
            try:
                wait_until_answers(ground.ports[f"v{number}"], began, None, 5.0)
            except TimeoutError as error:
                raise Missed(f"a dependent did not come back: {error}") from error
        trial.settle(ground, (fault, "gray"), doing=1)

    return run


def dependency_slow(trial: Trial) -> None:
    """The dependency needs 10 s to start again: its dependents fail all that time and are left alone all the same."""
    ground = with_dependents(trial, 3)
    break_(ground.ports["db"], "slowstart", seconds=10)
    began, pid = trial.break_(ground, "kill", "db")
    trial.heals(ground, began, pid, 12.0, "db")
    trial.settle(ground, ("dead", "gray"), doing=1)


def bad_neighbour(trial: Trial) -> None:
    """One subject cannot be started at all, again and again; another one, killed meanwhile, is healed at once."""
    ground = trial.ground(Site("v0", cwd="@/home"), Site("v1"))
    home = ground.folder / "home"
    home.rename(ground.folder / "away")
    trial.break_(ground, "kill", "v0")
    ground.sleep(20.0)
    began, pid = trial.break_(ground, "kill", "v1")
    trial.heals(ground, began, pid, 1.0, "v1")
    if not any("no folder" in call for call in ground.calls_for_help()):
        raise Missed(f"a human was not told why it cannot be started: {ground.calls_for_help()}")
    (ground.folder / "away").rename(home)
    came_back(trial, ground, 60.0, "v0")
    trial.settle(ground, ("dead",), told=True)


def journal_locked(trial: Trial) -> None:
    """Somebody holds the journal's file for 8 s: nothing is done that could not be written down, and then it is."""
    ground = trial.ground()
    with closing(sqlite3.connect(ground.state_dir / "knowledge.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        _, pid = trial.break_(ground, "kill")
        ground.sleep(8.0)
        if ask(ground.ports["victim"]).status is not None:
            raise Missed("it acted without having written down that it would")
        holder.execute("ROLLBACK")
    trial.heals(ground, time.monotonic(), pid, 6.0)
    trial.settle(ground, ("dead",), doing=1, complains=True)


def dependency_and_one(trial: Trial) -> None:
    """The dependency refuses and one dependent is killed: two faults, two actions, the others left alone."""
    ground = with_dependents(trial, 3)
    began, pid = trial.break_(ground, "refuse", "db")
    _, second = trial.break_(ground, "kill", "v0")
    trial.heals(ground, began, pid, 5.0, "db")
    trial.heals(ground, began, second, 12.0, "v0")
    trial.settle(ground, ("hung", "gray", "dead"), doing=2)


def slow_start(trial: Trial) -> None:
    ground = trial.ground()
    break_(ground.ports["victim"], "slowstart", seconds=20)
    began, pid = trial.break_(ground, "kill")
    trial.heals(ground, began, pid, 23.0)
    trial.settle(ground, ("dead",), doing=1)


def slow_hang(trial: Trial) -> None:
    """A hung one whose start takes 8 s: one restart, and patience."""
    ground = trial.ground()
    break_(ground.ports["victim"], "slowstart", seconds=8)
    began, pid = trial.break_(ground, "hang")
    trial.heals(ground, began, pid, 13.0)
    trial.settle(ground, ("hung",), doing=1)


def crash_loop(trial: Trial) -> None:
    ground = trial.ground()
    trial.break_(ground, "crashloop", after=0.5, now=1)
    ground.sleep(30.0)
    trial.read(ground)
    tries = len([act for act in trial.acts if act.disruptive])
    trial.notes.append(f"{tries} restarts in the 30 s")
    if not any(act.action == "notify.human" for act in trial.acts):
        raise Missed("no human was told of the crash loop within 30 s")
    (ground.victim_folder("victim") / "crashloop").unlink()
    came_back(trial, ground, 60.0)
    trial.settle(ground, ("dead",), told=True)


def came_back(trial: Trial, ground: Ground, within: float, name: str = "victim") -> None:
    """From the end of the cause until it answers for 2 s on end."""
    gone = time.monotonic()
    since: float | None = None
    while since is None or time.monotonic() - since < 2.0:
        ground.check_daemon()
        since = (since or time.monotonic()) if ask(ground.ports[name]).status == 200 else None
        if time.monotonic() - gone > within + 5.0:
            raise Missed(f"not back {within:g} s after the cause was gone")
        time.sleep(0.05)
    trial.recovered = since - gone
    trial.ends(name)
    if trial.recovered > within:
        raise Missed(f"back after {trial.recovered:.1f} s, later than {within:g} s")


def poison(trial: Trial) -> None:
    ground = trial.ground()
    trial.break_(ground, "poison", now=1)
    ground.sleep(15.0)
    trial.read(ground)
    trial.notes.append(f"{len([a for a in trial.acts if a.disruptive])} restarts in the 15 s")
    if not any(act.action == "notify.human" for act in trial.acts):
        raise Missed("no human was told within 15 s")
    (ground.victim_folder("victim") / "cache/index").unlink()
    came_back(trial, ground, 60.0)
    trial.settle(ground, ("dead",), told=True)


def poison_cleaned(trial: Trial) -> None:
    site = Site(subject={"cleanup": [{"folder": "@/victims/victim/cache", "pattern": "*"}]})
    ground = trial.ground(site)
    began, pid = trial.break_(ground, "poison", now=1)
    trial.heals(ground, began, pid, 10.0)
    # What went before it came back: the cleanup itself counts as an action on the victim.
    trial.settle(ground, ("dead",), told=False)
    if not any(act.action == "cleanup.free" and act.result in ("verified", "unverified") for act in trial.acts):
        raise Missed("it was not the cleanup that helped")


def pressured_hang(trial: Trial) -> None:
    ground = trial.ground()
    with busy_neighbours(2 * (os.cpu_count() or 1)):
        ground.sleep(6.0)
        began, pid = trial.break_(ground, "hang")
        trial.heals(ground, began, pid, 10.0)
    trial.settle(ground, ("hung", "overloaded"), doing=1, told=None)


def kill_switch(trial: Trial) -> None:
    ground = trial.ground()
    ground.tell(lambda store: store.set_flag("auto_healing", False, "operator"))
    ground.sleep(1.0)
    _, pid = trial.break_(ground, "kill")
    ground.sleep(5.0)
    if [act for act in ground.acts() if act.disruptive]:
        raise Missed("it acted with auto_healing off")
    on = time.monotonic()
    ground.tell(lambda store: store.set_flag("auto_healing", True, "operator"))
    trial.heals(ground, on, pid, 2.0)
    trial.settle(ground, ("dead",), doing=1)


def paused(trial: Trial) -> None:
    ground = trial.ground()
    ground.tell(lambda store: store.add_pause("vic*", time.time() + 3600, who="operator"))
    ground.sleep(1.0)
    _, pid = trial.break_(ground, "kill")
    ground.sleep(5.0)
    if [act for act in ground.acts() if act.disruptive]:
        raise Missed("it acted on a paused target")
    ended = time.monotonic()
    ground.tell(lambda store: store.remove_pause("vic*", "operator"))
    trial.heals(ground, ended, pid, 2.0)
    trial.settle(ground, ("dead",), doing=1)


def pause_expires(trial: Trial) -> None:
    ground = trial.ground()
    until = time.time() + 6.0
    ground.tell(lambda store: store.add_pause("*", until, who="operator"))
    ground.sleep(1.0)
    _, pid = trial.break_(ground, "hang")
    over = time.monotonic() + (until - time.time())
    ground.sleep(until - time.time() - 0.2)
    if [act for act in ground.acts() if act.disruptive]:
        raise Missed("it acted on a paused target")
    trial.heals(ground, over, pid, 2.0)
    trial.settle(ground, ("hung",), doing=1)


def daemon_killed(trial: Trial) -> None:
    """The daemon dies while its victim is down, and comes again: it finishes the work and repeats nothing."""
    ground = trial.ground()
    began, pid = trial.break_(ground, "hang")
    # In the middle of the proof: the restart is done, its outcome is not written.
    wait_until_answers(ground.ports["victim"], began, pid, 10.0)
    second = ground.pid("victim")
    ground.kill_daemon()
    trial.ends("victim")
    ground.start_daemon()
    ground.sleep(8.0)
    if ground.pid("victim") != second:
        raise Missed("it restarted a victim that was well")
    trial.recovered = 0.0
    trial.settle(ground, ("hung",), doing=1)


def daemon_killed_before(trial: Trial) -> None:
    """The daemon dies before it could know of the hang; the next one has never seen that victim well."""
    ground = trial.ground(Site(subject={"start_timeout": "5s"}))  # until so old, silence may be its slow start
    began, pid = trial.break_(ground, "hang")
    ground.sleep(0.3)
    ground.kill_daemon()
    ground.start_daemon()
    trial.heals(ground, began, pid, 8.0)
    trial.settle(ground, ("hung",), doing=1)


def daemon_held_up(trial: Trial) -> None:
    """The daemon itself is stopped for 5 s, as a paused virtual machine is: what it missed is nobody's fault."""
    ground = trial.ground(Site("v0"), Site("v1"), Site("v2", health=True))
    assert ground.daemon is not None
    for _ in range(3):
        os.kill(ground.daemon.pid, signal.SIGSTOP)
        time.sleep(5.0)
        os.kill(ground.daemon.pid, signal.SIGCONT)
        ground.sleep(3.3)
    trial.settle(ground, doing=0)


def daemon_asked_to_end(trial: Trial) -> None:
    """SIGTERM in the middle of a proof, and a new daemon: the outcome is not lost, nothing is repeated."""
    ground = trial.ground(Site(on_exit="leave"))
    began, pid = trial.break_(ground, "hang")
    trial.heals(ground, began, pid, 3.0)
    second = ground.pid("victim")
    if code := ground.stop_daemon():
        raise Missed(f"the daemon ended with {code}")
    ground.start_daemon()
    ground.sleep(6.0)
    if ask(ground.ports["victim"], timeout=2.0).pid != second:
        raise Missed("it restarted a victim that was well")
    trial.settle(ground, ("hung",), doing=1)


def reloaded(trial: Trial) -> None:
    """SIGHUP while a hung victim is being healed: the new loop goes on where the old one was."""
    ground = trial.ground()
    assert ground.daemon is not None
    began, pid = trial.break_(ground, "hang")
    for _ in range(8):
        ground.sleep(0.3)
        os.kill(ground.daemon.pid, signal.SIGHUP)
    trial.heals(ground, began, pid, 10.0)
    trial.settle(ground, ("hung",), doing=1)


def approved(trial: Trial) -> None:
    ground = trial.ground(Site(subject={"mode": "approve"}))
    _, pid = trial.break_(ground, "kill")
    ground.sleep(4.0)
    if [act for act in ground.acts() if act.disruptive]:
        raise Missed("it acted before it was approved")
    wanted = ground.wanted()
    if len(wanted) != 1:
        raise Missed(f"{len(wanted)} approvals are wanted where one is: {wanted}")
    yes = time.monotonic()
    ground.tell(lambda store: store.answer_approval(wanted[0], True, "operator", "go on"))
    trial.heals(ground, yes, pid, 2.0)
    trial.settle(ground, ("dead",), doing=1, told=True)  # asking is telling


def group(trial: Trial) -> None:
    """Three of one group killed at once: one after the other, and all of them."""
    names = [f"v{number}" for number in range(3)]
    ground = trial.ground(*(Site(name, subject={"group": "web"}) for name in names))
    pids = {name: ground.pid(name) for name in names}
    began = trial.begins(*names)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    for name in names:
        trial.heals(ground, began, pids[name], 20.0, name)
    trial.settle(ground, ("dead",), doing=3)
    acts = sorted(trial.acts, key=lambda act: act.at)
    for first, second in pairwise(acts):
        if first.ended_at is None or second.at < first.ended_at - BLURRED:
            raise Missed(f"{first.target} and {second.target} of one group were treated at once")


def hung_beside_health(trial: Trial) -> None:
    """All of it is silent, its own health check too: that is hung and not gray, whichever probe is heard first."""
    names = [f"v{number}" for number in range(5)]
    ground = trial.ground(*(Site(name, health=True) for name in names))
    for name in names:
        began, pid = trial.break_(ground, "hang", name)
        trial.heals(ground, began, pid, 3.0, name)
        ground.sleep(0.37)
    trial.settle(ground, ("hung",), doing=5)


def pressured_among_many(trial: Trial) -> None:
    """One of four is hung while the CPU is fought for: the other three, slow perhaps, are left alone."""
    names = [f"v{number}" for number in range(4)]
    ground = trial.ground(*(Site(name) for name in names))
    with busy_neighbours(2 * (os.cpu_count() or 1)):
        ground.sleep(8.0)
        began, pid = trial.break_(ground, "hang", "v0")
        trial.heals(ground, began, pid, 10.0, "v0")
    trial.settle(ground, ("hung", "overloaded"), doing=1, told=None)


def leak_announced(trial: Trial) -> None:
    """A slow leak: a human hears of it before the limit is reached, and nothing is restarted meanwhile."""
    ground = trial.ground(Site(subject={"memory_limit": "200MiB"}))
    break_(ground.ports["victim"], "leak", mib_per_s=8, limit=170)
    ground.sleep(24.0)
    trial.read(ground)
    if not any(act.action == "notify.human" for act in trial.acts):
        raise Missed(f"nobody was told: {[(s.check, s.answer, s.sentence) for s in ground.said()]}")
    mend(ground.ports["victim"])
    trial.settle(ground, ("leaking-memory",), doing=0, told=True, quiet=30.0)


def broken_twice(trial: Trial) -> None:
    """Hung, healed, and one second later killed: another fault of the same subject within the proof of the first."""
    ground = trial.ground()
    began, pid = trial.break_(ground, "hang")
    trial.heals(ground, began, pid, 4.0)
    ground.sleep(1.0)
    began, pid = trial.break_(ground, "kill")
    trial.heals(ground, began, pid, 2.0)
    trial.settle(ground, ("hung", "dead"), doing=2)


def killed_often(trial: Trial) -> None:
    """Five kills, ten seconds apart, each healed: the fifth must not wait for a human."""
    ground = trial.ground()
    for number in range(5):
        began, pid = trial.break_(ground, "kill")
        seconds = trial.heals(ground, began, pid, 3.0)
        trial.notes.append(f"{seconds:.2f} s")
        ground.sleep(5.0 if number < 4 else 0.0)
    trial.settle(ground, ("dead",), told=None, doing=5)


KINDS = (
    Kind("slow-once", "no act: one request of 3 s", leaves_alone(6, "slow", seconds=3, times=1), quick=True),
    Kind("slow-twice", "no act: two requests of 3 s", leaves_alone(6, "slow", seconds=3, times=2)),
    Kind("stall", "no act: 0.8 s of silence", leaves_alone(4, "stall", seconds=0.8), quick=True),
    Kind("flap", "no act: 503 for 0.3 s every 2 s", leaves_alone(20, "flap", period=2, down=0.3)),
    Kind("logflood", "no act: 20000 lines a second", leaves_alone(8, "logflood", lines_per_s=20000)),
    Kind("zombies", "no act: 20 dead children", leaves_alone(6, "zombies", n=20)),
    Kind("busy-itself", "no act: burns a core and answers", leaves_alone(8, "busy", cores=1), alone=True),
    Kind("busy-neighbour", "no act: two busy loops for 8 s", busy_neighbour, alone=True),
    Kind("crowded", "no act: four busy loops a core for 20 s", crowded, alone=True),
    Kind("suggest", "no act, the decision is recorded", suggest, quick=True),
    Kind("not-allowed", "no act, the decision is recorded", not_allowed),
    Kind("operator", "no act: paused, stopped and continued by hand", operator_at_work),
    Kind("kill", "heals within 1 s", healed("kill", 1.0, "dead"), quick=True),
    Kind("exit-0", "heals within 1 s", healed("exit", 1.0, "dead", code=0)),
    Kind("exit-1", "heals within 1 s", healed("exit", 1.0, "dead", code=1)),
    Kind("hang", "heals within 3 s", healed("hang", 3.0, "hung"), quick=True),
    Kind("stop", "heals within 3 s", healed("stop", 3.0, "hung")),
    Kind("lock", "heals within 3 s", healed("lock", 3.0, "hung")),
    Kind("ignores-term", "heals within 4 s", unheard_term),
    Kind("refuse", "heals within 3 s", healed("refuse", 3.0, "hung"), quick=True),
    Kind("gray", "heals within 4 s", healed("gray", 4.0, "gray", Site(health=True)), quick=True),
    Kind("gray-blind", "heals within 4 s, without a health probe", healed("gray", 4.0, "gray")),
    Kind("memory", "heals within 10 s of a leak's begin", memory),
    Kind("descriptors", "heals within 6 s", descriptors),
    Kind("broken-twice", "heals both: hung, then killed 1 s later", broken_twice),
    Kind("killed-often", "heals each of five within 3 s", killed_often),
    Kind("ten-killed", "heals all, one act each", ten_killed, quick=True, alone=True),
    Kind("dependency-refuses", "heals the one, not its ten dependents", dependency("refuse", "hung", 3.0), alone=True),
    Kind("dependency-killed", "heals the one, not its ten dependents", dependency("kill", "dead", 1.0), alone=True),
    Kind("dependency-slow", "heals the one, which takes 10 s, not its three", dependency_slow),
    Kind("bad-neighbour", "heals one within 1 s while another cannot start", bad_neighbour),
    Kind("journal-locked", "no act while it cannot be journaled; then heals", journal_locked),
    Kind("dependency-and-one", "heals both, leaves two dependents alone", dependency_and_one),
    Kind("slow-start", "one restart, 20 s of patience", slow_start),
    Kind("slow-hang", "one restart, 8 s of patience", slow_hang),
    Kind("crash-loop", "tells, rows <= 3, back <= 60 s after its end", crash_loop),
    Kind("poison", "tells, rows <= 3, back <= 60 s after its end", poison),
    Kind("poison-cleanup", "heals by the cleanup within 10 s", poison_cleaned, quick=True),
    Kind("pressured-hang", "heals within 10 s under CPU pressure", pressured_hang, alone=True),
    Kind("kill-switch", "no act while off; heals within 2 s of on", kill_switch, quick=True),
    Kind("paused", "no act while paused; heals within 2 s of its end", paused),
    Kind("pause-expires", "no act while paused; heals within 2 s of its end", pause_expires),
    Kind("pressured-among", "heals the one of four within 10 s", pressured_among_many, alone=True),
    Kind("hang-with-health", "heals five, none of them called gray", hung_beside_health),
    Kind("approved", "no act before; heals within 2 s of the yes", approved),
    Kind("group", "heals three of a group, one at a time", group),
    Kind("leak-announced", "no act; a human is told of the leak", leak_announced),
    Kind("daemon-held-up", "no act: the daemon was stopped for 5 s", daemon_held_up),
    Kind("daemon-ended", "repeats nothing after SIGTERM in a proof", daemon_asked_to_end),
    Kind("reload", "heals once, reloaded eight times meanwhile", reloaded),
    Kind("daemon-killed", "repeats nothing", daemon_killed),
    Kind("daemon-killed-early", "the next daemon heals within 8 s", daemon_killed_before),
)


@dataclass(frozen=True)
class Report:
    kind: Kind
    trial: Trial
    missed: str
    seconds: float
    evidence: str = ""


def tried(kind: Kind, ports: Ports, laid: Callable[[Ground], None]) -> Report:
    began = time.monotonic()
    missed = evidence = ""
    with ExitStack() as stack:
        trial = Trial(ports, stack, laid)
        try:
            kind.run(trial)
        except (Missed, GroundFailed, TimeoutError, ValueError, OSError) as error:
            missed = str(error) if isinstance(error, Missed) else f"{type(error).__name__}: {error}"
            evidence = _evidence(trial)
    return Report(kind, trial, missed, time.monotonic() - began, evidence)


def _evidence(trial: Trial) -> str:
    """What the journal and the log say, for a kind that went wrong: the ground is gone a moment later."""
    if not trial.grounds:
        return ""
    ground = trial.grounds[-1]
    try:
        lines = (
            [f"  incident {s}" for s in ground.stories()]
            + [f"  act {a}" for a in ground.acts()]
            + [f"  decided {s}" for s in ground.said()]
        )
    except (sqlite3.Error, OSError, ValueError, KeyError) as error:
        lines = [f"  no journal: {error!r}"]
    return "\n".join([*lines, *("  log " + line for line in ground.log().splitlines()[-60:])])


def line_of(report: Report) -> str:
    trial = report.trial
    back = f"{trial.recovered:7.2f}" if trial.recovered is not None else "      -"
    acts = len([act for act in trial.acts if act.disruptive])
    verdict = "MISSED" if report.missed else "ok"
    notes = f" [{'; '.join(trial.notes)}]" if trial.notes else ""
    return (
        f"{report.kind.name:<20} {verdict:<6} {back} {acts:>5} {len(trial.needless):>8} {trial.row:>4}  "
        f"{report.kind.must}{notes}" + (f"\n{'':<20} -> {report.missed}" if report.missed else "")
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="A campaign of faults against the daemon at its defaults.")
    parser.add_argument("--kinds", default="", help="only these, by name and comma")
    parser.add_argument("--quick", action="store_true", help="a subset that takes about a minute")
    parser.add_argument("--beside", type=int, default=3, help="how many independent kinds run at the same time")
    parser.add_argument("--evidence", action="store_true", help="print journal and log of what went wrong")
    given = parser.parse_args()
    wanted = [name for name in given.kinds.split(",") if name]
    if unknown := set(wanted) - {kind.name for kind in KINDS}:
        parser.error(f"no such kinds: {', '.join(sorted(unknown))}; there are {', '.join(k.name for k in KINDS)}")
    chosen = [k for k in KINDS if (k.name in wanted if wanted else k.quick or not given.quick)]
    end_on_sigterm()
    ports, reports = Ports(), list[Report]()
    grounds: list[Ground] = []
    print(f"{'kind':<20} {'':<6} {'back(s)':>7} {'acts':>5} {'needless':>8} {'row':>4}  expectation", flush=True)

    def run(kind: Kind) -> None:
        report = tried(kind, ports, grounds.append)
        reports.append(report)
        print(line_of(report) + (f"\n{report.evidence}" if given.evidence and report.evidence else ""), flush=True)

    pool = ThreadPoolExecutor(given.beside)
    finished = False
    try:
        for future in [pool.submit(run, kind) for kind in chosen if not kind.alone]:
            future.result()
        for kind in chosen:
            if kind.alone:
                run(kind)
        finished = True
    finally:
        pool.shutdown(wait=finished, cancel_futures=True)
        for ground in list(grounds):  # after a Ctrl-C the threads still wait for victims that will never be well again
            ground.close()
    missed = [report.kind.name for report in reports if report.missed]
    needless = sum(len(report.trial.needless) for report in reports)
    row = max((report.trial.row for report in reports), default=0)
    print(
        f"{len(reports)} kinds: {len(reports) - len(missed)} as expected, {len(missed)} missed"
        f"{' (' + ', '.join(missed) + ')' if missed else ''}; {needless} needless actions; "
        f"longest row of equal tries {row}"
    )
    return int(bool(missed))


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:
        print("stopped; nothing is left running", file=sys.stderr, flush=True)
        os._exit(130)  # the threads hold nothing any more that would have to be closed
    sys.exit(code)
