"""How something was judged, as the endpoint and the command line tell it, with what people said of it."""

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.unit.asking import HOSTILE, Endpoint, play
from x0tta6bl4.cli import main, why
from x0tta6bl4.cli.live import nearest
from x0tta6bl4.cli.places import Holder, Place
from x0tta6bl4.kernel.facts import Finding, Incident, IncidentState, Severity
from x0tta6bl4.kernel.judged import MOST, Judged, judged_data
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.kernel.memory import Signal
from x0tta6bl4.kernel.sight import View
from x0tta6bl4.kernel.signals import Nearness
from x0tta6bl4.status.judgements import HowJudged, how_judged

Output = pytest.CaptureFixture[str]
AT = 1_700_000_000.0
LATENCY = Judged("db", "latency_seconds", 3.0, 0.1, 0.4, 9.0, 4.5, "novelty", 0.75, "hour of the day")
QUEUE = Judged("db", "queue", 400.0, None, 80.0, 6.0, 4.5, "novelty", 0.25, "level")
CAUSES = [
    {"subject": "disk:/", "name": "disk_busy_ratio", "share": 0.7, "why": "it began first"},
    {"subject": "db", "name": "latency_seconds", "share": 0.3, "why": ""},
]
TOGETHER = [{"subject": "web", "fault": "unusual", "summary": f"slow {HOSTILE}", "since": AT}]
DATA = {**judged_data([LATENCY, QUEUE]), "causes": CAUSES, "together": TOGETHER, "together_count": 4}
OPEN = Incident("inc-db", "db", "unusual", IncidentState.OPEN, Severity.INFO, "slow", AT, AT, data=DATA, onset_at=AT)


def told(**data: Any) -> HowJudged:
    how = how_judged(replace(OPEN, data=data))
    TypeAdapter(HowJudged).validate_python(how, strict=True)
    json.dumps(how, allow_nan=False)
    return how


# -- what an incident's data says --------------------------------------------------------------------------------------


def test_series_causes_and_members_are_told_in_their_order() -> None:
    how = told(**DATA)

    assert ["latency_seconds", "queue"] == [one["metric"] for one in how["series"]]
    first = how["series"][0]
    assert ("seconds", 3.0, 0.1, 0.4) == (first["unit"], first["value"], first["low"], first["high"])
    assert "novelty 9, a finding from 4.5 on" == first["decided"]
    assert "latency_seconds between 0.1 and 0.4 would have been no finding; it was 3" == first["otherwise"]
    assert [("disk:/", 0.7), ("db", 0.3)] == [(one["subject"], one["share"]) for one in how["causes"]]
    assert [("web", "unusual", "2023-11-14T22:13:20.000Z")] == [
        (one["subject"], one["fault"], one["since"]) for one in how["together"]
    ]
    assert (0, 3) == (how["more_series"], how["more_together"])


def test_of_an_incident_that_tells_nothing_nothing_is_told() -> None:
    how = told()
    assert all(not value for value in how.values()), how


@pytest.mark.parametrize(
    "data",
    [
        {"judged": "text", "causes": 7, "together": {"subject": "web"}, "part_of": "inc-1", "judged_count": 9},
        {"judged": [None, 3], "causes": [None, {"subject": "a"}], "together": [{"fault": "x"}], "part_of": {}},
        {"judged": [{}], "causes": [{"subject": 1, "name": 2}], "together": [[]], "part_of": {"incident": 3}},
    ],
)
def test_what_is_not_understood_is_left_out(data: dict[str, Any]) -> None:
    how = told(**data)
    assert all(not value for value in how.values()), how


def test_what_is_no_number_is_told_as_none() -> None:
    how = told(
        **judged_data([replace(LATENCY, value=nan, number=inf, share=nan)]),
        causes=[{"subject": "a", "name": "b", "share": inf}],
        together=[{"subject": "a", "fault": "b", "since": nan}],
    )
    (series,), (cause,), (member,) = how["series"], how["causes"], how["together"]
    assert series["value"] is series["number"] is series["share"] is cause["share"] is member["since"] is None


