"""The page, as people use it: a real Chromium before a real daemon that heals a real service."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.demo.breaker import ask
from x0tta6bl4.kernel.facts import Incident, IncidentState, Severity
from x0tta6bl4.kernel.judged import Judged, judged_data
from x0tta6bl4.kernel.memory import Signal
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations

from .browser import CHROMIUM, PASSWORD, SOON, House, Visit, house, tab, visiting
from .live import eventually

pytestmark = pytest.mark.face

FIRST_PAINT_BYTES = 150_000
QUIET_PER_MINUTE = 30
VIEWS = ("", "past", "figures", "controls", "account", "nowhere")
EVIL = '<img src=x onerror="window.evil=1"><script>window.evil=1</script>'
LONG = "unbroken" * 30 + " \U0001f525 Ünï 漢字"

STRANGE = """\
monitors:
  blindfold: {{use: command, every: 1s, subject: "<img src=x onerror='window.evil=1'>", argv: [/bin/sh, -c, exit 3]}}
  "<b>long</b>{long}": {{use: command, every: 1s, subject: "ünï 漢字 {long}", argv: [/bin/sh, -c, exit 3]}}
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: see requirements/face.in")
    pytest.importorskip("axe_core_python", reason="axe-core-python is not installed: see requirements/face.in")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is not there: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--headless=new"])
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="module")
def cared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A daemon that heals one service by itself and asks before it heals another."""
    operators = {"chief": "admin", "oncall": "operate", "reader": "read"}
    with house(tmp_path_factory.mktemp("page") / "cared", operators=operators) as one:
        yield one


# -- who may read --------------------------------------------------------------------------------------------------


def test_a_neighbour_sees_what_is_watched_and_nothing_comes_from_elsewhere(chromium: Any, cared: House) -> None:
    with visiting(chromium, cared) as visit:
        visit.go()
        visit.sees("of 2 subjects well.")
        watched = visit.part("What is watched")
        for name in ("sample", "asked"):
            assert watched.get_by_text(name, exact=True).is_visible()
        assert "local (read)" in visit.page.locator("#top").inner_text()
        visit.sees("live", timeout=SOON)
        visit.page.wait_for_load_state("load")
        first = {url: size for url, size in visit.weighed.items() if "/events" not in url}
        assert {"", "app.js", "app.css", "status"} <= {url.removeprefix(cared.url) for url in first}
        assert sum(first.values()) <= FIRST_PAINT_BYTES, first
        visit.go("controls")
        assert visit.page.get_by_role("button", name="Pause", exact=True).is_disabled()
        visit.sees("needs scope operate:")
        assert visit.page.get_by_role("switch", name="auto_healing").is_disabled()
        visit.sees("needs scope admin:")


def test_the_policy_stops_scripts_that_are_not_files_of_the_page(chromium: Any, cared: House) -> None:
    with visiting(chromium, cared, may_err=True) as visit:
        visit.go()
        visit.page.evaluate(
            """() => {
              document.body.append(Object.assign(document.createElement("script"), {textContent: "window.evil = 1"}));
              document.body.insertAdjacentHTML("beforeend", "<img src='icon.svg?' onload='window.evil = 2'>");
              document.body.insertAdjacentHTML("beforeend", "<p style='color: red'>styled</p>");
              document.body.append(Object.assign(document.createElement("script"), {src: "https://example.org/x.js"}));
              document.body.append(Object.assign(document.createElement("iframe"), {src: "/"}));
              fetch("https://example.org/").catch(() => {});
            }"""
        )
        visit.until("window.stopped.length >= 6")
        stopped = set(visit.page.evaluate("window.stopped"))
        assert stopped >= {"script-src-elem", "script-src-attr", "style-src-attr", "frame-src", "connect-src"}
        assert visit.page.evaluate("window.evil") is None
        visit.asked.clear()  # what was tried on purpose


def test_names_from_outside_are_shown_as_text_and_fit(chromium: Any, tmp_path: Path) -> None:
    strange = STRANGE.replace("{long}", "ab" * 40)
    with house(tmp_path / "strange", strange, operators={"chief": "admin"}) as one:
        one.do("POST", "/api/v1/pauses", target="*", reason=f"{EVIL} {LONG}", **{"for": "1h"})
        with visiting(chromium, one, "chief", viewport={"width": 360, "height": 700}) as visit:
            eventually("both blind spots", lambda: len(one.told("/status")["incidents"]) == 2)
            visit.go()
            visit.sees(EVIL)
            visit.sees("nothing is known of <img src=x onerror='window.evil=1'>")
            incidents = [incident["id"] for incident in one.told("/status")["incidents"]]
            for view in ("", "controls", *(f"incidents/{id}" for id in incidents)):
                visit.go(view)
                visit.settled()
                assert 0 >= visit.overflow(), view
            assert visit.page.evaluate("window.evil") is None
            assert 0 == visit.page.locator("main img, main script").count()


# -- signing in ----------------------------------------------------------------------------------------------------


def test_signing_in_and_ending_a_session_that_is_open_elsewhere(chromium: Any, cared: House) -> None:
    with visiting(chromium, cared, may_err=True) as here, visiting(chromium, cared, may_err=True) as there:
        here.sign_in("oncall", "a wrong password")
        alert = here.page.get_by_role("alert")
        alert.wait_for()
        assert "request" in alert.inner_text() and "x0tta6bl4 operators password" in alert.inner_text()
        assert "" == here.page.get_by_label("Password").input_value()
        assert [] == here.faults()
        for visit in (here, there):
            visit.sign_in("oncall")
            visit.sees("a signed-in operator")
            assert "oncall (operate)" in visit.page.locator("#top").inner_text()
        here.page.reload()
        rows = here.part("Sessions").get_by_role("row").filter(has_text="oncall")
        rows.nth(1).wait_for()
        assert 1 == rows.filter(has_text="this one").count()
        rows.filter(has_not_text="this one").first.get_by_role("button", name="End").click()
        there.sees("local (read)")
        there.go("controls")
        assert there.page.get_by_role("button", name="Pause", exact=True).is_disabled()
        here.page.get_by_role("button", name="Sign out").click()
        here.sees("You are signed out.")
        here.page.get_by_role("button", name="Sign in").wait_for()
        assert [] == here.page.context.cookies()
    assert all("Failed to load resource" in said for visit in (here, there) for said in visit.errors)


def test_a_session_ended_by_the_daemon_is_told_and_one_can_sign_in_again(chromium: Any, cared: House) -> None:
    with visiting(chromium, cared, may_err=True) as visit:
        visit.sign_in("oncall")
        visit.sees("a signed-in operator")
        visit.go("controls")
        visit.page.get_by_label("Target").fill("sample")
        for session in cared.told("/api/v1/sessions")["sessions"]:
            cared.do("DELETE", f"/api/v1/sessions/{session['id']}")
        cared.cookies.clear()
        visit.sees("needs scope operate:")
        assert "local (read)" in visit.page.locator("#top").inner_text()
        assert "sample" == visit.page.get_by_label("Target").input_value(), "what was typed is kept"
        visit.sign_in("oncall")
        visit.sees("a signed-in operator")
        assert all("Failed to load resource" in said for said in visit.errors)


# -- an incident ---------------------------------------------------------------------------------------------------


def test_an_incident_heals_before_ones_eyes(chromium: Any, cared: House) -> None:
    with visiting(chromium, cared) as visit:
        visit.go()
        visit.sees("2 of 2 subjects well.")
        visit.page.evaluate("window.stayed = true")
        cared.break_(cared.sample, "hang")
        visit.page.get_by_role("link", name="sample: hung").first.click()
        story = visit.part("Story")
        for phase in ("seen", "judged", "planned", "allowed", "done", "verified", "closed"):
            story.locator(f"li.{phase}").first.wait_for()
        visit.part("Signals around it").get_by_role("img", name=re.compile("^sample work_up:")).wait_for()
        visit.page.locator(".lead").get_by_text("healed").wait_for()
        visit.page.get_by_role("link", name="← Now").click()
        visit.sees("2 of 2 subjects well.")
        assert "healthy" == visit.head()
        assert visit.page.title().startswith("healthy")
        assert visit.page.evaluate("window.stayed"), "without a reload"
    phases = [line["phase"] for line in cared.told(f"/api/v1/incidents/{cared.healed()}")["timeline"]]
    told = [phase for phase in phases if phase in ("seen", "judged", "planned", "allowed", "done", "verified")]
    assert ["seen", "judged", "planned", "allowed", "done", "verified"] == list(dict.fromkeys(told))


def test_an_incident_has_an_address_and_the_way_back_works(chromium: Any, cared: House) -> None:
    id = cared.healed()
    with visiting(chromium, cared) as visit:
        visit.go(f"incidents/{id}")
        visit.page.get_by_role("heading", name="sample:", level=1).wait_for()
        visit.page.get_by_role("link", name="Past", exact=True).click()
        visit.page.get_by_role("heading", name="Past incidents").wait_for()
        visit.page.get_by_label("Subject").fill("sample")
        visit.page.get_by_role("button", name="Show").click()
        visit.page.wait_for_url("**/#/past?subject=sample")
        visit.page.locator(f"a[href='#/incidents/{id}']").click()
        visit.page.get_by_role("heading", name="sample:", level=1).wait_for()
        visit.page.go_back()
        visit.page.get_by_role("heading", name="Past incidents").wait_for()
        assert "sample" == visit.page.get_by_label("Subject").input_value()
        visit.page.go_back()
        visit.page.get_by_role("heading", name="Past incidents").wait_for()
        visit.page.go_back()
        visit.page.get_by_role("heading", name="sample:", level=1).wait_for()
        assert visit.page.url.endswith(f"#/incidents/{id}")


def test_an_incident_that_is_not_there_is_said_in_words(chromium: Any, cared: House) -> None:
    with visiting(chromium, cared, may_err=True) as visit:
        visit.go("incidents/inc-none")
        alert = visit.page.get_by_role("alert")
        alert.wait_for()
        assert "inc-none" in alert.inner_text()
        visit.go("incidents/%E0%A4%A%00")
        alert.wait_for()
        assert all("Failed to load resource" in said for said in visit.errors)


# -- how it was judged -----------------------------------------------------------------------------------------------

NOTED = """\
analyzers:
  noted:
    use: threshold
    limits:
      much: {{metric: memory_available_ratio, subjects: [host], above: 0.0001, fault: unusual, severity: info}}
