"""Shows how everything is on a whole terminal, live, and takes answers there: the same words as the other commands."""

import asyncio
import contextlib
import fcntl
import locale
import os
import signal
import struct
import sys
import termios
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self, TextIO

from x0tta6bl4.cli import approvals, incidents, pauses, why
from x0tta6bl4.cli.display import Display
from x0tta6bl4.cli.exits import BAD, OK, Refusal, quoted
from x0tta6bl4.cli.grammar import duration
from x0tta6bl4.cli.incidents import began
from x0tta6bl4.cli.picture import seen
from x0tta6bl4.cli.places import Place, opened, place_of
from x0tta6bl4.cli.screen import (
    Deed,
    Look,
    Open,
    Paragraph,
    Rows,
    Scene,
    Style,
    Told,
    Ui,
    Wanted,
    draw,
    kind_of,
    press,
    settled,
)
from x0tta6bl4.kernel.errors import X0tError
from x0tta6bl4.kernel.memory import Decision, Knowledge

try:
    import curses
except ModuleNotFoundError as missing:
    raise Refusal(
        f"this Python has no curses: {missing}", BAD, remedy="install it, or ask `x0tta6bl4 status`"
    ) from missing

TICK = 1.0
"""Seconds between two looks at whether anybody has changed the store."""
PACE = 2.0
"""Seconds between two readings at least, however much happens: the daemon is asked each time, and has other work."""
REFRESH = 5.0
"""Seconds until what a daemon sees, or a text about one thing, is read anew although the store says nothing new."""
MOST_ASKED = 200
"""Subjects whose last decisions are looked up for one screen."""
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
NAMES = {
    "\n": "enter",
    "\r": "enter",
    "\x1b": "esc",
    "\t": "tab",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x0c": "ctrl-l",
    "\x15": "ctrl-u",
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_PPAGE: "pgup",
    curses.KEY_NPAGE: "pgdn",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_ENTER: "enter",
    curses.KEY_BACKSPACE: "backspace",
    curses.KEY_DC: "backspace",
}


def run(args: Namespace) -> int:
    instead = "`x0tta6bl4 status` tells the same without one"
    if args.output == "json":
        raise Refusal("the terminal view is for people", remedy="programs ask `x0tta6bl4 status --output json`")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Refusal("this is no terminal, and the view needs a whole one", remedy=instead)
    try:
        curses.setupterm()
    except curses.error as error:
        raise Refusal(f"the terminal {quoted(os.environ.get('TERM', ''))} is not known", remedy=instead) from error
    if not curses.tigetstr("cup"):
        raise Refusal(f"a terminal of type {quoted(os.environ.get('TERM', ''))} cannot be drawn on", remedy=instead)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        return asyncio.run(_run(args, nowhere))


async def _run(args: Namespace, nowhere: TextIO) -> int:
    place = place_of(args)
    # A daemon that ends must not lead to another place than the one that was found when it ran.
    args = Namespace(**{**vars(args), "state_dir": str(place.state_dir)})
    async with opened(place) as knowledge:
        scene = await read(args, place, knowledge, "")
        # What is wrong with the configuration was said above; said again it would stand in the middle of the screen.
        with contextlib.redirect_stderr(nowhere), Terminal() as terminal:
            return await View(args, knowledge, terminal, scene).watch()


# -- reading -----------------------------------------------------------------------------------------------------------


async def read(args: Namespace, place: Place, knowledge: Knowledge, looking_at: str) -> Scene:
    """Everything that a screen shows, from where the other commands have it."""
    now = time.time()
    picture = await seen(place, knowledge, now)
    found = await knowledge.open_incidents()
    last: dict[str, Decision] = {}
    for subject in list(dict.fromkeys(i.subject for i in found))[:MOST_ASKED]:
        for decision in reversed(await knowledge.decisions(subject, limit=20)):
            last[decision.incident] = decision
    wanted = [
        Wanted(a, await knowledge.plan(a.plan))
        for a in await knowledge.approvals("wanted", limit=1000)
        if a.expires > now
    ]
    return Scene(
        seen=picture,
        daemon=place.daemon,
        incidents=tuple(
            Open(i, said if (said := last.get(i.id)) is not None and said.at >= began(i) else None) for i in found
        ),
        approvals=tuple(wanted),
        pauses=tuple(await knowledge.pauses()),
        flags=await knowledge.flags(),
        told=await told_about(args, looking_at) if looking_at else (),
        told_of=looking_at,
    )


async def told_about(args: Namespace, target: str) -> Told:
    """What `x0tta6bl4 why` says of a subject or an incident, and of an incident its story as a timeline."""
    try:
        display = Collected(args)
        await why._run(_with(args, target=target, metrics=False), display)
        if target.startswith("inc-"):
            story = Collected(args)
            await incidents._run(_with(args, id=target, moves=False, subject=None, all=False, limit=1), story)
            display.blocks += [block for block in story.blocks if isinstance(block, Rows)]
        return tuple(display.blocks)
    except X0tError as error:
        return (Paragraph(str(error), style="bad"),)