def test_however_much_there_is_the_answer_has_an_end() -> None:
    many = [{**DATA["judged"][0], "metric": f"m{n}"} for n in range(500)]
    how = told(judged=many, judged_count=500, causes=CAUSES * 200, together=TOGETHER * 500, together_count=500)
    assert (MOST, 500 - MOST) == (len(how["series"]), how["more_series"])
    assert len(how["causes"]) <= 8 and len(how["together"]) + how["more_together"] == 500


def test_what_it_is_a_part_of_is_named() -> None:
    how = told(part_of={"incident": "inc-1", "subject": "db", "fault": "dead"}, storm={"incident": "inc-2"})
    assert {"incident": "inc-1", "subject": "db", "fault": "dead"} == how["part_of"] and "inc-2" == how["storm"]


# -- the endpoint ------------------------------------------------------------------------------------------------------


class Learnt:
    """Knows how far each series of a subject is from a finding."""

    name = "learnt"

    def __init__(self, *near: Judged, fails: bool = False) -> None:
        self.near = near
        self.fails = fails

    def analyze(self, view: View) -> Sequence[Finding]:
        return []

    def nearest(self, subject: str, most: int = 3) -> Sequence[Judged]:
        if self.fails:
            raise ValueError("nothing can be said")
        return [one for one in self.near if one.subject == subject][:most]


