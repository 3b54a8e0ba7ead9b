"""What is usual, on the command line: the list, one series with its hours, the picture, and the way to other hosts."""

import asyncio
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import pytest

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.analyzers.baseline import PLUGIN, Baselines
from x0tta6bl4.analyzers.baseline import Config as BaselineConfig
from x0tta6bl4.cli import main
from x0tta6bl4.cli.chart import drawn, narrowed, svg
from x0tta6bl4.judgement.usual import usual_of
from x0tta6bl4.kernel.facts import Incident, IncidentState, Severity
from x0tta6bl4.kernel.judged import Judged, judged_data
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.testing.fakes import tools

Output = pytest.CaptureFixture[str]
SERIES = [
    ("web", "requests_per_second"),
    ("web", "memory_bytes"),
    ("db", "connections"),
    ("disk:/srv", "disk_free_ratio"),
]
DAY = 86400.0


def daily(hour: float) -> float:
    return 100 + 50 * math.sin(hour / 24 * 2 * math.pi)


@pytest.fixture(scope="module")
def learnt() -> bytes:
    """Nine days at ten minutes, of four series; the first follows the hour of the day. The last is young."""
    known = Baselines(BaselineConfig())
    noise = np.random.default_rng(1)
    end = time() // 600 * 600
    for number in range(9 * 144):
        at = end - 9 * DAY + number * 600
        hour = at % DAY / 3600
        values = [daily(hour) + noise.normal(), 3e8 + 1e6 * noise.normal(), 20.0, math.nan if number < 1280 else 0.4]
        known.update(SERIES, values, at)
    return known.pack()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learnt: bytes) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("X0TTA6BL4_CONFIG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "x.yaml").write_text("state_dir: state\nlock_file: lock\nanalyzers: {baseline: {}}\n", encoding="utf-8")
    (tmp_path / "state").mkdir(mode=0o700)
    stored(tmp_path, lambda knowledge: knowledge.learnt.keep("baseline", learnt))
    return tmp_path


def stored(home: Path, work: Callable[[SqliteKnowledge], Awaitable[Any]]) -> Any:
    async def done() -> Any:
        database = await SqliteDatabase.open(home / "state" / "knowledge.db", migrations())
        try:
            return await work(SqliteKnowledge("store", Config(), database, SystemClock()))
        finally:
            await database.close()

    return asyncio.run(done())


def lessons(home: Path) -> list[Lesson]:
    found: list[Lesson] = stored(home, lambda knowledge: knowledge.learnt.lessons())
    return found


def baseline(*words: str) -> int:
    return main(["--config", "x.yaml", "baseline", *words])


def told(capsys: Output, *words: str) -> Any:
    assert 0 == baseline(*words, "--output", "json")
    return json.loads(capsys.readouterr().out)


# -- show --------------------------------------------------------------------------------------------------------------


def test_every_series_is_listed_with_its_state_and_the_age_of_what_is_told(home: Path, capsys: Output) -> None:
    assert 0 == baseline("show")
    out = capsys.readouterr().out

    assert re.search(r"^web/requests_per_second +learnt +[\d.]+ +[\d.]+ to [\d.]+ ", out, re.M)
    assert re.search(r"^web/memory_bytes +learnt +\d+\.\d MiB +\d+\.\d MiB to \d+\.\d MiB ", out, re.M)
    assert re.search(r"^disk:/srv/disk_free_ratio +learning \d+% +40\.0% +- ", out, re.M)
    assert re.search(r"^4 series, 1 of them still learning\. As the daemon kept it .*\(.* ago\)|now\)", out, re.M)


def test_the_band_is_around_the_value_of_a_healthy_series(home: Path, capsys: Output) -> None:
    rows = {row["metric"]: row for row in told(capsys, "show")["series"]}
    wave = rows["requests_per_second"]

    assert wave["low"] < wave["value"] < wave["high"]
    assert (None, None, True) == tuple(rows["disk_free_ratio"][key] for key in ("low", "high", "learning"))
    assert 0 < rows["disk_free_ratio"]["progress"] < 1


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("web", ["web/memory_bytes", "web/requests_per_second"]),
        ("*_bytes", ["web/memory_bytes"]),
        ("w*/r*", ["web/requests_per_second"]),
        ("disk:/srv/disk_free_ratio", ["disk:/srv/disk_free_ratio"]),
    ],
)
def test_series_are_meant_by_name_by_pattern_and_by_their_subject(
    home: Path, capsys: Output, pattern: str, names: list[str]
) -> None:
    found = told(capsys, "show", pattern)

    assert names == [f"{row['subject']}/{row['metric']}" for row in found.get("series", [found])]


def test_a_name_that_fits_none_is_told_with_the_nearest(home: Path, capsys: Output) -> None:
    assert 2 == baseline("show", "web/request_per_second")
    assert "did you mean 'web/requests_per_second'?" in capsys.readouterr().err


def test_a_long_list_is_cut_and_says_so(home: Path, capsys: Output) -> None:
    assert 0 == baseline("show", "--limit", "1")
    assert "and 3 more; --limit 4 shows them" in capsys.readouterr().out