"""
HOUR_AGO = time.time() - 3600
TOLD = Incident(
    "inc-0000000000aaaa",
    "db",
    "strange",
    IncidentState.CLOSED,
    Severity.WARNING,
    "many of its numbers are odd together",
    HOUR_AGO,
    HOUR_AGO + 900,
    HOUR_AGO + 900,
    "recovered",
    data={
        **judged_data(
            [
                Judged("db", "latency_seconds", 3.2, 0.08, 0.41, 9.4, 4.5, "novelty", 0.7, "hour of the day"),
                Judged("db", f"{EVIL}_ratio", 0.02, 0.2, None, 7.1, 4.5, "novelty", 0.3, EVIL),
            ]
        ),
        "causes": [{"subject": "disk:/", "name": "disk_busy_ratio", "share": 0.7, "why": f"it began first {EVIL}"}],
        "together": [{"subject": "web", "fault": "unusual", "summary": f"slow {EVIL} {LONG}", "since": HOUR_AGO}],
        "together_count": 3,
        "part_of": {"incident": "inc-0000000000bbbb", "subject": "old", "fault": "hung"},
    },
    onset_at=HOUR_AGO,
)
OLD = replace(TOLD, id="inc-0000000000bbbb", subject="old", fault="hung", data={})


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A daemon that has a remark, and remembers an incident with its numbers and one without."""
    one = House(tmp_path_factory.mktemp("page") / "judged", NOTED)
    one.make()
    for name, scope in (("oncall", "operate"), ("reader", "read")):
        one.add_operator(name, scope)

    async def remembered() -> None:
        database = await SqliteDatabase.open(one.folder / "state" / "knowledge.db", migrations())
        knowledge = SqliteKnowledge("store", Config(), database, SystemClock())
        for incident in (TOLD, OLD):
            await knowledge.save_incident(incident)
        points = tuple((HOUR_AGO - 300 + 10 * n, 0.2 if n < 30 else 3.2) for n in range(100))
        await knowledge.keep_signals(TOLD.id, [Signal("db", "latency_seconds", points)])
        await database.close()

    with ThreadPoolExecutor() as beside:  # the browser has a loop of its own in this thread
        beside.submit(lambda: asyncio.run(remembered())).result()
    try:
        one.start()
        eventually("the remark", lambda: one.told("/status")["incidents"])
        yield one
    finally:
        one.stop()


