"""The terminal view on paper: what is drawn at any size, and what keys lead to."""

import unicodedata
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.cli.completion import bash, fish, zsh
from x0tta6bl4.cli.grammar import build
from x0tta6bl4.cli.live import Now, Picture
from x0tta6bl4.cli.picture import Seen
from x0tta6bl4.cli.places import Holder
from x0tta6bl4.cli.screen import (
    ASKED,
    LEAST,
    LONGEST,
    Deed,
    Frame,
    Look,
    Open,
    Paragraph,
    Prompt,
    Rows,
    Scene,
    Ui,
    Wanted,
    cells,
    decided,
    draw,
    items_of,
    notices,
    overall,
    press,
    settled,
    source,
)
from x0tta6bl4.cli.tui import Collected
from x0tta6bl4.kernel.facts import Answer, Incident, IncidentState, Plan, Severity, Step
from x0tta6bl4.kernel.memory import Approval, Decision, Pause

NOW = 1_700_000_000.0
LOOK = Look()


def now(name: str, state: str = "well", summary: str = "every probe says yes") -> Now:
    return Now(name, state, NOW - 300, summary)


def incident(subject: str, severity: Severity = Severity.CRITICAL, **more: Any) -> Incident:
    made = Incident(f"inc-{subject}", subject, "hung", IncidentState.OPEN, severity, "no answer", NOW - 90, NOW)
    return replace(made, **more)


def wanted(subject: str, number: int = 1, expires: float = NOW + 600) -> Wanted:
    id = f"plan-{subject}-{number}"
    step = Step(f"{id}.1", "process.restart", subject)
    plan = Plan(id, f"inc-{subject}", subject, "hung", "hung", "restart", (step,), ())
    return Wanted(Approval(id, "wanted", "", "mode approve", NOW, expires, f"inc-{subject}"), plan)


def pause(target: str = "web", until: float = NOW + 1800) -> Pause:
    return Pause(f"pause-{target}", target, "pause", "deploy", "oncall@cli", NOW, until)


def held(subject: str, **more: Any) -> Decision:
    return Decision(
        subject, f"inc-{subject}", "plan", "step", "backoff", Answer.HOLD, "2 tries did not help", at=NOW - 5, **more
    )


def scene(*subjects: Now, **more: Any) -> Scene:
    return Scene(Seen(subjects, None, NOW - 5, False), **more)


BUSY = scene(
    now("api"),
    now("web", "hung", "web does not answer"),
    now("queue", "unknown", "nobody could look"),
    now("db", "dead", "no process"),
    incidents=(Open(incident("db"), held("db", until=NOW + 240)), Open(incident("web", Severity.WARNING))),
    approvals=(wanted("web"),),
    pauses=(pause(),),
)


def drawn(of: Scene = BUSY, ui: Ui | None = None, width: int = 100, height: int = 30, look: Look = LOOK) -> Frame:
    return draw(of, settled(Ui(), of, NOW) if ui is None else ui, width, height, look, NOW)


def text(frame: Frame) -> str:
    return "\n".join(line.text for line in frame.lines)


def typed(ui: Ui, *keys: str, of: Scene = BUSY) -> tuple[Ui, list[Deed]]:
    """What a row of keys leads to; a word that is no key is typed letter by letter."""
    deeds = []
    for word in keys:
        named = ("enter", "esc", "up", "down", "tab", "backspace", "pgdn", "pgup", "home", "end", "ctrl-u")
        for key in [word] if word in named else list(word):
            ui, deed = press(ui, of, key, 10, NOW)
            ui = settled(ui, of, NOW)
            if deed is not None:
                deeds.append(deed)
    return ui, deeds


def names(of: Scene, ui: Ui | None = None) -> list[tuple[str, str]]:
    return [(item.kind, item.name) for item in items_of(of, ui or Ui(), NOW)]


# -- never anything that a terminal could trip over --------------------------------------------------------------------

