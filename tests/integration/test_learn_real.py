"""Two weeks in a real Prometheus: asked by the monitor, learnt by the command line, taken over by the analyzer."""

import asyncio
import json
import math
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.network import AsyncNetwork
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.analyzers.baseline import PLUGIN as BASELINE
from x0tta6bl4.analyzers.baseline import Config as BaselineConfig
from x0tta6bl4.cli import main
from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation
from x0tta6bl4.kernel.lessons import Lesson, Progress
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.monitors.prometheus import PLUGIN
from x0tta6bl4.testing.fakes import FakeHost, tools

Output = pytest.CaptureFixture[str]
DAYS = 14
STEP = 60
PATIENCE = 60.0
HOST = "here:9100"


def written(end: int) -> str:
    """What two weeks would have left behind: two services, and a node_exporter on this host."""
    lines = []
    for family, labels, value in (
        ("queue_length", 'job="shop"', lambda at: 100 + 40 * math.sin(at / 86400 * 2 * math.pi) + at // STEP % 7),
        ("queue_length", 'job="mail"', lambda at: 20 + at // STEP % 5),
        ("node_load1", f'instance="{HOST}"', lambda at: 1 + at // STEP % 3 / 10),
        ("node_uname_info", f'instance="{HOST}",nodename="{socket.gethostname()}"', lambda at: 1),
        ("node_filesystem_avail_bytes", f'instance="{HOST}",mountpoint="/srv",fstype="ext4"', lambda at: 5e9),
        ("node_filesystem_avail_bytes", f'instance="{HOST}",mountpoint="/tmp",fstype="tmpfs"', lambda at: 5e9),
    ):
        if f"# TYPE {family} gauge" not in lines:
            lines.append(f"# TYPE {family} gauge")
        ats = range(end - DAYS * 86400, end + 1, STEP) if family == "queue_length" else range(end - 7200, end + 1, STEP)
        lines += [f"{family}{{{labels}}} {value(at):.6g} {at}" for at in ats]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for program in ("prometheus", "promtool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "past.txt").write_text(written(int(time.time()) // STEP * STEP), encoding="utf-8")
    (folder / "prometheus.yml").write_text("global: {scrape_interval: 1h}\n", encoding="utf-8")
    # One block for all of it: the usual two hours each take promtool most of half a minute.
    argv = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=744h", "past.txt", "data"]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        argv = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        argv += ["--storage.tsdb.retention.time=60d", f"--web.listen-address=127.0.0.1:{port}"]
        process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log)
        try:
            began = time.monotonic()
            while not ready(url):
                assert process.poll() is None and time.monotonic() - began < PATIENCE, (folder / "log").read_text()
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()
            process.wait()


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("X0TTA6BL4_CONFIG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def configured(home: Path, monitors: str) -> None:
    text = f"state_dir: state\nlock_file: lock\nanalyzers: {{baseline: {{}}}}\nmonitors: {{{monitors}}}\n"
    (home / "x.yaml").write_text(text, encoding="utf-8")


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


def observed(url: str, query: str, subject: str) -> list[Observation]:
    config = PLUGIN.config.model_validate({"url": url, "queries": {"seen": {"query": query, "subject": subject}}})
    monitor = PLUGIN.build("prom", config, tools(network=AsyncNetwork(), host=FakeHost()))
    return list(asyncio.run(monitor.observe()))


def test_the_monitor_reads_what_a_real_server_says(prometheus: str) -> None:
    *seen, left_out = observed(prometheus, "queue_length", "job")
    alone, _ = observed(prometheus, "scalar(sum(queue_length))", "=all of them")

    assert ["mail", "shop"] == sorted(one.subject for one in seen)
    assert 0.0 == left_out.value
    assert ("all of them", "seen") == (alone.subject, alone.metric)
    assert [] == observed(prometheus, "no_such_metric", "job")[:-1]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sum by (job (queue_length)", "parse error"),
        ("queue_length[5m]", "gives a matrix where one number a series is wanted"),
        ("count_values('v', 1)", "parse error"),
        ("queue_length * on(job) group_left label_replace(queue_length, 'x', 'y', '', '') * 1", ""),
    ],
)
def test_the_monitor_fails_in_the_words_of_a_real_server(prometheus: str, query: str, words: str) -> None:
    if not words:
        assert observed(prometheus, query, "job")
        return
    with pytest.raises(ProbeFailed, match=words):
        observed(prometheus, query, "job")


def test_two_weeks_are_learnt_in_a_moment_and_taken_over(prometheus: str, home: Path, capsys: Output) -> None:
    configured(home, f"prometheus: {{url: '{prometheus}', queries: {{queue: {{query: queue_length, subject: job}}}}}}")
    assert 0 == learn("--output", "json")
    told = json.loads(capsys.readouterr().out)
    queues = [row for row in told["series"] if row["metric"] == "queue"]

    assert ["mail", "shop"] == sorted(row["subject"] for row in queues)
    for row in queues:
        assert DAYS * 1440 - 5 <= row["points"] <= DAYS * 1440 + 6, "the last value stands for five minutes"
        assert row["until"] - row["since"] > DAYS * 86400 - 600
        assert not row["learning"]
    assert any("node_exporter at " + HOST in note for note in told["notes"])
    assert {"load1", "disk_free_bytes"} == {row["metric"] for row in told["series"]} - {"queue"}
    assert {"host", "disk:/srv"} == {row["subject"] for row in told["series"]} - {"mail", "shop"}

    (lesson,) = lessons(home)
    analyzer = BASELINE.build("baseline", BaselineConfig(), tools())
    for _ in range(2):
        assert "took over what was learnt of 4 series" in analyzer.teach(lesson)
    (low,), (high,) = analyzer.known.engine.band([analyzer.known.seats.row_of["shop", "queue"]])
    assert 40 < low < high < 170
    assert Progress(4, 2) == analyzer.progress()


def test_the_words_of_a_real_server_end_it(prometheus: str, home: Path, capsys: Output) -> None:
    configured(home, "")
    assert 1 == learn("--prometheus", prometheus, "--query", "a=sum(")
    assert "does not take 'sum(': " in (words := capsys.readouterr().err) and "parse error" in words
    assert 2 == learn("--prometheus", prometheus, "--query", "a=queue_length", "--subject", "pod")
    assert "has no label 'pod'; its labels: job" in capsys.readouterr().err
    assert 1 == learn("--prometheus", prometheus, "--query", "a=no_such_metric")
    assert "without any value: a" in capsys.readouterr().out
    assert 1 == learn("--prometheus", prometheus + "/elsewhere", "--query", "a=up")
    assert "answers 404, and not as a Prometheus does" in capsys.readouterr().err
    assert 2 == learn("--prometheus", prometheus, "--instance", "other:9100")
    assert f"no node_exporter is scraped there as 'other:9100'; there are: {HOST}" in capsys.readouterr().err
    assert [] == lessons(home)