def test_how_it_was_judged_is_shown_with_its_bounds_and_what_would_have_been_well(chromium: Any, judged: House) -> None:
    with visiting(chromium, judged) as visit:
        visit.go(f"incidents/{TOLD.id}")
        visit.settled()
        part = visit.part("How it was judged")
        first, second = (part.get_by_role("row").nth(n) for n in (1, 2))
        for words in ("db latency_seconds", "3.2 s", "80 ms to 410 ms", "novelty 9.4, a finding from 4.5 on", "70 %"):
            assert words in first.inner_text(), first.inner_text()
        assert "from 20 % on" in second.inner_text() and EVIL in second.inner_text()
        assert "3.2 s against between 0.08 and 0.41" == first.get_by_role("img").get_attribute("aria-label")
        for words in (
            "latency_seconds between 0.08 and 0.41 would have been no finding; it was 3.2.",
            "disk:/ disk_busy_ratio 70 %: it began first",
            "web unusual, since",
            "And 2 more.",
        ):
            assert words in part.inner_text(), part.inner_text()
        assert visit.page.evaluate("window.evil") is None
        assert 0 == visit.page.locator("main img, main script").count()
        chart = visit.part("Signals around it").locator("figure").first
        assert 1 == chart.locator("path.band").count() and "usual range" in chart.inner_text()
        part.get_by_role("link", name="old: hung").click()
        visit.page.get_by_role("heading", name="old: hung", level=1).wait_for()
        visit.settled()
        assert 0 == visit.part("How it was judged").count(), "of an incident that tells nothing, no empty table"


