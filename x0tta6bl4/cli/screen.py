"""Draws the terminal view and reads its keys, without a terminal: a scene in, styled lines or a deed out."""

import unicodedata
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal

from x0tta6bl4.cli.display import _DOUBTFUL, _GOOD, ago, plural, printable
from x0tta6bl4.cli.grammar import duration
from x0tta6bl4.cli.incidents import began
from x0tta6bl4.cli.picture import SAID, Seen
from x0tta6bl4.cli.places import Holder
from x0tta6bl4.kernel.facts import Answer, Incident, Plan, Severity
from x0tta6bl4.kernel.flags import FLAGS
from x0tta6bl4.kernel.memory import Approval, Decision, Pause

LEAST = (40, 10)
"""Columns and lines that everything can be used in; below that only this is said."""
ROOMY = 16
"""Lines from which on every incident has its second line; below that only the chosen one."""
LONGEST = 500
"""Characters that a person may type into one question."""
CUT = 1000
"""Characters of a text that are looked at for one line of a screen."""
FRESH = 15.0
"""Seconds that the daemon's own word counts as live."""
TIME = 12
"""Columns of a time such as ``100 days ago``."""
_SEVERITIES = tuple(Severity)

Style = Literal["", "good", "bad", "doubtful", "strong", "faint", "cursor"]
Kind = Literal["approval", "incident", "subject", "pause"]


# -- what is drawn -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    text: str
    style: Style = ""


@dataclass(frozen=True)
class Line:
    spans: tuple[Span, ...] = ()
    chosen: bool = False

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True)
class Frame:
    lines: tuple[Line, ...]
    top: int = 0
    """The first line of the text that is shown, where a text is shown."""
    page: int = 1
    """Lines that the middle of the screen has."""


@dataclass(frozen=True)
class Paragraph:
    text: str
    indent: int = 0
    style: Style = ""


@dataclass(frozen=True)
class Rows:
    """A table; its last column takes what the others leave."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Told = tuple[Paragraph | Rows, ...]


@dataclass(frozen=True)
class Open:
    incident: Incident
    decision: Decision | None = None
    """What was decided last about it since it began."""


@dataclass(frozen=True)
class Wanted:
    approval: Approval
    plan: Plan | None

    @property
    def subject(self) -> str:
        return self.plan.subject if self.plan is not None else self.approval.incident

    @property
    def steps(self) -> str:
        return ", ".join(f"{s.action} on {s.target}" for s in self.plan.steps) if self.plan else self.approval.plan


@dataclass(frozen=True)
class Scene:
    """Everything that a screen is drawn from, as it was read at one moment."""

    seen: Seen
    daemon: Holder | None = None
    incidents: tuple[Open, ...] = ()
    approvals: tuple[Wanted, ...] = ()
    pauses: tuple[Pause, ...] = ()
    flags: Mapping[str, bool] = field(default_factory=dict)
    """Those that somebody has set."""
    told: Told = ()
    """What there is to say about ``told_of``."""
    told_of: str = ""
    trouble: str = ""
    """Why it could not be read anew; everything else is then from the time before."""


@dataclass(frozen=True)
class Prompt:
    """A question to the person at the keyboard, of one or more steps."""

    what: Literal["approve", "reject", "pause", "resume", "filter"]
    question: str
    steps: tuple[str, ...]
    """What is asked, one after the other; keys of ``ASKED``."""
    text: str = ""
    given: Mapping[str, str] = field(default_factory=dict)
    wrong: str = ""


@dataclass(frozen=True)
class Ui:
    """Where the person is: nothing of it comes from the store."""

    view: Literal["list", "told", "help", "notices"] = "list"
    chosen: tuple[str, str] = ("", "")
    """Kind and key of the chosen item; it stays chosen wherever a refresh moves it."""
    place: int = 0
    """Where it stood in the list, for when it is gone."""
    looking_at: str = ""
    """The subject or incident that the view ``told`` is about."""
    top: int = 0
    filter: str = ""
    prompt: Prompt | None = None
    message: str = ""
    is_bad: bool = False
    """What the message tells is a failure."""


@dataclass(frozen=True)
class Deed:
    """What a key asked for that drawing cannot do."""

    what: Literal["approve", "reject", "pause", "resume", "look", "repaint", "quit"]
    given: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One thing that can be chosen."""

    kind: Kind
    key: str
    word: str
    style: Style
    at: float
    text: str
    name: str
    """As it is shown: the subject, or what is paused."""
    subject: str = ""
    incident: str = ""
    more: str = ""


