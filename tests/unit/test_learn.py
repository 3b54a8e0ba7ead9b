"""Baselines from history: what is asked of a Prometheus and in which pieces, which rows of files count, and what is
told of each mistake."""

import asyncio
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import time
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.analyzers.baseline import PLUGIN, Baselines
from x0tta6bl4.analyzers.baseline import Config as BaselineConfig
from x0tta6bl4.cli import history, main
from x0tta6bl4.cli.exits import Refusal
from x0tta6bl4.cli.exporters import host_queries
from x0tta6bl4.cli.history import CsvHistory, Piece, PrometheusHistory, Wanted, in_order
from x0tta6bl4.kernel.lessons import Lesson, Progress
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.monitors.host import PLUGIN as HOST
from x0tta6bl4.monitors.host import Config as HostConfig
from x0tta6bl4.monitors.prometheus import Query, QueryApi
from x0tta6bl4.ports.network import HttpReply, HttpRequest
from x0tta6bl4.testing.fakes import FakeHost, tools
from x0tta6bl4.testing.virtual_time import LoopClock
from x0tta6bl4.testing.virtual_time import run as run_in_virtual_time

Output = pytest.CaptureFixture[str]
UTC = ZoneInfo("UTC")
NOW = 1_767_225_600.0
STEP = 60.0


class Past:
    """A Prometheus in memory: ``series`` gives what each series was at a time, None where there is nothing."""

    def __init__(self, series: dict[str, Callable[[float], float | None]], label: str = "instance") -> None:
        self.series = series
        self.label = label
        self.asked: list[tuple[float, float, float]] = []
        self.most = 11_000
        self.failures: list[HttpReply | OSError] = []

    async def http(self, request: HttpRequest) -> HttpReply:
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, OSError):
                raise failure
            return failure
        asked = {
            key: float(values[0]) for key, values in parse_qs(urlsplit(request.url).query).items() if key != "query"
        }
        start, end, step = asked["start"], asked["end"], asked["step"]
        self.asked.append((start, end, step))
        if (end - start) / step > self.most:
            return failed("bad_data", "exceeded maximum resolution of 11,000 points per timeseries", 400)
        found = []
        for name, value in self.series.items():
            ats = [start + n * step for n in range(int((end - start) / step + 1.5))]
            points = [[at, str(told)] for at in ats if (told := value(at)) is not None]
            if points:
                found.append({"metric": {self.label: name}, "values": points})
        return answered(found, request.body_limit)

    async def tcp(self, host: str, port: int) -> float:
        raise NotImplementedError


def answered(result: Any, limit: int = 1 << 30, **more: Any) -> HttpReply:
    body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}, **more}).encode()
    return HttpReply(200, {}, body[:limit], 0.0, None)


def failed(kind: str, words: str, status: int = 422) -> HttpReply:
    return HttpReply(status, {}, json.dumps({"status": "error", "errorType": kind, "error": words}).encode(), 0.0, None)


def wave(phase: float) -> Callable[[float], float]:
    return lambda at: round(100 + 10 * math.sin(at / 13751 + phase), 3)


def of_the_past(past: Past, hours: float, query: Query | None = None, **more: Any) -> PrometheusHistory:
    api = QueryApi(past, "http://prom:9090", {})
    wanted = [Wanted(api, "load", query or Query(query="x"))]
    return PrometheusHistory(wanted, NOW - hours * 3600, NOW, STEP, **more)


def played(told: PrometheusHistory) -> dict[tuple[str, str], dict[float, float]]:
    """All values by series and time. Each time must come once, and later than the one before."""

    async def play() -> dict[tuple[str, str], dict[float, float]]:
        found: dict[tuple[str, str], dict[float, float]] = {}
        latest = -math.inf
        async for piece in told.pieces():
            for at, row in zip(piece.ats, piece.values, strict=True):
                assert at > latest
                latest = at
                for name, value in zip(piece.names, row.tolist(), strict=True):
                    if not math.isnan(value):
                        found.setdefault(name, {})[at] = value
        return found

    return run_in_virtual_time(play())


