"""The monitor that asks a Prometheus: what it reports, what it refuses to guess, and in whose words it fails."""

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from pydantic import ValidationError

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Lost, Observation
from x0tta6bl4.kernel.plugin import SpeaksOf
from x0tta6bl4.monitors.prometheus import BYTES_A_SERIES, LEFT_OUT, PLUGIN, Config, subject_named
from x0tta6bl4.testing.fakes import FakeHost, FakeNetwork, tools
from x0tta6bl4.testing.virtual_time import run

URL = "http://127.0.0.1:9090"
RATE = 'sum by (instance) (rate(http_requests_total{code=~"5.."}[5m]))'


def at(query: str, base: str = URL) -> str:
    return f"{base}/api/v1/query?{urlencode({'query': query})}"


def told(kind: str, result: Any) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()


def vector(*series: tuple[dict[str, str], str]) -> bytes:
    return told("vector", [{"metric": labels, "value": [1767225600.123, value]} for labels, value in series])


class Watched:
    """The monitor and the world that it looks at."""

    def __init__(self, queries: dict[str, Any], **more: Any) -> None:
        self.network = FakeNetwork()
        self.host = FakeHost()
        settings = {"url": URL, "queries": queries, **more}
        config = PLUGIN.config.model_validate(settings)
        self.monitor = PLUGIN.build("prom", config, tools(network=self.network, host=self.host))

    def look(self) -> list[Observation]:
        return list(run(self.monitor.observe()))

    def numbers(self) -> dict[tuple[str, str], float]:
        return {(one.subject, one.metric): one.value for one in self.look() if one.metric != LEFT_OUT}

    def failure(self) -> str:
        with pytest.raises(ProbeFailed) as failed:
            self.look()
        return str(failed.value)


def test_each_series_becomes_a_number_of_the_subject_that_its_label_names() -> None:
    watched = Watched({"errors_per_second": {"query": RATE}})
    watched.network.answer(
        at(RATE), body=vector(({"instance": "a:80"}, "0.25"), ({"instance": "b:80", "job": "web"}, "1e-3"))
    )

    assert {("a:80", "errors_per_second"): 0.25, ("b:80", "errors_per_second"): 0.001} == watched.numbers()


def test_a_subject_is_a_label_a_text_with_labels_or_a_fixed_name() -> None:
    labels = {"mountpoint": "/srv", "device": "/dev/sdb"}

    assert "/srv" == subject_named("mountpoint", labels)
    assert "disk:/srv" == subject_named("disk:{mountpoint}", labels)
    assert "/dev/sdb at /srv" == subject_named("{device} at {mountpoint}", labels)
    assert "the shop" == subject_named("=the shop", labels)


def test_the_detail_of_a_number_is_the_label_that_was_chosen() -> None:
    watched = Watched({"free": {"query": "free", "subject": "disk:{mountpoint}", "detail": "device"}})
    watched.network.answer(at("free"), body=vector(({"mountpoint": "/", "device": "/dev/sda"}, "7")))
    seen, _ = watched.look()

    assert ("disk:/", "free", 7.0, "/dev/sda") == (seen.subject, seen.metric, seen.value, seen.detail)


def test_a_single_number_wants_a_fixed_subject() -> None:
    named = Watched({"targets": {"query": "scalar(count(up))", "subject": "=fleet"}})
    unnamed = Watched({"targets": {"query": "scalar(count(up))"}})
    for watched in (named, unnamed):
        watched.network.answer(at("scalar(count(up))"), body=told("scalar", [1767225600, "12"]))

    assert {("fleet", "targets"): 12.0} == named.numbers()
    assert "name its subject, as in subject: =shop" in unnamed.failure()


def test_what_is_no_finite_number_is_left_out() -> None:
    watched = Watched({"ratio": {"query": "x"}})
    values = {"nan": "NaN", "inf": "+Inf", "minus": "-Inf", "large": "1e400", "small": "-0.5"}
    watched.network.answer(at("x"), body=vector(*(({"instance": name}, value) for name, value in values.items())))

    assert {("small", "ratio"): -0.5} == watched.numbers()