anything = st.text(max_size=40) | st.text("a\x1b[2J\r\n\t\x9b\u202e漢👍\u0301\ufe0f\udc80", max_size=40)
times = st.floats(min_value=-1e12, max_value=1e12) | st.just(NOW)
subjects = st.builds(Now, anything, anything | st.sampled_from(["well", "dead", "unknown"]), times, anything)
incidents = st.builds(
    lambda *given: Open(*given),
    st.builds(
        Incident,
        anything,
        anything,
        anything,
        st.sampled_from(IncidentState),
        st.sampled_from(Severity),
        anything,
        times,
        times,
    ),
    st.none() | st.builds(Decision, *[anything] * 5, st.sampled_from(Answer), anything, st.none() | times, times),
)
scenes = st.builds(
    Scene,
    st.builds(
        Seen,
        st.lists(subjects, max_size=8),
        st.none() | st.builds(lambda t: Picture((), ({"code": t, "title": t, "meaning": t},), (t,), t), anything),
        st.none() | times,
        st.booleans(),
    ),
    st.none() | st.just(Holder(7, "", "", Path("/nowhere"), "")),
    st.lists(incidents, max_size=4).map(tuple),
    st.lists(st.builds(lambda t: wanted(t or "x"), anything), max_size=3).map(tuple),
    st.lists(st.builds(lambda t: replace(pause(t), reason=t, who=t), anything), max_size=3).map(tuple),
    st.dictionaries(st.sampled_from(["auto_healing", "monitoring_verbose", "other"]), st.booleans()),
    st.lists(
        st.builds(Paragraph, anything, st.integers(0, 90))
        | st.builds(lambda a, b: Rows((a, b, "", a), ((a, b, a, b), ("", a, b, ""))), anything, anything),
        max_size=6,
    ).map(tuple),
    st.just("inc-web"),
    anything,
)
prompts = st.builds(
    lambda question, step, text, wrong: Prompt("pause", question, (step,), text, {}, wrong),
    anything,
    st.sampled_from(list(ASKED)),
    anything,
    anything,
)
uis = st.builds(
    Ui,
    view=st.sampled_from(["list", "told", "help", "notices"]),
    looking_at=st.sampled_from(["inc-web", "other"]),
    top=st.integers(0, 200),
    filter=st.just("") | anything,
    prompt=st.none() | prompts,
    message=anything | anything.map(lambda t: t * 20),
    is_bad=st.booleans(),
)


@given(scenes, uis, st.integers(0, 200), st.integers(0, 60), st.booleans(), st.integers(0, 20))
def test_no_line_is_wider_than_the_terminal_none_too_many_and_none_commands_it(
    of: Scene, ui: Ui, width: int, height: int, is_unicode: bool, chosen: int
) -> None:
    frame = draw(of, settled(replace(ui, place=chosen), of, NOW), width, height, Look(is_unicode), NOW)

    assert len(frame.lines) <= height
    for line in frame.lines:
        assert line.text.isprintable() and cells(line.text) <= width
        assert is_unicode or line.text.isascii()
        assert all(unicodedata.category(char)[0] != "C" for char in line.text)


KEYS = ["up", "down", "pgdn", "tab", "end", "enter", "esc", *"aupxq/?n g"]


@given(scenes, st.lists(st.sampled_from(KEYS), max_size=12))
def test_no_row_of_keys_leads_to_where_nothing_can_be_drawn(of: Scene, keys: list[str]) -> None:
    ui = settled(Ui(), of, NOW)
    for key in keys:
        ui, deed = press(ui, of, key, 10, NOW)
        ui = settled(ui, of, NOW)
        assert deed is None or deed.what != "approve" or deed.given["plan"] in {w.approval.plan for w in of.approvals}
        frame = draw(of, ui, 80, 24, LOOK, NOW)
        assert len(frame.lines) == 24


@given(st.text(max_size=60), st.integers(0, 40))
def test_what_is_cut_keeps_whole_characters_and_says_so(given_text: str, width: int) -> None:
    cut = LOOK.fitted(given_text, width)
    whole = LOOK.safe(given_text)

    assert cells(cut) <= width
    assert cut == whole if cells(whole) <= width else cut.endswith("…") or width == 0