# -- from a Prometheus -------------------------------------------------------------------------------------------------


def test_the_past_comes_whole_and_in_order_whatever_the_pieces_are(monkeypatch: pytest.MonkeyPatch) -> None:
    series = {f"host{n}": wave(n) for n in range(3)}
    expected = {
        (name, "load"): {at: value(at) for n in range(2881) if (at := NOW - 48 * 3600 + n * STEP)}
        for name, value in series.items()
    }
    whole = played(of_the_past(Past(series), 48))
    monkeypatch.setattr(history, "CELLS", 100)
    past = Past(series)
    small = played(of_the_past(past, 48))

    assert expected == whole == small
    assert len(past.asked) > 80


def test_no_question_asks_for_more_points_than_a_prometheus_gives() -> None:
    past = Past({"a": wave(0)})
    found = played(of_the_past(past, 24 * 60))

    assert 86_401 == len(found["a", "load"])
    assert max((end - start) / step for start, end, step in past.asked) <= 11_000


def test_an_answer_that_is_too_long_is_asked_for_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "BODY_LIMIT", 3000)
    past = Past({f"host{n}": wave(n) for n in range(3)})

    assert {181} == {len(values) for values in played(of_the_past(past, 3)).values()}


def test_a_server_with_too_many_samples_is_asked_for_less() -> None:
    past = Past({"a": wave(0)})
    past.failures = [failed("execution", "query processing would load too many samples into memory")]

    assert 61 == len(played(of_the_past(past, 1))["a", "load"])


def test_a_single_moment_that_is_too_much_ends_it_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "BODY_LIMIT", 10)

    with pytest.raises(Refusal, match="even a single moment is too much"):
        played(of_the_past(Past({"a": wave(0)}), 1))


def test_what_passes_is_asked_again_and_told() -> None:
    past = Past({"a": wave(0)})
    past.failures = [ConnectionResetError("prom:9090 reset the connection"), failed("unavailable", "starting", 503)]
    said: list[str] = []

    assert 61 == len(played(of_the_past(past, 1, say=said.append))["a", "load"])
    assert ["once more in 1 s", "once more in 3 s"] == [words.rpartition("; ")[2] for words in said]


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        ([failed("bad_data", "parse error: bad number")], "does not take 'x': parse error: bad number"),
        ([HttpReply(403, {}, b"", 0.0, None)], "answers 403"),
        ([ConnectionRefusedError("prom:9090 refused the connection")] * 3, "prom:9090 refused the connection"),
        ([answered([{"metric": {"job": "j"}, "values": []}])], "has no label 'instance'; its labels: job"),
        ([answered([{"metric": {"instance": "a"}, "values": [[NOW + 9e9, "1"]]}])], "outside of what was asked for"),
        ([answered([{"metric": {"instance": "a"}, "histograms": []}])], "histogram_quantile"),
    ],
)
def test_what_does_not_pass_ends_it_in_words(failures: list[Any], words: str) -> None:
    past = Past({"a": wave(0)})
    past.failures = list(failures)

    with pytest.raises(Refusal) as refused:
        played(of_the_past(past, 1))
    assert words in str(refused.value)


def test_series_of_one_name_may_follow_one_another_and_not_stand_side_by_side() -> None:
    def pod(name: str, first: int, last: int) -> dict[str, Any]:
        points = [[NOW - 3600 + n * STEP, str(n)] for n in range(first, last)]
        return {"metric": {"job": "shop", "pod": name}, "values": points}

    query = Query(query="x", subject="job")
    after, beside = Past({}), Past({})
    after.failures = [answered([pod("one", 0, 20), pod("two", 20, 60)])]
    beside.failures = [answered([pod("one", 0, 21), pod("two", 20, 60)])]

    assert list(range(60)) == list(played(of_the_past(after, 1, query))["shop", "load"].values())
    with pytest.raises(Refusal, match="more than one series is called 'shop' at the same time"):
        played(of_the_past(beside, 1, query))