def test_a_series_that_the_server_has_no_number_for_any_more_is_lost_once() -> None:
    watched = Watched({"load": {"query": "x"}})
    watched.network.answer(at("x"), body=vector(({"instance": "a"}, "1"), ({"instance": "b"}, "2")))
    watched.look()
    watched.network.answer(at("x"), body=vector(({"instance": "a"}, "1"), ({"instance": "b"}, "NaN")))
    gone = [one for one in watched.look() if isinstance(one, Lost)]
    again = [one for one in watched.look() if isinstance(one, Lost)]

    assert [("b", "load")] == [(one.subject, one.metric) for one in gone]
    assert [] == again


def test_two_series_of_one_name_are_a_mistake_and_never_one_of_them() -> None:
    watched = Watched({"load": {"query": "x"}})
    watched.network.answer(
        at("x"), body=vector(({"instance": "a", "cpu": "0"}, "1"), ({"instance": "a", "cpu": "1"}, "2"))
    )
    words = watched.failure()

    assert "the query for load" in words and "more than one series is called 'a'" in words
    assert 'cpu="1"' in words and "sum by" in words


def test_a_series_without_the_label_is_told_with_those_that_it_has() -> None:
    watched = Watched({"load": {"query": "x", "subject": "pod"}})
    watched.network.answer(at("x"), body=vector(({"__name__": "x", "instance": "a", "job": "j"}, "1")))

    assert "has no label 'pod'; its labels: instance, job" in watched.failure()


def test_more_series_than_allowed_are_cut_by_name_and_it_is_told() -> None:
    watched = Watched({"load": {"query": "x"}, "other": {"query": "y"}}, most_series=2)
    watched.network.answer(at("x"), body=vector(*(({"instance": name}, "1") for name in "dacb")))
    watched.network.answer(at("y"), body=vector(({"instance": "z"}, "1")))
    *seen, left_out = watched.look()

    assert [("a", "load"), ("b", "load"), ("z", "other")] == [(one.subject, one.metric) for one in seen]
    assert ("prom", LEFT_OUT, 2.0, "2 of load") == (
        left_out.subject,
        left_out.metric,
        left_out.value,
        left_out.detail,
    )


def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    watched = Watched({"load": {"query": "x"}}, most_series=1)
    watched.network.answer(at("x"), body=b"[" * 10_000_000)

    assert f"with more than {65536 + BYTES_A_SERIES} bytes; narrow the query down" in watched.failure()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            400,
            b'{"status":"error","errorType":"bad_data","error":"1:5: parse error: unexpected )"}',
            "does not take 'x': 1:5: parse error: unexpected ); mend the query",
        ),
        (
            422,
            b'{"status":"error","errorType":"execution","error":"too many samples"}',
            "could not answer 'x': too many samples (execution)",
        ),
        (401, b"Unauthorized", "answers 401: it wants to know who asks"),
        (302, b"<a href=/login>", "sends us on to /login"),
        (200, b"<html>Grafana</html>", "answers 200, and not as a Prometheus does: '<html>Grafana</html>'"),
        (200, b'{"status":"success"}', "not as a Prometheus does"),
        (200, b"[" * 50_000, "not as a Prometheus does"),
        (404, b"\xff\xfe", "is it the address of a Prometheus, with its path?"),
    ],
)
def test_a_failure_is_told_in_the_servers_own_words(status: int, body: bytes, words: str) -> None:
    watched = Watched({"load": {"query": "x"}})
    watched.network.answer(at("x"), status, body, headers={"Location": "/login"})

    assert words in watched.failure()


def test_a_server_that_is_away_is_blindness_and_no_number() -> None:
    assert "refused the connection" in Watched({"load": {"query": "x"}}).failure()


@pytest.mark.parametrize(
    ("kind", "result", "words"),
    [
        ("matrix", [], "gives a matrix where one number a series is wanted"),
        ("string", [1, "x"], "gives a string"),
        ("vector", [{"metric": {"instance": "a"}, "histogram": [1, {}]}], "histogram_quantile"),
        ("vector", [{"metric": {"instance": "a"}, "value": [1, 2]}], "not a sample"),
        ("vector", [{"metric": {"instance": "a"}, "value": [1, "two"]}], "the query for load"),
        ("vector", [{"value": [1, "2"]}], "not a series"),
        ("vector", ["a"], "not a series"),
    ],
)
def test_what_is_no_number_a_series_is_refused_in_words(kind: str, result: Any, words: str) -> None:
    watched = Watched({"load": {"query": "x"}})
    watched.network.answer(at("x"), body=told(kind, result))

    assert words in watched.failure()