@given(st.text("ab 漢\u0301", max_size=200), st.integers(4, 30), st.integers(0, 10))
def test_what_is_wrapped_loses_nothing(given_text: str, width: int, indent: int) -> None:
    lines = LOOK.wrapped(given_text, width, indent)

    assert all(cells(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(LOOK.safe(given_text).split())


def test_marks_cannot_pile_up_or_sit_on_a_neighbour() -> None:
    assert LOOK.safe("\u0301a" + "\u0301" * 9 + "☁\ufe0f") == "a\u0301\u0301☁"
    assert LOOK.safe("a\x1b[2J\u202e\x9b") == r"a\x1b[2J\u202e\x9b"
    assert Look(is_unicode=False).safe("wéb 漢") == "w?b ?"


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_the_worst_comes_first_in_every_section() -> None:
    assert names(BUSY) == [
        ("approval", "web"),
        ("incident", "db"),
        ("incident", "web"),
        ("subject", "db"),
        ("subject", "web"),
        ("subject", "queue"),
        ("subject", "api"),
        ("pause", "web"),
    ]


def test_everything_stands_on_one_screen() -> None:
    told = text(drawn())

    for words in (
        "3 of 4 are not well when last seen, 2 open incidents",
        "No daemon runs: nothing is watched or healed now; from the store, last looked at 5.0 s ago",
        "web is paused by oncall@cli, ends in 30 min: deploy",
        "Waiting for your answer (1)",
        "process.restart on web (mode approve)",
        "held 5.0 s ago (backoff, until in 4 min): 2 tries did not help",
        "nothing was decided about it yet",
        "Watched (4)",
        "Pauses (1)",
        "a approve",
        "u resume",
    ):
        assert words in told


def test_states_are_told_in_words_and_in_colour() -> None:
    styles = {line.spans[2].text.strip(): line.spans[2].style for line in drawn().lines if len(line.spans) == 5}

    assert styles["dead"] == "bad" and styles["unknown"] == "doubtful" and styles["well"] == "good"


@pytest.mark.parametrize(
    ("of", "words", "style"),
    [
        (scene(), "nothing is watched", "doubtful"),
        (scene(now("a")), "the one subject is well when last seen", "doubtful"),
        (scene(now("a"), now("b", "dead")), "1 of 2 is not well when last seen", "bad"),
        (Scene(Seen((now("a"), now("b")), Picture(), NOW, True)), "all 2 are well", "good"),
        (Scene(Seen((now("a"),), Picture(), NOW, True), incidents=(Open(incident("b")),)), "1 open incident", "bad"),
    ],
)
def test_the_head_says_how_everything_is(of: Scene, words: str, style: str) -> None:
    said, colour = overall(of)
    assert words in said and colour == style


def test_the_head_says_whose_word_it_is_and_how_old(tmp_path: Any) -> None:
    daemon = Holder(42, "", "", tmp_path)
    live = Seen((), Picture(), NOW - 1, True)
    silent = Seen((), Picture(trouble="it does not answer"), NOW - 60, False)

    def said(seen: Seen, daemon: Holder | None, at: float = NOW) -> str:
        return source(Scene(seen, daemon), at)[0][0]

    assert said(live, daemon) == "daemon pid 42, live"
    assert "asked 2 min ago" in said(live, daemon, NOW + 119)
    assert "could not be asked (it does not answer); from the store, last looked at 60 s ago" in said(silent, daemon)
    assert "nothing was ever looked at" in said(Seen((), None, None, False), None)
    narrow = text(drawn(Scene(silent, daemon), width=40, height=12))
    assert "daemon silent; last looked at 60 s ago" in narrow
    assert "(it does not answer)" in text(drawn(Scene(silent, daemon), Ui(view="notices"), width=60, height=12))


def test_flags_pauses_and_conditions_are_told_in_the_head_and_in_full_by_a_key() -> None:
    picture = Picture(conditions=({"code": "disk", "title": "the disk", "meaning": "is full"}, {"code": "paused"}))
    of = Scene(
        Seen((now("web"),), picture, NOW, True),
        pauses=(pause("*"), pause("over", NOW - 1)),
        flags={"auto_healing": False, "monitoring_verbose": True, "pqc_required": False},
    )
    told = [words for words, _ in notices(of, NOW)]

    assert [words.split()[0] for words in told] == ["auto_healing", "monitoring_verbose", "everything", "!"]
    assert "the disk: is full" in text(drawn(of))
    small = text(drawn(of, width=60, height=12))
    assert "3 notices more: n tells them" in small and "the disk" not in small
    assert "the disk: is full" in text(drawn(of, typed(Ui(), "n", of=of)[0], 60, 20))


def test_a_small_terminal_says_what_does_not_fit() -> None:
    assert "3 notices" not in text(drawn(width=LEAST[0], height=LEAST[1]))
    small = text(drawn(width=LEAST[0], height=LEAST[1]))
    assert "3 of 4 are not well, 2 open incidents" in small and "No daemon; last looked at 5.0 s ago" in small
    assert "(times" in small and "? help  q quit" in small and "> web" in small
    assert "This terminal has 39x10; 40x10 are" in text(drawn(width=39, height=10))
    assert drawn(width=0, height=0).lines == ()


def test_every_item_can_be_reached_on_the_smallest_terminal() -> None:
    ui = settled(Ui(), BUSY, NOW)
    seen = set()
    for _ in names(BUSY):
        (chosen,) = [line for line in drawn(ui=ui, width=40, height=10).lines if line.text.startswith("> ")]
        assert chosen.chosen
        seen.add(ui.chosen)
        ui, _ = typed(ui, "down")
    assert len(seen) == len(names(BUSY))


def test_what_is_not_watched_or_not_open_is_said() -> None:
    told = text(drawn(scene()))

    assert "Open incidents: none" in told and "Watched: none" in told and "config reference" in told


def test_a_text_longer_than_the_screen_is_scrolled_to_its_end_and_not_beyond() -> None:
    of = replace(BUSY, told_of="web", told=tuple(Paragraph(f"line {n} of many") for n in range(50)))
    ui = Ui(view="told", looking_at="web")
    seen = text(drawn(of, ui, 60, 20))
    assert "line 0 " in seen and "(more below)" in seen

    frame = drawn(of, typed(ui, "end", of=of)[0], 60, 20)
    assert "line 49 " in text(frame) and "(more below)" not in text(frame)
    back = drawn(of, typed(replace(ui, top=frame.top), "k", of=of)[0], 60, 20)
    assert "line 48 " in text(back) and "line 49 " not in text(back)


def test_a_table_is_laid_out_for_the_width_and_its_last_column_wraps() -> None:
    rows = Rows(("WHEN", "WHAT", ""), (("12:00:00", "opened", "a long text " * 6),))
    of = replace(BUSY, told_of="web", told=(rows,))
    ui = Ui(view="told", looking_at="web")

    narrow, wide = drawn(of, ui, 50, 20), drawn(of, ui, 150, 20)
    assert text(wide).count("opened") == text(narrow).count("opened") == 1
    assert [line.text for line in wide.lines if "a long" in line.text] == [
        "12:00:00  opened  " + ("a long text " * 6).strip()
    ]
    assert len([line for line in narrow.lines if line.text.startswith(" " * 18) and "long" in line.text]) > 1


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (None, "nothing was decided about it yet"),
        (
            held("web", action="x.y", target="web"),
            "x.y on web held 5.0 s ago (backoff): 2 tries",
        ),
        (replace(held("web"), answer=Answer.DENY), "denied 5.0 s ago (backoff): 2 tries"),
        (replace(held("web"), answer=Answer.ALLOW), "allowed 5.0 s ago: 2 tries"),
    ],
)
def test_what_was_decided_last_is_told_with_its_reason(decision: Decision | None, words: str) -> None:
    assert decided(decision, NOW).startswith(words)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_the_choice_stays_where_it_is_while_the_list_moves() -> None:
    ui, _ = typed(settled(Ui(), BUSY, NOW), "end", "up")
    assert ui.chosen == ("subject", "api")

    more = replace(BUSY, incidents=(*BUSY.incidents, Open(incident("api"))))
    assert settled(ui, more, NOW).chosen == ("subject", "api")
    gone = replace(BUSY, seen=replace(BUSY.seen, subjects=BUSY.seen.subjects[1:]))
    assert settled(ui, gone, NOW).chosen == ("pause", "pause-web")