def test_gaps_and_what_is_no_number_stay_missing() -> None:
    past = Past({"a": lambda at: None if at % 3600 < 600 else math.nan if at % 3600 < 1200 else 1.0})

    assert all(at % 3600 >= 1200 for at in played(of_the_past(past, 6))["a", "load"])


def test_the_servers_warnings_and_the_empty_queries_are_known_afterwards() -> None:
    past = Past({})
    past.failures = [answered([], warnings=["partial response"])]
    told = of_the_past(past, 0.5)

    assert {} == played(told)
    assert (["partial response"], ["load"]) == (list(told.warnings), told.empty)


def test_every_number_of_the_host_that_is_learnt_has_its_query() -> None:
    async def seen() -> set[tuple[str, str]]:
        host = FakeHost()
        monitor = HOST.build("host", HostConfig(), tools(clock=LoopClock(), host=host))
        first = [*await monitor.observe()]
        await asyncio.sleep(60)
        return {(one.subject.partition(":")[0], one.metric) for one in [*first, *await monitor.observe()]}

    known = Baselines(BaselineConfig())
    observed = {one for one in run_in_virtual_time(seen()) if known.wants_metric(one[1])}
    offered = {
        (query.subject.removeprefix("=").partition(":")[0], metric)
        for metric, query in host_queries(HostConfig(), 'a"b')
    }

    assert set() == observed - offered
    assert set() == offered - observed
    assert all(r'instance="a\"b"' in query.query for _, query in host_queries(HostConfig(), 'a"b'))


# -- from CSV files ----------------------------------------------------------------------------------------------------


def read(
    *texts: str, folder: Path, series: tuple[str, str] | None = None, zone: ZoneInfo = UTC, now: float = NOW
) -> list[Piece]:
    paths = []
    for number, text in enumerate(texts):
        path = folder / f"{number}.csv"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        paths.append(str(path))
    pieces: list[Piece] = []

    def begin() -> Callable[[Piece], None]:
        pieces.clear()
        return pieces.append

    in_order(CsvHistory(paths, series, zone, now), begin)
    return pieces


def looks(pieces: list[Piece]) -> list[tuple[float, dict[str, float]]]:
    return [
        (
            piece.ats[0],
            {"/".join(name): value for name, value in zip(piece.names, piece.values[0].tolist(), strict=True)},
        )
        for piece in pieces
    ]


def test_rows_that_belong_together_are_one_look(tmp_path: Path) -> None:
    text = "time,subject,metric,value\n100,a,x,1\n101,b,x,2\n160,a,x,3\n161,b,x,4\n400,b,x,5\n500,a,x,6\n"

    assert [
        (101.0, {"a/x": 1.0, "b/x": 2.0}),
        (161.0, {"a/x": 3.0, "b/x": 4.0}),
        (400.0, {"b/x": 5.0}),
        (500.0, {"a/x": 6.0}),
    ] == looks(read(text, folder=tmp_path))


def test_files_are_merged_by_time_and_rows_given_twice_count_once(tmp_path: Path) -> None:
    one = "time,subject,metric,value\n100,a,x,1\n160,a,x,2\n"
    two = "value,metric,time,comment,subject\n2,x,160,again,a\n7,y,130,,a\n"
    found = looks(read(one, two.replace("2,x,160,again,a\n7,y,130,,a", "7,y,130,,a\n2,x,160,again,a"), folder=tmp_path))

    assert [(130.0, {"a/x": 1.0, "a/y": 7.0}), (160.0, {"a/x": 2.0})] == found


def test_a_file_without_order_is_put_in_order(tmp_path: Path) -> None:
    rows = [(at, name) for name in "ab" for at in range(100, 700, 60)]
    text = "time,subject,metric,value\n" + "".join(f"{at},{name},x,{at}\n" for at, name in rows)
    found = read(text, folder=tmp_path)

    assert list(range(100, 700, 60)) == [piece.ats[0] for piece in found]
    assert {2} == {len(piece.names) for piece in found}