def test_people_say_whether_it_was_right_with_the_keyboard_and_see_what_came_of_it(
    chromium: Any, judged: House
) -> None:
    with visiting(chromium, judged, "oncall") as visit, visiting(chromium, judged, "reader") as reader:
        for one in (visit, reader):
            one.go(f"incidents/{TOLD.id}")
            one.settled()
        shown = reader.part("How it was judged")
        shown.get_by_text("needs scope operate: reader has read").wait_for()
        for name in ("It was right", "False alarm"):
            assert shown.get_by_role("button", name=name).is_disabled()
        part, page = visit.part("How it was judged"), visit.page
        part.get_by_label("Why (optional)").fill("a <b>backup</b>")
        for name in ("It was right", "False alarm"):
            page.keyboard.press("Tab")
            assert name == page.evaluate("document.activeElement.textContent")
        page.keyboard.press("Enter")
        part.get_by_text("Taken down: it was a false alarm. What came of it: ").wait_for()
        line = part.locator(".verdicts li").last
        line.get_by_text("a <b>backup</b>").wait_for()
        assert "false alarm oncall (page)" in line.inner_text() and "What came of it: " in line.inner_text()
        assert "" == part.get_by_label("Why (optional)").input_value()
        assert "False alarm" == page.evaluate("document.activeElement.textContent"), "the place is kept"
        visit.part("Story").locator("li.answered").filter(has_text="it was a false alarm, says oncall").wait_for()
        part.get_by_role("button", name="It was right").click()
        part.get_by_text("Taken down: it was right.").wait_for()
    told = judged.told(f"/api/v1/incidents/{TOLD.id}/verdicts")["verdicts"]
    assert [(False, "a <b>backup</b>"), (True, "")] == [(one["right"], one["why"]) for one in told]