TITLES: Mapping[Kind, str] = {
    "approval": "Waiting for your answer",
    "incident": "Open incidents",
    "subject": "Watched",
    "pause": "Pauses",
}
ASKED: Mapping[str, tuple[str, str]] = {
    "why": ("Why (may stay empty)", "Enter does it, Esc leaves it"),
    "target": ("Pause what (* is everything)", "Enter goes on, Esc leaves it"),
    "for": ("For how long (such as 30m or 2h)", "Enter goes on, Esc leaves it"),
    "reason": ("Reason (may stay empty)", "Enter pauses, Esc leaves it"),
    "sure": ("Sure", "Enter does it, Esc leaves it"),
    "filter": ("Show only what has", "Enter keeps it, Esc shows all"),
}
HELP: tuple[tuple[str, str], ...] = (
    ("up down, k j", "the line above, below"),
    ("PgUp PgDn", "a screen up, down"),
    ("Home End, g G", "the first, the last"),
    ("Tab", "the next section"),
    ("Enter", "why: what is wrong, what was planned, held and done, and its story as a timeline"),
    ("Esc", "back; in the list: shows all again"),
    ("a", "approve what waits for an answer about the chosen line"),
    ("x", "reject it"),
    ("p", "pause healing for a while: of the chosen subject, or of what you name"),
    ("u", "end a pause before its time"),
    ("/", "show only lines with these letters"),
    ("n", "what stands in the head, in full"),
    ("Ctrl-L", "paint the screen anew"),
    ("?", "this help"),
    ("q, Ctrl-C", "leave; the daemon does not notice"),
)


# -- text that cannot harm a screen ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What the terminal can show."""

    is_unicode: bool = True

    @property
    def rule(self) -> str:
        return "─" if self.is_unicode else "-"

    @property
    def cut(self) -> str:
        return "…" if self.is_unicode else "~"

    def safe(self, text: str) -> str:
        """On one line, nothing in it that moves the cursor, turns the direction or piles up."""
        text = printable(text)
        if text.isascii():
            return text
        if not self.is_unicode:
            return text.encode("ascii", "replace").decode()
        kept: list[str] = []
        piled = 2  # a mark without a letter before it would sit on its neighbour
        for char in text:
            if _cells(char):
                kept.append(char)
                piled = 0
            elif piled < 2 and not "\ufe00" <= char <= "\ufe0f":  # those make some terminals draw two columns for one
                kept.append(char)
                piled += 1
        return "".join(kept)

    def fitted(self, text: str, width: int, *, fill: bool = False) -> str:
        """Cut to so many columns, or filled up to them."""
        text = self.safe(text[:CUT])
        if cells(text) > width:
            left = width - 1
            kept = []
            for char in text:
                left -= _cells(char)
                if left < 0:
                    break
                kept.append(char)
            text = "".join(kept) + self.cut if width > 0 else ""
        return text + " " * (width - cells(text)) if fill else text

    def wrapped(self, text: str, width: int, indent: int = 0) -> list[str]:
        """In lines of at most so many columns; those after the first stand two further in."""
        width = max(1, width)
        lines: list[str] = []
        line = " " * min(indent, width - 1)
        is_empty = True
        for word in self.safe(text).split(" "):
            if not is_empty and cells(line) + 1 + cells(word) > width:
                lines.append(line)
                line, is_empty = " " * min(indent + 2, width - 1), True
            line += word if is_empty else f" {word}"
            is_empty = False
            while cells(line) > width:
                head = _head(line, width)
                lines.append(head)
                line = line[len(head) :]
        return [*lines, line.rstrip()]