def test_tab_goes_from_section_to_section_and_round() -> None:
    ui = settled(Ui(), BUSY, NOW)
    kinds = []
    for _ in range(5):
        kinds.append(ui.chosen[0])
        ui, _ = typed(ui, "tab")
    assert kinds == ["approval", "incident", "subject", "pause", "approval"]


@pytest.mark.parametrize(("key", "what"), [("a", "approve"), ("x", "reject")])
@pytest.mark.parametrize("steps", [0, 2, 4], ids=["the question", "its incident", "its subject"])
def test_an_answer_is_asked_for_once_more_and_bound_to_what_was_shown(
    key: str, what: Literal["approve", "reject"], steps: int
) -> None:
    ui, deeds = typed(settled(Ui(), BUSY, NOW), *["down"] * steps, key)
    assert deeds == []
    assert "process.restart on web (plan-web-1)?" in text(drawn(ui=ui))

    newer = replace(BUSY, approvals=(wanted("web", 2), *BUSY.approvals))
    _, deeds = typed(ui, "it is fine", "backspace", "enter", of=newer)
    assert deeds == [Deed(what, {"plan": "plan-web-1", "why": "it is fin"})]


def test_an_answer_that_is_left_or_that_nothing_waits_for_does_nothing() -> None:
    ui, deeds = typed(settled(Ui(), BUSY, NOW), "a", "yes", "esc")
    assert deeds == [] and ui.prompt is None

    ui, deeds = typed(settled(Ui(), BUSY, NOW), "down", "a", "enter")  # of db, which nobody was asked about
    assert [deed.what for deed in deeds] == ["look"]
    ui, _ = typed(settled(Ui(), BUSY, NOW), "down", "a")
    assert ui.prompt is None and ui.is_bad and "Nothing waits" in ui.message
    late = replace(BUSY, approvals=(wanted("web", expires=NOW - 1),))
    assert ("approval", "web") not in names(late)
    two = replace(BUSY, approvals=(wanted("web", 1), wanted("web", 2)))
    ui, _ = typed(Ui(view="told", looking_at="inc-web"), "a", of=two)
    assert ui.prompt is None, "nobody said which of the two"