def test_a_file_without_order_that_is_too_large_for_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "SORTED_IN_MEMORY", 2)

    with pytest.raises(Refusal, match=r"0\.csv is not in the order of time .* sort -t, -k1,1"):
        read("time,subject,metric,value\n300,a,x,1\n200,a,x,1\n100,a,x,1\n", folder=tmp_path)


def test_standard_input_without_order_is_refused_for_it_is_read_once() -> None:
    told = CsvHistory(["-"], None, UTC, NOW, io.StringIO("time,subject,metric,value\n9,a,x,1\n8,a,x,1\n"))

    with pytest.raises(Refusal, match="-:3: the times go back"):
        in_order(told, lambda: lambda piece: None)


def test_two_columns_do_when_it_is_said_whose_they_are(tmp_path: Path) -> None:
    text = "\ufefftimestamp,value\n2025-12-31T23:00:00Z,1\n2025-12-31 23:30:00,2\n1767225000.5,3\n"
    found = looks(read(text, folder=tmp_path, series=("web", "load")))

    assert [(NOW - 3600, {"web/load": 1.0}), (NOW - 1800, {"web/load": 2.0}), (NOW - 599.5, {"web/load": 3.0})] == found


def test_a_time_without_a_zone_is_in_the_zone_of_the_analyzer(tmp_path: Path) -> None:
    text = "time,subject,metric,value\n2025-07-01T12:00:00,a,x,1\n2025-07-01T12:00:00+00:00,a,x,1\n"
    berlin, utc = read(text, folder=tmp_path, zone=ZoneInfo("Europe/Berlin"))

    assert 7200.0 == utc.ats[0] - berlin.ats[0]