def test_what_is_only_worth_noting_is_a_remark_and_no_trouble(chromium: Any, judged: House) -> None:
    with visiting(chromium, judged) as visit:
        visit.go()
        visit.settled()
        remark = visit.part("Remarks").get_by_role("listitem").filter(has_text="host: unusual")
        assert "remark" in remark.inner_text() and "memory_available_ratio" in remark.inner_text()
        assert 0 == visit.part("Open incidents").get_by_role("link", name="host: unusual").count()
        assert "incident" not in visit.head() and "1 remark." in visit.page.locator("#top").inner_text()
        remark.get_by_role("link").click()
        visit.part("How it was judged").get_by_text("memory_available_ratio").first.wait_for()
        assert "remark" in visit.page.locator(".lead").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_how_it_was_judged_fits_and_axe_finds_no_serious_fault(chromium: Any, judged: House, scheme: str) -> None:
    for width in (360, 1280):
        looks = {"viewport": {"width": width, "height": 700}, "color_scheme": scheme}
        with visiting(chromium, judged, "oncall", **looks) as visit:
            for view in ("", f"incidents/{TOLD.id}", "past"):
                visit.go(view)
                visit.settled()
                assert [] == visit.faults(), view
                assert 0 >= visit.overflow(), f"{view} at {width}"


# -- questions -----------------------------------------------------------------------------------------------------


def asked_about(one: House, visit: Visit, kind: str) -> Any:
    one.break_(one.asked, kind)
    card = visit.card("asked")
    card.wait_for()
    return card


def test_one_click_approves_and_only_who_may(chromium: Any, cared: House) -> None:
    with visiting(chromium, cared, "oncall") as visit, visiting(chromium, cared, "reader") as reader:
        for one in (visit, reader):
            one.go()
        card = asked_about(cared, visit, "kill")
        card.get_by_text("process.restart on asked").wait_for()
        shown = reader.card("asked")
        shown.get_by_text("needs scope operate: reader has read").wait_for()
        for name in ("Approve", "Reject"):
            assert shown.get_by_role("button", name=name).is_disabled()
        assert [] == visit.faults() + reader.faults()
        card.get_by_role("button", name="Approve").click()
        eventually("the service works", lambda: ask(cared.asked).status == 200)
        for one in (visit, reader):
            one.sees("2 of 2 subjects well.")
            assert 0 == one.card("asked").count()
        past = cared.told("/api/v1/incidents?state=closed&subject=asked")["incidents"][0]
        visit.go(f"incidents/{past['id']}")
        story = visit.part("Story")
        story.locator("li.answered").filter(has_text="approved by oncall").wait_for()
        story.locator("li.verified").first.wait_for()


def test_the_keyboard_alone_reaches_and_approves_and_keeps_its_place(chromium: Any, cared: House) -> None:
    with visiting(chromium, cared, "oncall") as visit:
        visit.go()
        page = visit.page
        asked_about(cared, visit, "kill").get_by_role("button", name="Approve").wait_for()
        page.keyboard.press("Tab")
        assert "Skip to the content" == page.evaluate("document.activeElement.textContent")
        reached: list[str] = []
        for _ in range(40):
            page.keyboard.press("Tab")
            told = page.evaluate(
                """() => {
                  const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
                  const { textContent, tagName } = document.activeElement;
                  return [tagName === "INPUT" ? "an input" : textContent, outlineStyle, parseFloat(outlineWidth)];
                }"""
            )
            assert "none" != told[1] and told[2] >= 2, f"no focus to be seen on {told}"
            reached.append(told[0])
            if told[0] == "Approve":
                break
        assert "Approve" == reached[-1], reached
        # Somebody else does something: the page is drawn anew under the finger.
        cared.do("POST", "/api/v1/pauses", target="sample", reason="drawn anew", **{"for": "1h"})
        visit.sees("drawn anew")
        cared.do("DELETE", "/api/v1/pauses/sample")
        assert "Approve" == page.evaluate("document.activeElement.textContent")
        page.keyboard.press("Enter")
        eventually("the service works", lambda: ask(cared.asked).status == 200)
        visit.sees("2 of 2 subjects well.")
        assert page.evaluate("document.activeElement !== document.body"), "the focus is not lost with the question"