async def done(args: Namespace, deed: Deed) -> tuple[str, bool]:
    """What came of it, in the words of the command that does the same, and whether it was done."""
    given, display = deed.given, Collected(args)
    try:
        if deed.what == "pause":
            more = {"target": given["target"], "reason": given["reason"], "maintenance": False}
            code = await pauses._pause(_with(args, seconds=duration(given["for"]), **more), display)
        elif deed.what == "resume":
            code = await pauses._resume(_with(args, target=given["target"]), display)
        else:
            words = _with(args, plan=given["plan"], why=given["why"])
            code = await approvals._answer(words, display, deed.what == "approve")
    except (X0tError, OSError) as error:
        return str(error), False
    return " ".join(block.text for block in display.blocks if isinstance(block, Paragraph)), code == OK


def _with(args: Namespace, **more: object) -> Namespace:
    return Namespace(**{**vars(args), **more})


class Collected(Display):
    """What a command tells, kept instead of printed, so that it can be laid out for any width."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        self.blocks: list[Paragraph | Rows] = []

    def line(self, text: str = "", indent: int = 0) -> None:
        self.blocks.append(Paragraph(text, indent))

    def head(self, text: str) -> None:
        self.blocks.append(Paragraph(text, style="strong"))

    def state(self, name: str, state: str, rest: str) -> None:
        self.blocks.append(Paragraph(f"{name} is {state}{rest}", style=kind_of(state)))

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str]], states: int | None = None) -> None:
        self.blocks.append(Rows(tuple(titles), tuple(tuple(row) for row in rows)))


# -- the terminal ------------------------------------------------------------------------------------------------------


def speaks_unicode() -> bool:
    """Whether the terminal was said to take UTF-8. Python itself turns a C locale into one that does: no sign of it."""
    if locale.nl_langinfo(locale.CODESET).upper() not in ("UTF-8", "UTF8"):
        return False
    said = os.environ.get("LC_ALL") or os.environ.get("LANG") or ""
    return not sys.flags.utf8_mode or "utf" in said.lower()


class Terminal:
    """The screen and the keyboard; whatever happens inside, the terminal is left as it was found."""

    def __enter__(self) -> Self:
        self.look = Look(speaks_unicode())
        self._drawn: object = None
        curses.set_escdelay(25)
        self._screen = curses.initscr()
        try:
            curses.noecho()
            curses.cbreak()
            self._screen.keypad(True)
            self._screen.nodelay(True)
            self._styles = self._colours()
            with contextlib.suppress(curses.error):  # some terminals cannot hide their cursor
                curses.curs_set(0)
            self.fit()
        except BaseException:  # also Ctrl-C: the terminal is given back in any case
            curses.endwin()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(curses.error):  # there may be no terminal any more
            curses.endwin()

    def _colours(self) -> dict[Style, int]:
        styles: dict[Style, int] = {
            "": curses.A_NORMAL,
            "strong": curses.A_BOLD,
            "faint": curses.A_DIM,
            "bad": curses.A_BOLD,
            "doubtful": curses.A_UNDERLINE,
            "good": curses.A_NORMAL,
            "cursor": curses.A_REVERSE,
        }
        if os.environ.get("NO_COLOR") or not curses.has_colors():
            return styles
        curses.start_color()
        background = curses.COLOR_BLACK
        with contextlib.suppress(curses.error):  # a terminal without colours of its own has black
            curses.use_default_colors()
            background = -1
        hues = (curses.COLOR_GREEN, curses.COLOR_RED, curses.COLOR_YELLOW)
        names: tuple[Style, ...] = ("good", "bad", "doubtful")
        for number, (name, hue) in enumerate(zip(names, hues, strict=True), 1):
            curses.init_pair(number, hue, background)
            styles[name] = curses.color_pair(number) | (curses.A_BOLD if name == "bad" else 0)
        return styles

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        lines, columns = self._screen.getmaxyx()
        return columns, lines

    def fit(self) -> None:
        """Takes the terminal's size as the kernel knows it; what the environment says of it may be old."""
        lines, columns, _, _ = struct.unpack("4H", fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8)))
        if lines and columns and (lines, columns) != self._screen.getmaxyx():
            curses.resizeterm(lines, columns)
            self._drawn = None

    def repaint(self) -> None:
        self._screen.clearok(True)
        self._drawn = None

    def suspend(self) -> None:
        """Gives the terminal back and stops, as Ctrl-Z does with every program; goes on after this when continued."""
        curses.endwin()
        os.kill(os.getpid(), signal.SIGSTOP)

    def resumed(self) -> None:
        curses.reset_prog_mode()
        self.fit()
        self.repaint()

    def show(self, scene: Scene, ui: Ui) -> tuple[int, int]:
        """Paints what has changed; the first line of a text that is shown, and the lines of a page."""
        frame = draw(scene, ui, *self.size, self.look, time.time())
        if frame.lines != self._drawn:
            self._drawn = frame.lines
            self._screen.erase()
            for y, line in enumerate(frame.lines):
                with contextlib.suppress(curses.error):  # curses says so when it has filled the last column
                    self._screen.move(y, 0)
                    for span in line.spans:
                        style = self._styles[span.style] if not line.chosen else curses.A_REVERSE
                        self._screen.addstr(span.text, style)
            self._screen.refresh()
        return frame.top, frame.page

    def keys(self) -> list[str]:
        """What was typed since the last time. EOFError when nobody can type any more."""
        found: list[str] = []
        while True:
            try:
                key = self._screen.get_wch()
            except curses.error:
                break
            name = NAMES.get(key) or (key if isinstance(key, str) else "")
            if name:
                found.append(name)
        if not found and not _is_there():
            raise EOFError
        return found