def test_story_and_why_tell_how_it_was_judged_and_what_people_said(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        knowledge = endpoint.face.loop.parts.knowledge
        now = endpoint.clock.wall()
        await knowledge.save_incident(replace(OPEN, opened_at=now - 60, onset_at=now - 60, updated_at=now - 60))
        said = await endpoint.post("/api/v1/incidents/inc-db/verdicts", {"right": False, "why": f"a backup {HOSTILE}"})
        incident = (await endpoint.get("/api/v1/incidents/inc-db")).json
        (case,) = (await endpoint.get("/api/v1/why/inc-db")).json["incidents"]

        assert 201 == said.status
        assert incident["judged"] == case["judged"]
        assert [said.json] == incident["judged"]["verdicts"]
        assert ["latency_seconds", "queue"] == [one["metric"] for one in incident["judged"]["series"]]
        (line,) = [line for line in incident["timeline"] if line["kind"] == "verdict"]
        assert "answered" == line["phase"] and line is incident["timeline"][-1]
        assert line["text"].startswith(f"it was a false alarm, says {said.json['who']}: a backup {HOSTILE} (")
        assert False is line["data"]["right"] and said.json["who"] == line["data"]["who"]

    play(tmp_path, story)


def test_an_incident_of_before_tells_nothing_of_it_and_is_told_all_the_same(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.face.loop.parts.knowledge.save_incident(replace(OPEN, data={}))
        incident = (await endpoint.get("/api/v1/incidents/inc-db")).json
        assert not any(incident["judged"].values())

    play(tmp_path, story)


def test_the_finding_of_the_loop_carries_its_numbers_to_the_endpoint(tmp_path: Path) -> None:
    """The monitor is blind: the kernel's own finding."""

    async def story(endpoint: Endpoint) -> None:
        loop = endpoint.face.loop
        loop.parts.sight.blind("eyes", "it broke", ["web"], endpoint.clock.monotonic() - 9)
        await loop.run_cycle()
        (one,) = [i for i in loop.incidents.open if i.fault == "blind"]
        (series,) = (await endpoint.get(f"/api/v1/incidents/{one.id}")).json["judged"]["series"]

        assert ("eyes", "no", "yes", "yes/no") == tuple(series[key] for key in ("subject", "was", "usual", "unit"))
        assert "a look that succeeds within 2 s would have been no finding" == series["otherwise"]

    play(tmp_path, story)


def test_of_what_is_well_it_says_how_far_from_a_finding_it_is(tmp_path: Path) -> None:
    near = [
        Judged("web", f"m{n}", 1.0, 0.5, 2.0, number, 4.0, "novelty", why="level")
        for n, number in enumerate((0.4, 3.6, 2.0))
    ]
    other = Judged("web", "together", 1.0, None, None, 1.9, 2.0, "oddness")

    async def story(endpoint: Endpoint) -> None:
        loop = endpoint.face.loop
        first = Learnt(*near)
        assert isinstance(first, Nearness)
        loop.parts = replace(loop.parts, analyzers=[Learnt(fails=True), first, Learnt(other), object()])
        told = (await endpoint.get("/api/v1/why/web")).json

        assert ["together", "m1", "m2"] == [one["metric"] for one in told["nearest"]]
        assert "novelty 3.6, a finding from 4 on" == told["nearest"][1]["decided"]
        assert "between 0.5 and 2" == told["nearest"][1]["usual"]

    play(tmp_path, story)


def test_where_something_is_wrong_nobody_asks_how_far_off_it_is(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        loop = endpoint.face.loop
        loop.parts = replace(loop.parts, analyzers=[Learnt(replace(LATENCY, subject="web"))])
        told = (await endpoint.get("/api/v1/why/web")).json
        assert told["incidents"] and [] == told["nearest"]

    play(tmp_path, story, {"web": 0.0})


def test_a_chart_shows_the_band_that_it_was_judged_by(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        knowledge = endpoint.face.loop.parts.knowledge
        pace = Judged("db", "requests_total", 3.0, 1.0, 2.0)
        await knowledge.save_incident(replace(OPEN, data=judged_data([LATENCY, QUEUE, pace])))
        signals = [
            Signal("db", metric, ((AT - 60, value / 10), (AT, value), (AT + 60, value)))
            for metric, value in (("latency_seconds", 3.0), ("queue", 400.0), ("requests_total", 9999.0))
        ]
        await knowledge.keep_signals("inc-db", signals)
        told = (await endpoint.get("/api/v1/incidents/inc-db/signals")).json["series"]

        assert {
            "latency_seconds": [[AT - 60, 0.1, 0.4], [AT + 60, 0.1, 0.4]],
            "queue": None,
            "requests_total": None,
        } == {one["metric"]: one["band"] for one in told}, "a bound on one side is no band, and a pace no count"

    play(tmp_path, story)


# -- the command line --------------------------------------------------------------------------------------------------


def said_of(folder: Path, *words: str) -> int:
    return main(["--state-dir", str(folder), *words])


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A store with one incident, and a person's word on it."""

    async def story(endpoint: Endpoint) -> None:
        knowledge = endpoint.face.loop.parts.knowledge
        now = endpoint.clock.wall()
        await knowledge.save_incident(replace(OPEN, opened_at=now - 60, onset_at=now - 60, updated_at=now - 60))
        lesson = await knowledge.learnt.teach(Lesson("verdict", incident="inc-db", right=True, who="oncall", why="ok"))
        await knowledge.learnt.taken(lesson.id, "db is unusual from 4 on")

    play(tmp_path, story)
    return tmp_path


def test_why_says_how_it_was_judged_and_what_would_have_had_to_be_different(kept: Path, capsys: Output) -> None:
    assert 0 == said_of(kept, "why", "inc-db")
    out = " ".join(capsys.readouterr().out.split())

    for words in (
        "How it was judged: db latency_seconds was 3, well between 0.1 and 0.4, 75% of the decision (hour of the day)",
        "what decided: novelty 9, a finding from 4.5 on",
        "latency_seconds between 0.1 and 0.4 would have been no finding; it was 3",
        "Likely causes, the likeliest first: 1. disk:/ disk_busy_ratio (70%): it began first 2. db latency_seconds",
        "Found together with it: web is unusual: slow",
        "oncall: it was right: ok",
        "what came of it: db is unusual from 4 on",
    ):
        assert words in out, (words, out)


def test_the_story_has_what_people_said_in_its_place_and_json_has_all_of_it(kept: Path, capsys: Output) -> None:
    assert 0 == said_of(kept, "incidents", "inc-db")
    out = capsys.readouterr().out
    assert "How it was judged:" in out
    (line,) = [line for line in out.splitlines() if " verdict " in line]
    assert "it was right, says oncall: ok (db is unusual from 4 on)" in line

    assert 0 == said_of(kept, "why", "inc-db", "--output", "json")
    (case,) = json.loads(capsys.readouterr().out)["incidents"]
    assert [True] == [one["right"] for one in case["judged"]["verdicts"]]
    assert 2 == len(case["judged"]["series"])


def test_what_was_not_judged_in_numbers_has_no_such_part(tmp_path: Path, capsys: Output) -> None:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.face.loop.parts.knowledge.save_incident(replace(OPEN, data={}))

    play(tmp_path, story)
    for command in ("why", "incidents"):
        assert 0 == said_of(tmp_path, command, "inc-db")
        out = capsys.readouterr().out
        assert "judged" not in out and "people said" not in out and "causes" not in out and "feedback" not in out


def test_nothing_of_it_can_steer_a_terminal(tmp_path: Path, capsys: Output) -> None:
    evil = "\x1b[2J\x07"
    data = {
        **judged_data([replace(LATENCY, metric=f"m{evil}", why=evil)]),
        "causes": [{"subject": evil, "name": evil, "why": evil}],
        "together": [{"subject": evil, "fault": evil, "summary": evil}],
    }

    async def story(endpoint: Endpoint) -> None:
        await endpoint.face.loop.parts.knowledge.save_incident(replace(OPEN, data=data))

    play(tmp_path, story)
    for command in ("why", "incidents"):
        assert 0 == said_of(tmp_path, command, "inc-db")
        out = capsys.readouterr().out
        assert "\x1b" not in out and "\x07" not in out and "\\x1b[2J" in out


@contextlib.contextmanager
def answering(answers: dict[str, Any]) -> Iterator[str]:
    """An endpoint that says that and nothing else."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path]).encode() if self.path in answers else b""
            self.send_response(200 if body else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, name="answers")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_why_asks_the_running_daemon_how_far_from_a_finding_what_is_well_is(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(endpoint: Endpoint) -> None:
        answers["/status"] = (await endpoint.get("/status")).json
        loop = endpoint.face.loop
        loop.parts = replace(loop.parts, analyzers=[Learnt(replace(LATENCY, subject="web", number=1.0))])
        answers["/api/v1/why/web"] = (await endpoint.get("/api/v1/why/web")).json

    answers: dict[str, Any] = {}
    play(tmp_path, story)
    with answering(answers) as url:
        holder = Holder(answers["/status"]["pid"], "", "", tmp_path, url)
        monkeypatch.setattr(why, "place_of", lambda args: Place(tmp_path, holder))
        assert 0 == said_of(tmp_path, "why", "web")
        out = capsys.readouterr().out
        assert 0 == said_of(tmp_path, "why", "web", "--output", "json")
        (near,) = json.loads(capsys.readouterr().out)["nearest"]

    assert "web latency_seconds is 3, usual between 0.1 and 0.4: novelty 1, a finding from 4.5 on" in " ".join(
        out.split()
    )
    assert "latency_seconds" == near["metric"]


@pytest.mark.parametrize("answer", [None, 3, [], {}, {"nearest": 3}, {"nearest": ["text", 3]}])
def test_an_answer_that_is_none_says_nothing_of_how_far_off_it_is(tmp_path: Path, answer: Any) -> None:
    path = "/api/v1/why/web%2F..%2Fx"
    with answering({} if answer is None else {path: answer}) as url:
        assert [] == nearest(Holder(1, "", "", tmp_path, url), "web/../x")
    for url in ("", "ftp://x", "http://127.0.0.1:1"):
        assert [] == nearest(Holder(1, "", "", tmp_path, url), "web")
