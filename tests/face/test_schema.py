"""The API does what its description says, whatever it is asked: fuzzed from that description, on a real daemon."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4.demo.breaker import ask, break_, free_port

from .live import Daemon, daemon, eventually, fetch

pytestmark = pytest.mark.face
validate = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed").validate

CARE = """\
subjects:
  sample:
    process:
      command: ["${{python}}", -m, x0tta6bl4.demo.victim, --port, "{sample}", --folder, "${{config_dir}}"]
      on_exit: stop
    work: http://127.0.0.1:{sample}/work
    mode: approve
"""
SEED = "20"
"""Always the same cases: what fails here fails again."""
EXAMPLES = {"admin": 20, "read": 5, None: 5}
"""For each operation, by the scope that asks; None shows no key at all."""
STREAMS = ("/api/v1/events", "/ws")
"""Their good answers do not end, so no client that waits for one can judge them; their refusals are judged below."""
NOT_IN_A_SCHEMA = "positive_data_acceptance"
"""The one check that is left out: a cursor must be one that was given out, an end must lie ahead, text must be
printable, and what a command takes depends on its name. No schema says so; all of it is refused with a documented 422.
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """With an open incident and a question that waits, so that there is something to be told."""
    sample = free_port()
    with daemon(tmp_path_factory.mktemp("schema") / "daemon", CARE.format(sample=sample)) as told:
        eventually("the service works", lambda: ask(sample).status == 200)
        break_(sample, "kill")
        eventually("a question", lambda: told.status()["approvals_wanted"])
        yield told


def key(running: Daemon, scope: str) -> str:
    words = ("keys", "create", f"fuzz-{scope}", "--scope", scope, "--per-minute", "1000000")
    made: str = json.loads(running.command("--output", "json", *words))["key"]
    return made


def document(running: Daemon) -> Any:
    status, body = fetch(running.port, "/openapi.json")
    assert 200 == status
    return json.loads(body)


def test_the_description_is_openapi(running: Daemon) -> None:
    described = document(running)

    validate(described)

    assert described["openapi"].startswith("3.1.")
    assert {"/health", "/api/v1/incidents/{id}", "/api/v1/commands", *STREAMS} <= described["paths"].keys()


@pytest.mark.parametrize("scope", EXAMPLES)
def test_no_request_finds_an_answer_that_is_not_described(running: Daemon, tmp_path: Path, scope: str | None) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(document(running)), encoding="utf-8")
    left_out = [word for path in STREAMS for word in ("--exclude-path", path)]
    shown = ["--header", f"Authorization: Bearer {key(running, scope)}"] if scope is not None else []

    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("run", "openapi.json", "--url", f"http://127.0.0.1:{running.port}", *shown, *left_out),
            *("--checks", "all", "--exclude-checks", NOT_IN_A_SCHEMA, "--continue-on-failure"),
            *("--max-examples", str(EXAMPLES[scope]), "--request-timeout", "30", "--seed", SEED),
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    cases = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert cases is not None, done.stdout
    assert int(cases[1]) == int(cases[2]) > 500, done.stdout
    log = (running.folder / "daemon.log").read_text(encoding="utf-8")
    assert running.process.poll() is None
    assert "Traceback" not in log


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize(
    "query",
    ["types=nix", "types=" + "a," * 500, "subject=" + "&subject=".join(map(str, range(51))), "nix=1", "%ff=%00"],
)
def test_a_stream_is_refused_as_it_is_described(running: Daemon, path: str, query: str) -> None:
    status, body = fetch(running.port, f"{path}?{query}", headers={"X-API-Key": running.key})

    refused = document(running)["paths"][path]["get"]["responses"][str(status)]
    assert "application/problem+json" in refused["content"]
    assert {"type", "title", "status", "detail", "instance", "error"} == json.loads(body).keys()
    assert 400 <= status < 500