def test_one_click_rejects_and_the_reason_is_kept(chromium: Any, cared: House) -> None:
    with visiting(chromium, cared, "oncall") as visit:
        visit.go()
        card = asked_about(cared, visit, "kill")
        card.get_by_label("Why (optional)").fill("not <now>")
        card.get_by_role("button", name="Reject").click()
        card.wait_for(state="detached")
        incident = next(one for one in cared.told("/status")["incidents"] if one["subject"] == "asked")
        visit.go(f"incidents/{incident['id']}")
        visit.part("Story").locator("li.answered").filter(has_text="rejected by oncall").wait_for()
        assert ask(cared.asked).status is None, "nothing was done"
        asked = next(one for one in cared.told("/api/v1/approvals")["approvals"] if one["why"] == "not <now>")
        assert ("rejected", "oncall (page)") == (asked["state"], asked["who"])


# -- controls ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nothing_paused(one: House) -> Iterator[None]:
    try:
        yield
    finally:
        for pause in one.told("/api/v1/pauses")["pauses"]:
            one.do("DELETE", f"/api/v1/pauses/{pause['target']}")


def test_a_pause_holds_back_until_it_is_ended(chromium: Any, cared: House) -> None:
    with nothing_paused(cared), visiting(chromium, cared, "oncall") as visit:
        visit.go("controls")
        form = visit.page.locator("form.card")
        form.get_by_label("Target").fill("sample")
        form.get_by_label("Reason").fill("new disk")
        form.get_by_label("15 min").check()
        form.get_by_role("button", name="Pause").click()
        visit.sees("sample is paused.")
        assert form.get_by_label("1 h").is_checked() and "" == form.get_by_label("Target").input_value()
        row = visit.part("Pauses").get_by_role("listitem").filter(has_text="new disk")
        assert re.search(r"1[45]:\d\d min left", row.inner_text()) and "oncall" in row.inner_text()
        cared.break_(cared.sample, "kill")
        visit.go()
        held = visit.part("Held back").get_by_role("row").filter(has_text="sample")
        held.get_by_text("held").wait_for()
        assert "paus" in held.inner_text() and "min left" in held.inner_text()
        assert ask(cared.sample).status is None
        visit.part("Paused").get_by_role("button", name="End the pause of sample").click()
        visit.part("Paused").wait_for(state="detached")
        eventually("the service works", lambda: ask(cared.sample).status == 200)
        held.wait_for(state="detached")


def test_nonsense_in_the_pause_is_answered_in_words(chromium: Any, cared: House) -> None:
    with nothing_paused(cared), visiting(chromium, cared, "oncall", may_err=True) as visit:
        visit.go("controls")
        form = visit.page.locator("form.card")
        pause = form.get_by_role("button", name="Pause")
        pause.click()
        assert form.get_by_label("Target").evaluate("one => one.validity.valueMissing")
        form.get_by_label("Target").fill("sample")
        form.locator("input[name=until]").fill("2001-01-01T00:00")
        assert form.get_by_label("until…").is_checked()
        pause.click()
        assert "The end must lie ahead." == form.locator("input[name=until]").evaluate("one => one.validationMessage")
        form.get_by_label("15 min").check()
        form.get_by_label("Target").fill("../../<b>nobody</b>?#%00")
        pause.click()
        visit.part("Pauses").locator(".note").wait_for()
        paused = {one["target"] for one in cared.told("/api/v1/pauses")["pauses"]}
        if paused:
            for target in paused:
                visit.page.get_by_role("button", name=f"End the pause of {target}").click()
            eventually("it ends", lambda: not cared.told("/api/v1/pauses")["pauses"])
        else:
            assert "bad" in visit.part("Pauses").locator(".note").get_attribute("class")
        assert all("Failed to load resource" in said for said in visit.errors)