def test_one_series_is_shown_with_its_hours_as_it_was(home: Path, capsys: Output) -> None:
    found = told(capsys, "show", "web/requests_per_second")
    day = [hour["usual"] for hour in found["hours_of_day"]]

    assert (24, 168) == (len(day), len(found["hours_of_week"]))
    assert day == pytest.approx([daily(hour + 0.5) for hour in range(24)], abs=10)
    assert all(hour["low"] < hour["usual"] < hour["high"] for hour in found["hours_of_day"])
    assert {"level", "hour of the day", "drift"} <= set(found["features"])
    low, high = (found["features"]["level"][end] for end in ("low", "high"))
    assert (low, high) == pytest.approx((50, 150), abs=12)


def test_the_hours_of_the_week_begin_with_monday(home: Path) -> None:
    known = Baselines(BaselineConfig())
    monday = 1_767_571_200.0  # 2026-01-05T00:00Z
    for number in range(3 * 7 * 24):
        known.update([("a", "x")], [100.0 if number % 168 == 0 else 1.0 + number % 2], monday + 3600 * number)
    week = usual_of(known.engine.snapshot(), known.seats.row_of["a", "x"]).week.usual

    assert 0 == int(np.argmax(week))


def test_the_plot_has_as_many_columns_as_fit_and_no_colour_on_request(
    home: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert 0 == baseline("show", "web/requests_per_second")
    out = capsys.readouterr().out
    bars = [line.partition("│")[2] for line in out.splitlines() if "│" in line]

    assert 16 == len(bars)
    assert any("█" in bar for bar in bars) and any("░" in bar for bar in bars)
    assert max(map(len, bars)) <= 60
    assert "\033" not in out
    assert "00" in out and "Mon" in out and "24 of 24 hours seen" in out


def test_the_picture_is_a_file_of_its_own(home: Path, capsys: Output) -> None:
    assert 0 == baseline("show", "web/requests_per_second", "--svg", "a.svg")
    root = ET.parse(home / "a.svg").getroot()
    kinds = [element.tag.rpartition("}")[2] for element in root.iter()]

    assert "svg" == kinds[0] and {"title", "polygon", "polyline", "text"} <= set(kinds)
    assert 2 == baseline("show", "web", "--svg", "b.svg")
    assert not (home / "b.svg").exists()


def test_incidents_and_what_people_said_stand_beside_it(home: Path, capsys: Output) -> None:
    judged = Judged("web", "requests_per_second", 9e9, 1, 2, 0.4, 0.1, "novelty")
    now = time()

    async def happened(knowledge: SqliteKnowledge) -> None:
        for number, at in enumerate((now - 30 * DAY, now - DAY, now - 60)):
            await knowledge.save_incident(
                Incident(
                    f"inc-{number}",
                    "web",
                    "unusual",
                    IncidentState.CLOSED,
                    Severity.INFO,
                    "web: requests_per_second",
                    at,
                    at,
                    data=judged_data([judged]),
                )
            )
        for incident, right in (("inc-1", True), ("inc-2", False), ("inc-0", False)):
            lesson = Lesson("verdict", incident=incident, right=right, data=judged_data([judged]), who="oncall@cli")
            taught = await knowledge.learnt.teach(lesson)
            await knowledge.learnt.taken(taught.id, "done")

    stored(home, happened)
    rows = {row["metric"]: row for row in told(capsys, "show")["series"]}
    wave, other = rows["requests_per_second"], rows["connections"]

    assert (2, 1, 2) == (wave["alarms"], wave["right"], wave["false_alarms"])
    assert (0, 0, 0) == (other["alarms"], other["right"], other["false_alarms"])


def test_before_anything_was_kept_it_says_when_that_will_be(home: Path, capsys: Output) -> None:
    (home / "x.yaml").write_text("state_dir: other\nlock_file: lock\nanalyzers: {baseline: {}}\n", encoding="utf-8")
    assert 3 == baseline("show")
    (home / "other").mkdir(mode=0o700)
    (home / "state" / "knowledge.db").rename(home / "other" / "knowledge.db")
    capsys.readouterr()
    assert 2 == baseline("show", "--analyzer", "elsewhere")
    assert "there are: baseline" in capsys.readouterr().err
    (home / "x.yaml").write_text(
        "state_dir: other\nlock_file: lock\nanalyzers: {new: {use: baseline}}\n", encoding="utf-8"
    )

    assert 1 == baseline("show", "--analyzer", "new")
    assert "kept yet; the daemon keeps it every 15 minutes" in capsys.readouterr().err


def test_mistakes_elsewhere_in_the_configuration_hide_nothing(home: Path, capsys: Output) -> None:
    with (home / "x.yaml").open("a", encoding="utf-8") as file:
        file.write("monitors: {load: {use: load_averge}}\n")

    assert 0 == baseline("show")
    assert "web/requests_per_second" in capsys.readouterr().out


# -- from host to host -------------------------------------------------------------------------------------------------


def test_what_was_learnt_goes_to_another_host_and_judges_alike(home: Path, capsys: Output, learnt: bytes) -> None:
    assert 0 == baseline("export", "all.baseline")
    assert 0o600 == (home / "all.baseline").stat().st_mode & 0o777
    assert 0 == baseline("import", "all.baseline")
    (lesson,) = lessons(home)
    there = PLUGIN.build("baseline", BaselineConfig(), tools())
    here = Baselines(BaselineConfig())
    here.merge(learnt)

    assert "baseline took over what was learnt of 4 series" == there.teach(lesson)
    for series in SERIES[:3]:
        bands = [known.engine.band([known.seats.row_of[series]]) for known in (here, there.known)]
        assert np.array_equal(bands[0], bands[1])


def test_a_part_of_it_may_go(home: Path, capsys: Output) -> None:
    assert 0 == baseline("export", "web.baseline", "--series", "web", "--series", "db/connections")
    known = Baselines(BaselineConfig())

    assert 3 == len(known.merge((home / "web.baseline").read_bytes()))
    assert 0 == baseline("import", "web.baseline", "--series", "db")
    (lesson,) = lessons(home)
    assert {"from": "web.baseline", "series": 1} == dict(lesson.data)


def test_the_same_goes_through_pipes(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert 0 == baseline("export", "-")

    assert 4 == len(Baselines(BaselineConfig()).merge(capfdbinary.readouterr().out))


@pytest.mark.parametrize(
    "harm",
    [
        lambda body: b"",
        lambda body: body[:-1],
        lambda body: body[:40],
        lambda body: body[:200] + bytes([body[200] ^ 1]) + body[201:],
        lambda body: b"SQLite format 3\0" + body,
        lambda body: b"PK" * 5000,
    ],
    ids=["empty", "cut", "stump", "flipped", "foreign", "zip"],
)
def test_a_damaged_or_foreign_file_is_refused_and_nothing_is_put_down(
    home: Path, capsys: Output, harm: Callable[[bytes], bytes], learnt: bytes
) -> None:
    (home / "x.baseline").write_bytes(harm(learnt))

    assert 1 == baseline("import", "x.baseline")
    words = capsys.readouterr().err
    assert words.startswith("x0tta6bl4: x.baseline cannot be used: ") and "\n" == words[-1]
    assert [] == lessons(home)


def test_what_another_analyzer_keeps_is_refused(home: Path, capsys: Output) -> None:
    from x0tta6bl4.judgement.snapshots import pack

    (home / "x.baseline").write_bytes(pack({"numbers": np.zeros(3)}, {"form": "other"}))

    assert 1 == baseline("import", "x.baseline")
    assert "this was not learnt by a baseline (it says 'other')" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_told(home: Path, capsys: Output) -> None:
    assert 1 == baseline("import", "none.baseline")
    assert "none.baseline cannot be read: No such file or directory" in capsys.readouterr().err


def test_forgetting_names_each_series_and_the_analyzer_begins_anew_with_those(
    home: Path, capsys: Output, learnt: bytes
) -> None:
    assert 0 == baseline("forget", "web", "disk:/srv/disk_free_ratio")
    assert "begins anew with 3 series when it starts" in capsys.readouterr().out
    (lesson,) = lessons(home)
    analyzer = PLUGIN.build("baseline", BaselineConfig(), tools())
    analyzer.take_up(learnt, time())

    assert "baseline begins anew with 3 series" == analyzer.teach(lesson)
    assert [("db", "connections")] == list(analyzer.known.seats.row_of)
    assert 2 == baseline("forget", "nothing/like_it")


# -- charts ------------------------------------------------------------------------------------------------------------


def test_a_chart_has_its_band_its_line_and_its_ends() -> None:
    lines = drawn([(0.0, 1.0, 2.0), (math.nan, math.nan, math.nan), (1.0, 3.0, 4.0)], "{:g}".format, rows=4)

    assert ["4 │  █", "  │░ ░", "  │█ ░", "0 │░"] == lines


def test_a_chart_of_nothing_is_empty_and_one_of_a_constant_is_a_line() -> None:
    assert [] == drawn([(math.nan,) * 3], str)
    flat = drawn([(5.0, 5.0, 5.0)] * 3, "{:g}".format, rows=3, blocks=False)

    assert 1 == sum("###" in line for line in flat)


def test_columns_that_do_not_fit_are_put_together_within_their_widest_band() -> None:
    columns = [(float(n), n + 1.0, n + 2.0) for n in range(10)]

    assert [(0.0, 3.0, 6.0), (5.0, 8.0, 11.0)] == narrowed(columns, 2)
    assert columns == narrowed(columns, 10)


def test_names_in_a_picture_cannot_break_it() -> None:
    text = svg('<b>&"', [("a<b", [(0.0, 1.0, 2.0), (math.inf, 1.0, 2.0)], [(0, "&")])], lambda value: f"<{value}>")

    assert '<b>&"' == ET.fromstring(text).findtext("{http://www.w3.org/2000/svg}title")