def test_one_query_that_fails_tells_nothing_of_the_others_either() -> None:
    watched = Watched({"load": {"query": "x"}, "other": {"query": "y"}})
    watched.network.answer(at("x"), body=vector(({"instance": "a"}, "1")))

    assert "refused" in watched.failure()


def test_the_path_of_the_server_stands_before_the_api() -> None:
    watched = Watched({"load": {"query": "x"}}, url="https://example.org/prometheus/")
    watched.network.answer(at("x", "https://example.org/prometheus"), body=vector(({"instance": "a"}, "1")))

    assert {("a", "load"): 1.0} == watched.numbers()


def test_the_files_of_secrets_are_read_at_each_look() -> None:
    watched = Watched({"load": {"query": "x"}}, token_file="/etc/token", headers_file="/etc/headers")
    watched.network.answer(at("x"), body=vector())
    watched.host.texts |= {"/etc/token": "first\n", "/etc/headers": "# whose\nX-Scope-OrgID:  shop\n\n"}
    watched.look()
    watched.host.texts["/etc/token"] = "second"
    watched.look()

    assert [
        {"X-Scope-OrgID": "shop", "Authorization": "Bearer first"},
        {"X-Scope-OrgID": "shop", "Authorization": "Bearer second"},
    ] == [request.headers for request in watched.network.requests]


@pytest.mark.parametrize(
    ("token", "headers", "words"),
    [
        (None, "", "/etc/token cannot be read"),
        ("two\nlines", "", "/etc/token should have the token in it, in one line"),
        ("", "", "/etc/token should have the token in it"),
        ("t", "no header", "/etc/headers:1 is no header"),
        ("t", "A: b\nC: \x01secret", "/etc/headers:2 is no header"),
    ],
)
def test_a_broken_file_of_secrets_is_told_without_the_secret(token: str | None, headers: str, words: str) -> None:
    watched = Watched({"load": {"query": "x"}}, token_file="/etc/token", headers_file="/etc/headers")
    watched.host.texts["/etc/headers"] = headers
    if token is not None:
        watched.host.texts["/etc/token"] = token
    told_words = watched.failure()

    assert words in told_words
    assert "secret" not in told_words and "lines" not in told_words.replace("one line", "")
    assert [] == watched.network.requests


def test_what_is_asked_of_fixed_subjects_is_known_beforehand() -> None:
    queries = {"a": {"query": "x", "subject": "=shop"}, "b": {"query": "y", "subject": "=shop"}, "c": {"query": "z"}}

    monitor = Watched(queries).monitor

    assert isinstance(monitor, SpeaksOf)
    assert ("shop",) == monitor.subjects


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"queries": {}}, "at least 1 item"),
        ({"queries": {"Load": {"query": "x"}}}, "should match pattern"),
        ({"queries": {"load": {"query": ""}}}, "at least 1 character"),
        ({"queries": {"load": {"query": "x", "subject": "a b"}}}, "should be a label such as instance"),
        ({"queries": {"load": {"query": "x", "subject": "disk:{mount point}"}}}, "labels in its braces"),
        ({"queries": {"load": {"query": "x", "subject": "= "}}}, "behind the equals sign"),
        ({"queries": {"load": {"query": "x", "detail": "a-b"}}}, "the name of a label"),
        ({"queries": {"load": {"query": "x"}}, "url": "127.0.0.1:9090"}, "should be http://HOST"),
        ({"queries": {"load": {"query": "x"}}, "url": "http://me:pw@h"}, "without a user"),
        ({"queries": {"load": {"query": "x"}}, "url": "http://h/?a=b"}, "end with the path"),
        ({"queries": {"load": {"query": "x"}}, "url": "http://h:99999"}, "should be a URL"),
        ({"queries": {"load": {"query": "x"}}, "token_file": "token"}, "should match pattern"),
    ],
)
def test_a_mistake_in_the_settings_is_told(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Config.model_validate({"url": URL, **settings})