def test_a_pause_asks_what_for_how_long_and_why() -> None:
    ui, deeds = typed(settled(Ui(), BUSY, NOW), "p", "enter", "banana", "enter")
    assert ui.prompt is not None and "a duration such as" in ui.prompt.wrong and deeds == []
    assert "a duration such as" in text(drawn(ui=ui))

    ui, deeds = typed(ui, "ctrl-u", "30m", "enter", "deploy", "enter")
    assert deeds == [Deed("pause", {"target": "web", "for": "30m", "reason": "deploy"})] and ui.prompt is None
    ui, deeds = typed(ui, "p", "ctrl-u", "enter")
    assert ui.prompt is not None and "a name is needed" in ui.prompt.wrong and deeds == []


def test_a_pause_is_ended_by_where_one_stands_or_if_it_is_the_only_one() -> None:
    ui = settled(Ui(), BUSY, NOW)
    assert typed(ui, "u", "enter")[1] == [Deed("resume", {"target": "web"})]
    many = replace(BUSY, pauses=(pause("w*"), pause("d*"), pause("x")))
    assert typed(ui, "u", "enter", of=many)[1] == [Deed("resume", {"target": "w*"})]
    assert typed(ui, "end", "u", "enter", of=many)[1] == [Deed("resume", {"target": "x"})]
    ui, _ = typed(Ui(chosen=("subject", "api")), "u", of=many)
    assert ui.prompt is None and "choose one" in ui.message
    assert "Nothing is paused" in typed(Ui(), "u", of=scene(now("a")))[0].message


def test_the_filter_works_while_it_is_typed_and_esc_ends_it() -> None:
    ui, _ = typed(settled(Ui(), BUSY, NOW), "/", "QUE")
    assert names(BUSY, ui) == [("subject", "queue")] and ui.chosen == ("subject", "queue")

    ui, _ = typed(ui, "enter")
    assert "only what has 'QUE'" in text(drawn(ui=ui)) and "Open incidents: none that the filter" in text(drawn(ui=ui))
    ui, _ = typed(ui, "esc")
    assert len(names(BUSY, ui)) == len(names(BUSY)) and ui.chosen == ("subject", "queue")


def test_enter_tells_of_the_incident_or_the_subject_and_esc_comes_back_to_the_same_line() -> None:
    start = settled(Ui(), BUSY, NOW)
    ui, deeds = typed(start, "down", "enter")
    assert deeds == [Deed("look")] and (ui.view, ui.looking_at) == ("told", "inc-db")
    assert "Reading about inc-db" in text(drawn(ui=ui))
    assert typed(ui, "esc")[0].chosen == ("incident", "inc-db")
    assert typed(start, "end", "up", "enter")[0].looking_at == "api"
    assert "nothing more" in typed(start, "end", "enter")[0].message


def test_help_names_every_key_and_q_leaves_from_everywhere() -> None:
    told = text(drawn(ui=Ui(view="help"), height=40))
    assert all(f"\n{key} " in told for key in ("a", "x", "p", "u", "/", "n", "?", "q, Ctrl-C"))
    views: tuple[Literal["list", "told", "help", "notices"], ...] = ("list", "told", "help", "notices")
    for view in views:
        assert typed(Ui(view=view), "q")[1] == [Deed("quit")]
    assert typed(Ui(), "/", "q")[1] == []


def test_what_is_typed_is_bounded_and_takes_no_control_characters() -> None:
    ui, _ = typed(Ui(), "/", "a" * (LONGEST + 5))
    assert len(ui.filter) == LONGEST
    assert press(ui, BUSY, "\x07", 10, NOW)[0] == ui


def test_what_a_command_prints_is_collected_with_its_shape(capsys: pytest.CaptureFixture[str]) -> None:
    display = Collected(Namespace(output="table"))
    display.head("h")
    display.state("web", "dead", " since noon")
    display.line("l", 4)
    display.table(("A", "B"), [["1", "2"]])

    assert display.blocks == [
        Paragraph("h", style="strong"),
        Paragraph("web is dead since noon", style="bad"),
        Paragraph("l", 4),
        Rows(("A", "B"), (("1", "2"),)),
    ]
    assert capsys.readouterr().out == ""


def test_the_command_line_has_it_and_completes_it() -> None:
    assert build().parse_args(["tui"]).module == "tui"
    assert all("tui" in shell(build()) for shell in (bash, zsh, fish))