def test_values_that_are_missing_are_left_out(tmp_path: Path) -> None:
    text = "time,subject,metric,value\n1,a,x,\n2,a,x,NaN\n3,a,x,inf\n4,a,x,1e3\n\n5,a,x,\n"

    assert [(4.0, {"a/x": 1000.0})] == looks(read(text, folder=tmp_path))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x,a,x,1", "'x' is no time; write 2026-01-31T08:00:00Z"),
        ("-5,a,x,1", "'-5' is no time between 1970 and now"),
        ("nan,a,x,1", "'nan' is no time between"),
        ("1767225600000,a,x,1", "seems to be milliseconds"),
        ("2031-01-01T00:00:00Z,a,x,1", "no time between 1970 and now"),
        ("1,a,x,one", "'one' is no number"),
        ("1,a,x", "has 3 of 4 columns"),
        ("1,,x,1", "the subject has no name"),
        ("1,a, ,1", "the metric has no name"),
        ("1,a\x1b[31m,x,1", "signs that cannot be shown"),
        ("1,a\udcff,x,1", "signs that cannot be shown"),
        (f"1,{'a' * 300},x,1", "is too long a name"),
        ('1,"a,x,1', "is no CSV"),
    ],
)
def test_each_mistake_is_told_with_its_file_and_line(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(f"time,subject,metric,value\n1,a,x,1\n{row}\n", folder=tmp_path)
    (line,) = [line for line in str(refused.value).splitlines() if words in line]

    assert re.match(rf"{re.escape(str(tmp_path))}/0\.csv:[34]: ", line), line


def test_all_mistakes_are_told_up_to_a_number(tmp_path: Path) -> None:
    head = "time,subject,metric,value\n"
    with pytest.raises(Refusal) as few:
        read(f"{head}x,a,x,1\n1,a,x,1\ny,a,x,1\n", folder=tmp_path)
    with pytest.raises(Refusal) as many:
        read(head + "x,a,x,1\n" * 1000, folder=tmp_path)

    assert ["0.csv:2:", "0.csv:4:"] == re.findall(r"0\.csv:\d+:", str(few.value))
    assert history.MOST_MISTAKES == len(re.findall(r"0\.csv:\d+:", str(many.value)))
    assert "and more" in str(many.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "0.csv:1: has no header"),
        ("1,a,x,1\n", "0.csv:1: should be a header such as time,subject,metric,value"),
        ("time,value\n1,2\n", "0.csv:1: has no column subject"),
        ("time,subject,value\n1,a,2\n", "0.csv:1: has no column metric; say whose"),
    ],
)
def test_a_file_without_its_header_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(text, folder=tmp_path)

    assert words in str(refused.value)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("X0TTA6BL4_CONFIG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    configured(tmp_path, "analyzers: {baseline: {}}\nmonitors: {host: {enabled: false}}\n")
    return tmp_path


def configured(home: Path, text: str) -> None:
    (home / "x.yaml").write_text(f"state_dir: state\nlock_file: lock\n{text}", encoding="utf-8")


def learn(*words: str) -> int:
    return main(["--config", "x.yaml", "learn", *words])


def lessons(home: Path) -> list[Lesson]:
    async def asked() -> list[Lesson]:
        database = await SqliteDatabase.open(home / "state" / "knowledge.db", migrations())
        try:
            return await SqliteKnowledge("store", Config(), database, SystemClock()).learnt.lessons()
        finally:
            await database.close()

    return asyncio.run(asked()) if (home / "state").exists() else []


def two_days(home: Path, name: str = "two-days.csv") -> str:
    """Every five minutes, of two series."""
    now = time() - 60
    lines = ["time,subject,metric,value"]
    for n in range(576, 0, -1):
        at = now - 300 * n
        lines += [f"{at:.0f},web,requests_per_second,{wave(0)(at)}", f"{at + 1:.0f},db,connections,{wave(1)(at)}"]
    (home / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def test_what_was_learnt_is_a_lesson_that_the_analyzer_takes(home: Path, capsys: Output) -> None:
    assert 0 == learn("--csv", two_days(home))

    out = capsys.readouterr().out
    (lesson,) = lessons(home)
    analyzer = PLUGIN.build("baseline", BaselineConfig(), tools())
    assert "2 series of two-days.csv" in out and "takes it over when it starts" in out
    assert ("learnt", "baseline", {"from": "two-days.csv", "series": 2}) == (
        lesson.kind,
        lesson.analyzer,
        dict(lesson.data),
    )
    for _ in range(2):  # a second run replaces
        assert "baseline took over what was learnt of 2 series" == analyzer.teach(lesson)
        assert Progress(2, 0) == analyzer.progress()


def test_learning_from_history_is_what_watching_would_have_learnt(home: Path) -> None:
    learn("--csv", two_days(home))
    (lesson,) = lessons(home)
    watched, learnt = Baselines(BaselineConfig()), Baselines(BaselineConfig())
    for piece in read((home / "two-days.csv").read_text(), folder=home, now=time()):
        watched.update(piece.names, piece.values[0].tolist(), piece.ats[0])
    learnt.merge(lesson.body)
    rows = [[known.seats.row_of["web", "requests_per_second"]] for known in (watched, learnt)]
    (low, high), (low_learnt, high_learnt) = watched.engine.band(rows[0]), learnt.engine.band(rows[1])

    assert (low[0], high[0]) == pytest.approx((low_learnt[0], high_learnt[0]))
    assert np.isfinite(low).all()


def test_a_dry_run_tells_all_and_puts_nothing_down(home: Path, capsys: Output) -> None:
    assert 0 == learn("--csv", two_days(home), "--dry-run", "--output", "json")

    told = json.loads(capsys.readouterr().out)
    assert not (home / "state").exists()
    assert not told["put_down"]
    assert [("db", "connections", 576), ("web", "requests_per_second", 576)] == sorted(
        (row["subject"], row["metric"], row["points"]) for row in told["series"]
    )
    assert {(False, 1.0)} == {(row["learning"], row["progress"]) for row in told["series"]}


def test_a_series_that_is_too_short_is_still_learning(home: Path, capsys: Output) -> None:
    (home / "short.csv").write_text(
        "time,value\n" + "".join(f"{time() - 60 * n:.0f},{n % 7}\n" for n in range(60, 0, -1)), encoding="utf-8"
    )
    learn("--csv", "short.csv", "--subject-name", "web", "--metric", "load", "--dry-run")

    assert re.search(r"web/load +.* 60 +learning \d+%", capsys.readouterr().out)


def test_what_an_operator_would_have_been_told_is_counted(home: Path, capsys: Output) -> None:
    name = two_days(home)
    with (home / name).open("a", encoding="utf-8") as file:
        for n in range(10):
            file.write(f"{time() - 50 + n:.0f},web,requests_per_second,{5000 + n}\n")
    learn("--csv", name, "--dry-run", "--output", "json")
    alarms = {row["subject"]: row["alarms"] for row in json.loads(capsys.readouterr().out)["series"]}

    assert any(at > time() - 120 for at in alarms["web"])


def test_any_mistake_in_a_file_and_nothing_is_learnt(home: Path, capsys: Output) -> None:
    name = two_days(home)
    with (home / name).open("a", encoding="utf-8") as file:
        file.write("oops,web,requests_per_second,1\n")

    assert 1 == learn("--csv", name)
    captured = capsys.readouterr()
    assert f"{name}:1154: 'oops' is no time" in captured.err and "nothing was learnt" in captured.err
    assert ("", []) == (captured.out, lessons(home))


def test_the_interrupted_leaves_nothing_half(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = 0

    def interrupted(self: Baselines, *told: Any) -> Any:
        nonlocal pieces
        pieces += 1
        if pieces == 100:
            raise KeyboardInterrupt
        return np.zeros(0, np.intp)

    monkeypatch.setattr(Baselines, "learn", interrupted)

    assert 130 == learn("--csv", two_days(home))
    assert [] == lessons(home)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "no prometheus monitor is configured, and no other source was named; say --prometheus URL, or --csv"),
        (["--csv", "none.csv"], 1, "none.csv cannot be read: No such file"),
        (["--csv", "x", "--prometheus", "http://h"], 2, "two sources"),
        (["--csv", "x", "--metric", "m"], 2, "--subject-name and --metric go together"),
        (["--csv", "x", "--analyzer", "other"], 2, "no analyzer 'other' learns baselines; there are: baseline"),
        (["--prometheus", "h:1"], 2, "should be http://HOST"),
        (["--prometheus", "http://h", "--since", "soon"], 2, "--since 'soon' should be now, a time ago such as 14d"),
        (
            ["--prometheus", "http://h", "--since", "1d", "--until", "2031-01-01T00:00:00Z"],
            2,
            "no time that has passed",
        ),
        (["--prometheus", "http://h", "--step", "0"], 2, "1s or more"),
        (["--prometheus", "http://h", "--step", "x"], 2, "a duration such as"),
        (["--prometheus", "http://h", "--query", "up"], 2, "should be METRIC=PROMQL"),
        (["--prometheus", "http://h", "--query", "Up=up"], 2, "no name of a metric"),
        (["--prometheus", "http://h", "--query", "a=up", "--subject", "a b"], 2, "should be a label"),
        (["--prometheus", "http://h", "--subject", "job"], 2, "--subject stands behind the --query"),
        (["--prometheus", "http://h"], 2, "there is nothing to ask for"),
        (["--prometheus", "http://h", "--token-file", "none", "--query", "a=b"], 1, "none cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(
    home: Path, words: list[str], code: int, told: str, capsys: Output
) -> None:
    assert code == learn(*words)

    captured = capsys.readouterr()
    assert told in captured.err and captured.out == ""
    assert [] == lessons(home)


def test_nobody_learns_when_no_analyzer_does(home: Path, capsys: Output) -> None:
    configured(home, "analyzers: {baseline: {enabled: false}}\n")

    assert 2 == learn("--csv", two_days(home))
    assert "add it with `analyzers: {baseline: {}}`" in capsys.readouterr().err
    assert 0 == learn("--csv", "two-days.csv", "--dry-run")


def test_series_that_the_analyzer_does_not_want_are_told(home: Path, capsys: Output) -> None:
    configured(home, "analyzers: {baseline: {subjects: [db]}}\n")
    learn("--csv", two_days(home))
    out = capsys.readouterr().out
    configured(home, "analyzers: {baseline: {subjects: [other]}}\n")

    assert "1 series of" in out and "such as web/requests_per_second" in out
    assert 1 == learn("--csv", "two-days.csv")
    assert "the analyzer baseline wants none, such as db/connections" in capsys.readouterr().err


def test_a_room_that_is_full_is_told(home: Path, capsys: Output) -> None:
    configured(home, "analyzers: {baseline: {most_series: 1}}\n")
    learn("--csv", two_days(home))

    assert "1 series found no room; most_series is 1" in " ".join(capsys.readouterr().out.split())


class Handler(BaseHTTPRequestHandler):
    past: Past
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        if "/api/v1/query?" in self.path:
            body = b'{"status":"success","data":{"resultType":"vector","result":[]}}'
            status = 200
        else:
            reply = asyncio.run(self.past.http(HttpRequest(self.path, body_limit=1 << 30)))
            body, status = reply.body, reply.status
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *told: Any) -> None:
        pass


@contextmanager
def serving(past: Past) -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []
    handler = type("Bound", (Handler,), {"past": past, "seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()


def test_without_a_query_those_of_the_monitors_are_asked_with_their_secrets(home: Path, capsys: Output) -> None:
    (home / "token").write_text("let-me-in\n", encoding="utf-8")
    with serving(Past({"shop": wave(0)}, label="job")) as (url, seen):
        configured(
            home,
            f"""analyzers: {{baseline: {{}}}}
monitors:
  host: {{enabled: false}}
  prometheus: {{url: "{url}", queries: {{errors: {{query: x, subject: job}}}}, token_file: {home / "token"}}}
  load: {{use: load_average}}
""",
        )
        assert 0 == learn("--since", "2d", "--step", "5m", "--output", "json")

    told = json.loads(capsys.readouterr().out)
    (row,) = told["series"]
    assert ("shop", "errors", url) == (row["subject"], row["metric"], told["source"])
    assert 576 <= row["points"] <= 577
    assert {"Bearer let-me-in"} == set(seen)
    assert any("not covered: what load saw" in note for note in told["notes"])
    (lesson,) = lessons(home)
    assert {"from": url, "series": 1} == dict(lesson.data)


def test_an_empty_past_ends_with_one_and_a_hint(home: Path, capsys: Output) -> None:
    with serving(Past({})) as (url, _):
        assert 1 == learn("--prometheus", url, "--query", "a=x", "--since", "1h")

    captured = capsys.readouterr()
    assert "without any value: a" in captured.out
    assert f"nothing was learnt: {url} has no values for that time; ask for them in its own page first" in captured.err


def test_a_query_has_the_subject_that_stands_behind_it(home: Path, capsys: Output) -> None:
    with serving(Past({"shop": wave(0)}, label="job")) as (url, _):
        words = ["--query", "a=x", "--subject", "job", "--query", "b=sum(y{z='='})", "--subject", "=the fleet"]
        assert 0 == learn("--prometheus", url, *words, "--since", "1d", "--output", "json")

    told = json.loads(capsys.readouterr().out)
    assert {("shop", "a"), ("the fleet", "b")} == {(row["subject"], row["metric"]) for row in told["series"]}


def test_progress_goes_to_standard_error_alone(home: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("x0tta6bl4.cli.learn.TOLD_EVERY", (0.0, 0.0))
    learn("--csv", two_days(home), "--output", "json")
    captured = capsys.readouterr()

    json.loads(captured.out)
    assert "rows, up to" in captured.err