def test_the_kill_switch_asks_first_and_everybody_sees_it(chromium: Any, cared: House) -> None:
    try:
        with visiting(chromium, cared, "chief") as visit, visiting(chromium, cared) as neighbour:
            neighbour.go()
            visit.go("controls")
            switch = visit.page.get_by_role("switch", name="auto_healing")
            switch.click()
            visit.until("document.activeElement.textContent === 'Leave it'")
            visit.page.get_by_role("button", name="Leave it").click()
            assert "true" == switch.get_attribute("aria-checked")
            assert cared.told("/status")["flags"]["auto_healing"]
            switch.click()
            visit.page.get_by_role("button", name="Stop healing").click()
            for one in (visit, neighbour):
                one.sees("Nothing is done about any fault")
                assert "healing" in one.head() or "Healing is off." in one.page.locator("#top").inner_text()
            assert "false" == switch.get_attribute("aria-checked")
            switch.click()
            visit.page.get_by_role("button", name="Heal again").click()
            for one in (visit, neighbour):
                one.page.get_by_text("Nothing is done about any fault").wait_for(state="detached")
            assert cared.told("/status")["flags"]["auto_healing"]
    finally:
        cared.do("POST", "/api/v1/config/features", auto_healing=True)


# -- how it looks --------------------------------------------------------------------------------------------------