def cells(text: str) -> int:
    """Columns that it takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_cells, text))


@lru_cache(maxsize=4096)
def _cells(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def _head(text: str, width: int) -> str:
    """As much of it as fits, and at least one character, so that whoever cuts gets on."""
    left = width
    for number, char in enumerate(text):
        left -= _cells(char)
        if left < 0:
            return text[: max(1, number)]
    return text


def kind_of(word: str) -> Style:
    """Whether a state is good news, as the other commands colour it."""
    low = word.lower()
    return "good" if low in _GOOD else "doubtful" if low in _DOUBTFUL else "bad"


# -- the list ----------------------------------------------------------------------------------------------------------


def items_of(scene: Scene, ui: Ui, now: float) -> list[Item]:
    """What can be chosen, section by section, in each the worst first."""
    wanted = ui.filter.casefold()
    return [
        item
        for item in _items(scene, now)
        if not wanted or wanted in f"{item.name} {item.word} {item.text} {item.more} {item.key}".casefold()
    ]


def _items(scene: Scene, now: float) -> Iterator[Item]:
    for wants in sorted(_waiting(scene, now), key=lambda w: w.approval.expires):
        one = wants.approval
        yield Item(
            "approval",
            one.plan,
            "waits",
            "doubtful",
            one.expires,
            f"{wants.steps}{f' ({one.why})' if one.why else ''}",
            wants.subject,
            wants.subject,
            one.incident,
        )
    worst: dict[str, int] = {}
    for found in sorted(scene.incidents, key=lambda o: (-_SEVERITIES.index(o.incident.severity), -began(o.incident))):
        incident = found.incident
        worst.setdefault(incident.subject, _SEVERITIES.index(incident.severity))
        yield Item(
            "incident",
            incident.id,
            f"{incident.fault}, {incident.state.value}",
            kind_of(incident.state.value),
            began(incident),
            incident.summary,
            incident.subject,
            incident.subject,
            incident.id,
            decided(found.decision, now),
        )
    order = {"bad": 0, "doubtful": 1, "good": 2}
    for subject in sorted(scene.seen.subjects, key=lambda s: (order[kind_of(s.state)], -worst.get(s.name, -1), s.name)):
        yield Item(
            "subject",
            subject.name,
            subject.state,
            kind_of(subject.state),
            subject.since,
            subject.summary,
            subject.name,
            subject.name,
        )
    for pause in scene.pauses:
        if pause.until > now:
            yield Item(
                "pause",
                pause.id,
                "maintenance" if pause.kind == "maintenance" else "paused",
                "doubtful",
                pause.until,
                f"by {pause.who}{f': {pause.reason}' if pause.reason else ''}",
                "everything" if pause.target == "*" else pause.target,
                pause.target,
            )


def _waiting(scene: Scene, now: float) -> list[Wanted]:
    return [w for w in scene.approvals if w.approval.expires > now]


def decided(decision: Decision | None, now: float) -> str:
    """What was decided last, by which check, and why."""
    if decision is None:
        return "nothing was decided about it yet"
    about = f"{decision.action} on {decision.target} " if decision.action else ""
    if decision.answer is Answer.ALLOW:
        return f"{about}allowed {ago(now - decision.at)}: {decision.sentence}"
    verdict = "denied" if decision.answer is Answer.DENY else "held"
    until = f", until {ago(now - decision.until)}" if decision.until is not None and decision.until > now else ""
    return f"{about}{verdict} {ago(now - decision.at)} ({decision.check}{until}): {decision.sentence}"


def settled(ui: Ui, scene: Scene, now: float) -> Ui:
    """With something chosen that is there."""
    items = items_of(scene, ui, now)
    at = next((n for n, item in enumerate(items) if (item.kind, item.key) == ui.chosen), None)
    return ui if at == ui.place or (at is None and not items) else _chosen(ui, items, ui.place if at is None else at)


def _chosen(ui: Ui, items: Sequence[Item], at: int) -> Ui:
    at = max(0, min(at, len(items) - 1))
    return replace(ui, chosen=(items[at].kind, items[at].key), place=at) if items else ui


def _choice(ui: Ui, items: Sequence[Item]) -> Item | None:
    return next((item for item in items if (item.kind, item.key) == ui.chosen), None)


# -- drawing -----------------------------------------------------------------------------------------------------------


def draw(scene: Scene, ui: Ui, width: int, height: int, look: Look, now: float) -> Frame:
    """The whole screen: never more lines than the height, none wider than the width."""
    if width < LEAST[0] or height < LEAST[1]:
        said = f"This terminal has {width}x{height}; {LEAST[0]}x{LEAST[1]} are needed. Make it larger, or press q."
        small = [Line((Span(text),)) for text in look.wrapped(said, width)]
        return Frame(tuple(small[:height]) if width > 0 else ())
    items = items_of(scene, ui, now)
    head = _head_lines(scene, ui, width, height, look, now)
    foot = _foot_lines(scene, ui, items, width, height, look, now)
    page = height - len(head) - len(foot)
    if ui.view == "list":
        body, top = _list_lines(scene, ui, items, width, page, height >= ROOMY, look, now), 0
    else:
        body, top = _text_lines(scene, ui, width, page, look, now)
    body += [Line()] * (page - len(body))
    return Frame(tuple(_clamped(line, width) for line in (*head, *body, *foot)), top, page)


def _clamped(line: Line, width: int) -> Line:
    left = width
    kept = []
    for span in line.spans:
        text = _head(span.text, left)
        text = text if cells(text) <= left else ""
        kept.append(replace(span, text=text))
        left -= cells(text)
    return replace(line, spans=tuple(kept))


def overall(scene: Scene) -> tuple[str, Style]:
    """How everything is, in words."""
    count = len(scene.seen.subjects)
    ill = sum(1 for s in scene.seen.subjects if s.state != "well")
    last = "" if scene.seen.is_live else " when last seen"
    if not count:
        text, style = "nothing is watched", "doubtful"
    elif not ill:
        text, style = (f"all {count} are well" if count > 1 else "the one subject is well"), "good"
    else:
        text, style = f"{ill} of {count} {'is' if ill == 1 else 'are'} not well", "bad"
    if scene.incidents:
        text, style = f"{text}{last}, {plural(len(scene.incidents), 'open incident')}", "bad"
    else:
        text = f"{text}{last if count else ''}"
    found: Style = "bad" if style == "bad" else "good" if style == "good" and scene.seen.is_live else "doubtful"
    return text, found


def source(scene: Scene, now: float) -> tuple[tuple[str, ...], Style]:
    """Whose word the picture is, and how old; at length, and ever shorter for those who have no room."""
    seen, daemon = scene.seen, scene.daemon
    age = f"last looked at {ago(now - seen.at)}" if seen.at is not None else "nothing was ever looked at"
    if daemon is None:
        return (f"No daemon runs: nothing is watched or healed now; from the store, {age}", f"No daemon; {age}"), "bad"
    if seen.is_live:
        asked = now - (seen.at or now)
        told = f"daemon pid {daemon.pid}, {'live' if asked < FRESH else f'asked {ago(asked)}'}"
        return (told,), "faint"
    why = seen.live.trouble if seen.live is not None else "it was not asked"
    silent = f"daemon pid {daemon.pid} could not be asked"
    return (f"{silent} ({why}); from the store, {age}", f"{silent}; {age}", f"daemon silent; {age}"), "doubtful"


def notices(scene: Scene, now: float) -> list[tuple[str, Style]]:
    """What everybody has to know before anything else."""
    found: list[tuple[str, Style]] = []
    if scene.trouble:
        found.append((f"This is not read anew: {scene.trouble}", "bad"))
    for flag in FLAGS:
        is_on = scene.flags.get(flag.name, flag.default)
        if flag.name == "auto_healing" and not is_on:
            found.append(
                ("auto_healing is off: nothing is healed; `x0tta6bl4 flags auto_healing on` switches it on", "bad")
            )
        elif is_on != flag.default:
            found.append((f"{flag.name} is {'on' if is_on else 'off'}: {flag.meaning}", "doubtful"))
    for pause in scene.pauses:
        if pause.until > now:
            what = "everything is" if pause.target == "*" else f"{pause.target} is"
            kind = "in maintenance" if pause.kind == "maintenance" else "paused"
            why = f": {pause.reason}" if pause.reason else ""
            found.append((f"{what} {kind} by {pause.who}, ends {ago(now - pause.until)}{why}", "doubtful"))
    for condition in scene.seen.live.conditions if scene.seen.live is not None else ():
        if condition.get("code") not in SAID:
            found.append((f"! {condition.get('title', '')}: {condition.get('meaning', '')}", "doubtful"))
    return found


def _head_lines(scene: Scene, ui: Ui, width: int, height: int, look: Look, now: float) -> list[Line]:
    text, style = overall(scene)
    name = "x0tta6bl4: " if width >= 60 else ""
    text = text if name else text.replace(" when last seen", "")  # the line below says so too
    lines = [Line((Span(name, "strong"), Span(look.fitted(text, width - len(name)), style)))]
    texts, style = source(scene, now)
    text = next((t for t in texts if cells(look.safe(t)) <= width), texts[-1])
    lines.append(Line((Span(look.fitted(text, width), style),)))
    told = notices(scene, now)
    room = max(1, height // 6)
    if len(told) > room:
        told = [*told[: room - 1], (f"{len(told) - room + 1} notices{' more' * (room > 1)}: n tells them", "bad")]
    lines += [Line((Span(look.fitted(text, width), style),)) for text, style in told]
    if ui.filter and ui.view == "list":
        lines.append(Line((Span(look.fitted(f"only what has {ui.filter!r}; Esc shows all", width), "doubtful"),)))
    return lines


def _list_lines(
    scene: Scene, ui: Ui, items: Sequence[Item], width: int, page: int, is_roomy: bool, look: Look, now: float
) -> list[Line]:
    names = max((cells(look.safe(item.name)) for item in items), default=1)
    words = max((cells(look.safe(item.word)) for item in items), default=1)
    names, words = min(names, max(10, width // 4)), min(words, max(10, width // 4))
    has_time = width >= 60
    left = width - 2 - names - 2 - words - 2 - has_time * (TIME + 2)
    # What stands on each line is settled first and drawn after, only where it can be seen.
    plan: list[tuple[str, Item | None, bool]] = []
    at = 0
    for kind, title in TITLES.items():
        mine = [item for item in items if item.kind == kind]
        if mine:
            plan.append((f"{title} ({len(mine)})", None, False))
        elif kind in ("incident", "subject"):
            plan.append((f"{title}: none{' that the filter lets through' if ui.filter else ''}", None, False))
        for item in mine:
            is_chosen = (item.kind, item.key) == ui.chosen
            if is_chosen:
                at = len(plan)
            plan.append(("", item, is_chosen))
            if item.more and (is_roomy or is_chosen):
                plan.append((item.more, item, is_chosen))
    if not scene.seen.subjects and not ui.filter:
        plan.append(("Name a subject in the configuration; `x0tta6bl4 config reference` shows how.", None, True))
    top = max(0, min(at - page // 2, len(plan) - page))
    lines = []
    for text, shown, is_chosen in plan[top : top + page]:
        if shown is None:
            hint = "" if has_time or is_chosen else " (times need 60 columns)"
            whole = look.fitted(f"  {text}" if is_chosen else f"{look.rule * 2} {text}{hint} ", width)
            rule = "" if is_chosen else look.rule * (width - cells(whole))
            lines.append(Line((Span(whole + rule, "faint" if is_chosen else "strong"),)))
        elif text:
            more = look.fitted(f"      {text}", width, fill=is_chosen)
            lines.append(Line((Span(more, "" if is_chosen else "faint"),), is_chosen))
        else:
            time = look.fitted(ago(now - shown.at), TIME, fill=True) + "  " if has_time else ""
            rest = look.fitted(shown.text, left, fill=is_chosen)
            lines.append(
                Line(
                    (
                        Span("> " if is_chosen else "  "),
                        Span(look.fitted(shown.name, names, fill=True) + "  ", "strong"),
                        Span(look.fitted(shown.word, words, fill=True), shown.style),
                        Span(f"  {time}", "faint"),
                        Span(rest if is_chosen else rest.rstrip()),
                    ),
                    is_chosen,
                )
            )
    return lines


def _text_lines(scene: Scene, ui: Ui, width: int, page: int, look: Look, now: float) -> tuple[list[Line], int]:
    if ui.view == "help":
        told: Told = (Paragraph("Keys", style="strong"), Rows(("KEY", "WHAT IT DOES"), HELP))
    elif ui.view == "notices":
        texts, style = source(scene, now)
        told = tuple(Paragraph(text, style=style) for text, style in [(texts[0], style), *notices(scene, now)])
    elif scene.told_of == ui.looking_at:
        told = scene.told
    else:
        told = (Paragraph(f"Reading about {ui.looking_at} ..."),)
    lines = [line for block in told for line in _block_lines(block, width, look)]
    if len(lines) <= page:
        return lines, 0
    top = max(0, min(ui.top, len(lines) - page + 1))
    shown = lines[top : top + page - 1]
    below = " (more below)" if top + len(shown) < len(lines) else ""
    place = f"{look.rule * 2} lines {top + 1} to {top + len(shown)} of {len(lines)}{below}"
    return [*shown, Line((Span(look.fitted(place, width), "faint"),))], top


def _block_lines(block: Paragraph | Rows, width: int, look: Look) -> Iterator[Line]:
    if isinstance(block, Paragraph):
        for text in look.wrapped(block.text, width, block.indent):
            yield Line((Span(text, block.style),))
        return
    table = [block.titles, *block.rows]
    widths = [
        min(max(cells(look.safe(row[n])) for row in table), max(8, width // 4)) for n in range(len(block.titles) - 1)
    ]
    taken = sum(widths) + 2 * len(widths)
    for number, row in enumerate(table):
        style: Style = "faint" if number == 0 else ""
        cut = [look.fitted(cell, w, fill=True) + "  " for cell, w in zip(row, widths, strict=False)]
        first, *rest = look.wrapped(row[-1], max(1, width - taken))
        yield Line((Span("".join(cut), "faint"), Span(first, style)))
        for text in rest:
            yield Line((Span(" " * taken), Span(text, style)))


def _foot_lines(
    scene: Scene, ui: Ui, items: Sequence[Item], width: int, height: int, look: Look, now: float
) -> list[Line]:
    prompt = ui.prompt
    if prompt is not None:
        label, keys = ASKED[prompt.steps[0]]
        lines = [Line((Span(text, "strong"),)) for text in look.wrapped(prompt.question, width)[:2] if text]
        if prompt.wrong:
            lines.append(Line((Span(look.fitted(prompt.wrong, width), "bad"),)))
        ask = look.fitted(label, width - 18) + ": "
        typed = look.safe(prompt.text[-CUT:])
        while cells(typed) > width - cells(ask) - 1:
            typed = typed[1:]  # the end is what is being typed
        lines.append(Line((Span(ask), Span(typed, "strong"), Span(" " if look.is_unicode else "_", "cursor"))))
        return [*lines, Line((Span(look.fitted(keys, width), "faint"),))]
    lines = []
    if ui.message:
        style: Style = "bad" if ui.is_bad else "good"
        text = look.wrapped(ui.message, width)
        room = 2 if height < ROOMY else 4
        shown = text[:room]
        if len(text) > room:
            shown[-1] = look.fitted(shown[-1] + " " + text[room], width)
        lines = [Line((Span(line, style),)) for line in shown]
    return [*lines, _keys_line(_keys(scene, ui, items, look, now), width)]


def _keys(scene: Scene, ui: Ui, items: Sequence[Item], look: Look, now: float) -> list[tuple[str, str]]:
    arrows = "↑↓" if look.is_unicode else "j/k"
    found = [(arrows, "move"), ("Enter", "why")] if ui.view == "list" else [("Esc", "back"), (arrows, "scroll")]
    if _answerable(scene, ui, _choice(ui, items), now) is not None:
        found += [("a", "approve"), ("x", "reject")]
    found.append(("p", "pause"))
    if any(p.until > now for p in scene.pauses):
        found.append(("u", "resume"))
    return [*found, *([("/", "filter")] if ui.view == "list" else []), ("?", "help"), ("q", "quit")]


def _keys_line(keys: Sequence[tuple[str, str]], width: int) -> Line:
    """As many as fit; how to get help and how to leave always do."""
    kept = list(keys)
    while len(kept) > 2 and sum(cells(key) + len(word) + 3 for key, word in kept) - 2 > width:
        kept.pop(-3)
    spans: list[Span] = []
    for key, word in kept:
        spans += [Span(("  " if spans else "") + key, "strong"), Span(f" {word}", "faint")]
    return Line(tuple(spans))


# -- keys --------------------------------------------------------------------------------------------------------------


def press(ui: Ui, scene: Scene, key: str, page: int, now: float) -> tuple[Ui, Deed | None]:
    """What a key leads to. Keys are their character, or their name: ``up``, ``enter``, ``esc``, ``pgdn``, …"""
    if key == "ctrl-l":
        return ui, Deed("repaint")
    if ui.prompt is not None:
        return _typed(ui, ui.prompt, scene, key, now)
    ui = replace(ui, message="", is_bad=False)
    items = items_of(scene, ui, now)
    choice = _choice(ui, items)
    match key:
        case "q":
            return ui, Deed("quit")
        case "?" | "n":
            return replace(ui, view="help" if key == "?" else "notices", top=0), None
        case "esc" | "left" | "backspace":
            return (replace(ui, view="list", top=0) if ui.view != "list" else replace(ui, filter="")), None
        case "a" | "x":
            return _ask_answer(ui, _answerable(scene, ui, choice, now), key == "a"), None
        case "p":
            subject = _subject(scene, ui, choice)
            question = "Keep the daemon's hands off for a while; it goes on watching."
            return replace(ui, prompt=Prompt("pause", question, ("target", "for", "reason"), subject)), None
        case "u":
            return _ask_resume(ui, scene, choice, now), None
    if ui.view != "list":
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": 1 - page, "pgdn": page - 1, " ": page - 1}
        ends = {"home": 0, "g": 0, "end": 1 << 30, "G": 1 << 30}
        return replace(ui, top=max(0, ends.get(key, ui.top + steps.get(key, 0)))), None
    if key == "/":
        return replace(ui, prompt=Prompt("filter", "", ("filter",), ui.filter)), None
    if key in ("enter", "right"):
        target = "" if choice is None else choice.incident or (choice.subject if choice.kind == "subject" else "")
        if not target:
            return replace(ui, message="There is nothing more to tell about this line."), None
        return replace(ui, view="told", looking_at=target, top=0), Deed("look")
    moves = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": 1 - page, "pgdn": page - 1, " ": page - 1}
    ends = {"home": 0, "g": 0, "end": len(items), "G": len(items)}
    if key == "tab":
        kinds = [item.kind for item in items]
        later = [kind for kind in TITLES if kind in kinds]
        after = (later.index(choice.kind) + 1) % len(later) if choice is not None else 0
        return (_chosen(ui, items, kinds.index(later[after])) if items else ui), None
    if key in moves or key in ends:
        here = items.index(choice) if choice is not None else 0
        return _chosen(ui, items, ends.get(key, here + moves.get(key, 0))), None
    return ui, None


def _answerable(scene: Scene, ui: Ui, choice: Item | None, now: float) -> Wanted | None:
    """What waits for an answer about that which is looked at; None also when two wait and nobody said which."""
    waiting = _waiting(scene, now)
    if ui.view == "list" and choice is not None and choice.kind == "approval":
        return next((w for w in waiting if w.approval.plan == choice.key), None)
    if ui.view == "told":
        about = {ui.looking_at}
    elif ui.view == "list" and choice is not None:
        about = {choice.incident} if choice.incident else {choice.subject}
    else:
        return None
    fitting = [w for w in waiting if w.approval.incident in about or w.subject in about]
    return fitting[0] if len(fitting) == 1 else None


def _subject(scene: Scene, ui: Ui, choice: Item | None) -> str:
    if ui.view == "told":
        known = {o.incident.id: o.incident.subject for o in scene.incidents}
        is_subject = ui.looking_at in {s.name for s in scene.seen.subjects}
        return known.get(ui.looking_at, ui.looking_at if is_subject else "")
    return choice.subject if choice is not None else "*"


def _ask_answer(ui: Ui, wants: Wanted | None, is_yes: bool) -> Ui:
    if wants is None:
        said = "Nothing waits for an answer about this line; what does stands first in the list."
        return replace(ui, message=said, is_bad=True)
    verb = "Approve" if is_yes else "Reject"
    plan = wants.approval.plan
    question = f"{verb} {wants.steps} ({plan})?"
    return replace(
        ui, prompt=Prompt("approve" if is_yes else "reject", question, ("why",), given={"plan": plan, "why": ""})
    )


def _ask_resume(ui: Ui, scene: Scene, choice: Item | None, now: float) -> Ui:
    targets = list(dict.fromkeys(p.target for p in scene.pauses if p.until > now))
    subject = _subject(scene, ui, choice)
    fitting = [t for t in targets if t == subject] or [t for t in targets if fnmatchcase(subject, t)] or targets
    if len(fitting) != 1:
        said = "Nothing is paused." if not targets else "Several pauses are in force: choose one at the list's end."
        return replace(ui, message=said, is_bad=True)
    what = "everything" if fitting[0] == "*" else fitting[0]
    question = f"End every pause on {what}?"
    return replace(ui, prompt=Prompt("resume", question, ("sure",), given={"target": fitting[0]}))


def _typed(ui: Ui, prompt: Prompt, scene: Scene, key: str, now: float) -> tuple[Ui, Deed | None]:
    step = prompt.steps[0]
    if key == "esc":
        return replace(ui, prompt=None, filter="" if prompt.what == "filter" else ui.filter), None
    if key == "enter":
        return _answered(ui, prompt, step)
    if key in ("backspace", "ctrl-u"):
        prompt = replace(prompt, text=prompt.text[:-1] if key == "backspace" else "", wrong="")
    elif len(key) == 1 and key.isprintable() and len(prompt.text) < LONGEST and step != "sure":
        prompt = replace(prompt, text=prompt.text + key, wrong="")
    ui = replace(ui, prompt=prompt)
    if prompt.what == "filter":
        ui = settled(replace(ui, filter=prompt.text), scene, now)
    return ui, None


def _answered(ui: Ui, prompt: Prompt, step: str) -> tuple[Ui, Deed | None]:
    if prompt.what == "filter":
        return replace(ui, prompt=None), None
    text = prompt.text.strip()
    wrong = ""
    if step == "target" and not text:
        wrong = "a name is needed; * is everything"
    if step == "for":
        try:
            duration(text)
        except ArgumentTypeError as error:
            wrong = str(error)
    if wrong:
        return replace(ui, prompt=replace(prompt, wrong=wrong)), None
    given = {**prompt.given, **({} if step == "sure" else {step: text})}
    if len(prompt.steps) > 1:
        return replace(ui, prompt=replace(prompt, steps=prompt.steps[1:], given=given, text="", wrong="")), None
    return replace(ui, prompt=None), Deed(prompt.what, given)