def _is_there() -> bool:
    """Asked when there was something to read and nothing came: so it is when the terminal is gone."""
    try:
        os.get_terminal_size(0)
    except OSError:
        return False
    return True


# -- the whole ---------------------------------------------------------------------------------------------------------


class View:
    """Keeps the screen true: reads anew when the store has changed, draws, and does what keys ask for."""

    def __init__(self, args: Namespace, knowledge: Knowledge, terminal: Terminal, scene: Scene) -> None:
        self._args = args
        self._knowledge = knowledge
        self._terminal = terminal
        self._scene = scene
        self._ui = settled(Ui(), scene, time.time())
        self._read_at = time.monotonic()
        self._is_stale = False
        self._reading: asyncio.Task[Scene] | None = None
        self._wake = asyncio.Event()
        self._deeds: list[Deed] = []
        self._page = 1
        self._code: int | None = None
        self._broken: BaseException | None = None

    async def watch(self) -> int:
        """Until somebody leaves; the exit code."""
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.add_signal_handler(number, self._end, 128 + number)
        loop.add_signal_handler(signal.SIGTSTP, self._terminal.suspend)
        for number in (signal.SIGWINCH, signal.SIGCONT):
            loop.add_signal_handler(number, self._resumed)
        loop.add_reader(0, self._typed)
        loop.set_exception_handler(self._failed)
        try:
            async with asyncio.TaskGroup() as group:
                while self._code is None:
                    await self._turn(group)
                if self._reading is not None:
                    self._reading.cancel()
        finally:
            loop.remove_reader(0)
        return self._code

    async def _turn(self, group: asyncio.TaskGroup) -> None:
        if self._broken is not None:
            raise self._broken
        while self._deeds:
            await self._do(self._deeds.pop(0))
        if self._reading is not None and self._reading.done():
            self._take(self._reading.result())
        if self._reading is None and self._is_due():
            self._is_stale, self._read_at = False, time.monotonic()
            # In a thread: a daemon that hangs must not keep the keys waiting until it has not answered.
            work = asyncio.to_thread(asyncio.run, self._read(self._ui.looking_at))
            self._reading = group.create_task(work, name="reading")
            self._reading.add_done_callback(lambda _: self._wake.set())
        top, self._page = self._terminal.show(self._scene, self._ui)
        self._ui = replace(self._ui, top=top)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK):
                await self._wake.wait()
        self._wake.clear()

    def _is_due(self) -> bool:
        if self._knowledge.changed_by_others():
            self._is_stale = True
        age = time.monotonic() - self._read_at
        daemon = self._scene.daemon
        if daemon is not None and not os.path.exists(f"/proc/{daemon.pid}"):
            self._is_stale = True
        if self._ui.view == "told" and self._scene.told_of != self._ui.looking_at:
            return True
        is_old = age >= REFRESH and (daemon is not None or self._ui.view == "told" or bool(self._scene.trouble))
        return is_old or (self._is_stale and age >= (PACE if daemon is not None else 0.0))

    async def _read(self, looking_at: str) -> Scene:
        try:
            return await read(self._args, place_of(self._args), self._knowledge, looking_at)
        except (X0tError, OSError) as error:
            told = (Paragraph(str(error), style="bad"),)
            return replace(self._scene, trouble=str(error), told=told, told_of=looking_at)

    def _take(self, scene: Scene) -> None:
        self._reading = None
        self._scene = scene
        self._ui = settled(self._ui, scene, time.time())

    async def _do(self, deed: Deed) -> None:
        if deed.what == "quit":
            self._end(OK)
        elif deed.what == "repaint":
            self._terminal.repaint()
        elif deed.what == "look":
            self._is_stale = True
        else:
            message, is_done = await done(self._args, deed)
            self._ui = replace(self._ui, message=message, is_bad=not is_done)
            self._is_stale, self._read_at = True, 0.0

    def _typed(self) -> None:
        try:
            keys = self._terminal.keys()
        except EOFError:
            self._end(128 + signal.SIGHUP)
            return
        for key in keys:
            self._ui, deed = press(self._ui, self._scene, key, self._page, time.time())
            if deed is not None:
                self._deeds.append(deed)
        self._wake.set()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        """What a key or a signal led to has failed: asyncio would only write it down, where nobody looks."""
        error = context.get("exception")
        self._broken = error if isinstance(error, BaseException) else RuntimeError(str(context.get("message")))
        self._wake.set()

    def _resumed(self) -> None:
        self._terminal.resumed()
        self._wake.set()

    def _end(self, code: int) -> None:
        self._code = code
        self._wake.set()