def views(one: House) -> list[str]:
    return [*VIEWS, f"incidents/{one.healed()}"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways_on_a_phone_and_at_twice_the_size(chromium: Any, cared: House, scheme: str) -> None:
    colours = set()
    # A page of 1280 dots at 200 % is one of 640, drawn with twice the dots.
    for width, scale in ((360, 2), (640, 2), (1280, 1)):
        looks = {"viewport": {"width": width, "height": 700}, "device_scale_factor": scale, "color_scheme": scheme}
        with visiting(chromium, cared, "chief", **looks) as visit:
            for view in views(cared):
                visit.go(view)
                visit.settled()
                assert 0 >= visit.overflow(), f"{view} at {width}"
            colours.add(visit.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert {"rgb(17, 22, 27)"} == colours if scheme == "dark" else {"rgb(17, 22, 27)"}.isdisjoint(colours)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("who", ["", "chief"])
def test_axe_finds_no_serious_fault(chromium: Any, cared: House, scheme: str, who: str) -> None:
    with visiting(chromium, cared, who, color_scheme=scheme) as visit:
        found = {}
        for view in views(cared):
            visit.go(view)
            visit.settled()
            found[view] = visit.faults()
        if who:
            visit.go("controls")
            visit.page.get_by_role("switch", name="auto_healing").click()
            visit.page.get_by_role("button", name="Leave it").wait_for()
            found["the kill switch asks"] = visit.faults()
        assert {} == {view: faults for view, faults in found.items() if faults}


def test_axe_finds_what_is_wrong(chromium: Any, cared: House) -> None:
    with visiting(chromium, cared) as visit:
        visit.go()
        # Beside what the page draws anew whenever there is news.
        visit.page.evaluate("document.body.append(document.createElement('button'))")
        assert ["button-name"] == [id for id, _ in visit.faults()]


def test_the_theme_is_chosen_and_kept(chromium: Any, cared: House) -> None:
    with visiting(chromium, cared, color_scheme="light") as visit:
        visit.go()
        button = visit.page.get_by_role("button", name="Theme:")
        for theme in ("light", "dark"):
            button.click()
            visit.until(f"document.documentElement.dataset.theme === '{theme}'")
        visit.page.reload()
        visit.until("getComputedStyle(document.body).backgroundColor === 'rgb(17, 22, 27)'")


# -- how much it asks ----------------------------------------------------------------------------------------------


def test_a_quiet_page_asks_little_and_a_hidden_one_nothing(chromium: Any, cared: House) -> None:
    eventually("nothing goes on", lambda: not cared.told("/status")["in_treatment"])
    with visiting(chromium, cared) as visit:
        visit.page.clock.install()
        visit.go()
        visit.sees("live")

        def minutes(count: int) -> int:
            """Requests in so many minutes of the page's own clock, the network being as fast as it is."""
            visit.asked.clear()
            for _ in range(count * 60):
                visit.page.clock.run_for(1000)
            return len(visit.asked)

        assert minutes(3) <= 3 * QUIET_PER_MINUTE
        assert visit.asked, "it looks now and then all the same"
        visit.page.evaluate(
            """() => {
              Object.defineProperty(document, "hidden", { get: () => !window.isSeen, configurable: true });
              document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
        assert 0 == minutes(5), visit.asked
        visit.asked.clear()
        visit.page.evaluate("() => { window.isSeen = true; document.dispatchEvent(new Event('visibilitychange')); }")
        visit.page.clock.run_for(3000)
        visit.sees("live")
        assert 1 <= len(visit.asked) <= 10, "it reads what it shows, once"


def test_who_asks_too_often_is_told_so_in_words_and_it_comes_back(chromium: Any, tmp_path: Path) -> None:
    with house(tmp_path / "narrow", "", rate=30) as one, visiting(chromium, one, may_err=True) as visit:
        visit.go()
        visit.sees("Nothing is under care yet")
        # Its own rate is spent by the test itself: how much of a reload is sent before the next one is chance.
        ask = "(await fetch('api/v1/session')).status"
        spent = f"async () => {{ for (let n = 0; n < 99; n++) if ({ask} === 429) return n }}"
        assert visit.page.evaluate(spent) is not None
        visit.page.reload()
        visit.sees("Ask again in")
        before = len(visit.asked)
        visit.page.wait_for_timeout(1000)
        assert len(visit.asked) - before <= 4, "it does not hammer at a closed door"
        visit.page.get_by_text("Ask again in").first.wait_for(state="detached", timeout=60_000)
        assert all("Failed to load resource" in said for said in visit.errors)


# -- the daemon goes and comes back --------------------------------------------------------------------------------


def test_a_daemon_that_is_gone_is_told_with_the_age_of_what_is_shown_and_comes_back(
    chromium: Any, cared: House
) -> None:
    with visiting(chromium, cared, may_err=True) as visit:
        visit.go()
        visit.sees("live")
        try:
            cared.stop()
            visit.sees("daemon unreachable")
            visit.sees("What is shown is what was known then.")
            top = visit.page.locator("#top").inner_text()
            assert re.search(r"as of (just now|.* ago)", top) and "not live" in top
            assert visit.part("What is watched").get_by_text("sample", exact=True).is_visible()
        finally:
            cared.start()
        visit.page.get_by_text("daemon unreachable").wait_for(state="detached", timeout=60_000)
        visit.until("/, live/.test(document.querySelector('.age').textContent)", 60)
        cared.do("POST", "/api/v1/pauses", target="sample", reason="seen at once", **{"for": "1h"})
        visit.sees("seen at once", timeout=8000)
        cared.do("DELETE", "/api/v1/pauses/sample")


def test_two_tabs_are_one_operator(chromium: Any, cared: House) -> None:
    """Both refresh the session when its access has run out, and neither throws the other out."""
    with visiting(chromium, cared, may_err=True) as visit:
        visit.sign_in("oncall")
        visit.sees("a signed-in operator")
        other = tab(visit.page.context, cared)
        other.go("controls")
        other.sees("oncall (operate)")
        visit.page.context.clear_cookies(name="x0_access")
        for one in (visit, other, visit, other):
            one.page.reload()
        for one in (visit, other):
            one.sees("oncall (operate)")
        time.sleep(0.5)
        session = json.loads(visit.page.evaluate("fetch('api/v1/session').then((told) => told.text())"))
        assert ("session", "oncall") == (session["kind"], session["name"])
        visit.page.get_by_role("button", name="Sign out").click()
        visit.sees("You are signed out.")
        other.page.reload()
        other.sees("local (read)")
        assert PASSWORD not in visit.page.content()
