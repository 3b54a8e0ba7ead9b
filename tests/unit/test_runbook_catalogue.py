"""The catalogue: what the executors offer, what a runbook asks for, and what the two do not have in common."""

from typing import Any

import pytest

from x0tta6bl4.executors import cleanup, command, notify, process, systemd
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.runbooks.catalogue import ActionSpec, Resolved, catalogue_of, check, resolved
from x0tta6bl4.runbooks.document import Runbook, read
from x0tta6bl4.runbooks.shipped import shipped
from x0tta6bl4.runbooks.strategy import Rung
from x0tta6bl4.testing.contract import UntouchedTools


@pytest.fixture(scope="module")
def catalogue() -> dict[str, ActionSpec]:
    tools = UntouchedTools().tools
    commands: Any = {
        "commands": {
            "reload-web": {"argv": ["/bin/kill", "-HUP", "{pid}"], "slots": {"pid": {"type": "number"}}},
            "look": {"argv": ["/bin/true"], "disruptive": False},
        }
    }
    return catalogue_of(
        module.PLUGIN.build(name, module.PLUGIN.config.model_validate(settings), tools)
        for name, module, settings in (
            ("process", process, {}),
            ("systemd", systemd, {}),
            ("cleanup", cleanup, {}),
            ("notify", notify, {}),
            ("command", command, commands),
        )
    )


def one(do: str, more: str = "") -> Runbook:
    (book,) = read(
        f"runbook: x\nsummary: s\ntrigger: {{anomaly: a{more}}}\n"
        f"states: {{a: {{do: {do}, done: end, failed: end, unknown: end}}, end: {{final: true}}}}",
        "x.yaml",
        prove=False,
    )
    return book


def told(book: Runbook, catalogue: dict[str, ActionSpec], *subjects: Subject) -> list[str]:
    return [str(problem) for problem in check(book, catalogue, subjects)]


# -- what there is -----------------------------------------------------------------------------------------------------


def test_every_action_says_what_it_can_hurt_and_whether_twice_is_once(catalogue: dict[str, ActionSpec]) -> None:
    said = {name: (spec.blast, spec.idempotent) for name, spec in catalogue.items()}

    assert said["notify.human"] == ("none", True)
    assert said["process.restart"] == ("process", False)
    assert said["systemd.restart"] == ("service", False)
    assert said["systemd.kill"] == ("service", False)
    assert said["cleanup.free"] == ("service", True)
    assert said["command.reload-web"] == ("service", False)
    assert said["command.look"] == ("none", True)
    assert not [name for name, spec in catalogue.items() if spec.is_reboot_class]


def test_what_may_be_repeated_is_idempotent_and_what_takes_back_exists(catalogue: dict[str, ActionSpec]) -> None:
    for spec in catalogue.values():
        assert spec.idempotent or spec.on_unknown != "retry", spec.name
        assert not spec.undo or spec.undo in catalogue, spec.name


def test_how_long_an_action_may_take_is_what_its_executor_says(catalogue: dict[str, ActionSpec]) -> None:
    said = {name: spec.timeout for name, spec in catalogue.items()}

    # Longer than what bounds it from inside, or that would never be heard of.
    assert said["command.look"] > command.Command(argv=["/bin/true"]).timeout
    assert said["process.restart"] > process.RestartArgs().grace
    assert said["systemd.restart"] == 2 * said["systemd.stop"] > 180.0
    assert said["process.signal"] < said["process.start"] < said["cleanup.free"]


@pytest.mark.parametrize(
    ("blast", "is_one"), [("none", False), ("service", False), ("host", True), ("cluster", True), ("galaxy", True)]
)
def test_what_takes_a_host_is_like_a_reboot_in_the_catalogue_and_in_a_ladder(blast: Any, is_one: bool) -> None:
    assert ActionSpec("x.y", blast=blast).is_reboot_class is is_one
    assert Rung("a", ("x.y",), blast=blast).is_fixed is is_one


def test_the_shipped_runbooks_ask_for_nothing_that_is_not_there(catalogue: dict[str, ActionSpec]) -> None:
    for book in shipped():
        assert told(book, catalogue) == []


# -- what is asked for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "part"),
    [
        ("process.restrat", "there is no action 'process.restrat' (did you mean 'process.restart'?)"),
        ("service.restrat", "did you mean 'service.restart'?"),
        ("k8s.delete", "there is no action 'k8s.delete'"),
        ("{action: process.restart, args: {grase: 1s}}", "no such argument of process.restart (did you mean 'grace'?)"),
        ("{action: cleanup.free, args: {all: true}}", "takes no arguments"),
        ("{action: process.restart, args: {grace: soon}}", "should be a duration"),
        ("{action: service.restart, args: {grace: soon}}", "should be a duration"),
        ("process.signal", "do.args.signal: is missing"),
        ("{action: process.start, undo: process.halt}", "there is no action 'process.halt' to take it back"),
        ("{action: process.restart, on_unknown: retry}", "done twice is not the same"),
    ],
)
def test_what_does_not_exist_or_fit_is_told(do: str, part: str, catalogue: dict[str, ActionSpec]) -> None:
    found = told(one(do), catalogue)

    assert [line for line in found if part in line], found


@pytest.mark.parametrize(
    "do",
    [
        "notify.human",
        "{action: process.signal, args: {signal: HUP}}",
        "{action: process.signal, args: {signal: =incident.signal}}",
        "{action: process.start, on_unknown: retry, undo: process.stop}",
        "{action: service.restart, args: {grace: 1s}, undo: service.start}",
        "{action: dependency.restart, args: {grace: incident.grace}}",
        "{action: command.reload-web, args: {pid: 12}}",
    ],
)
def test_what_fits_is_let_pass(do: str, catalogue: dict[str, ActionSpec]) -> None:
    assert told(one(do), catalogue) == []


def test_what_cannot_be_looked_up_afterwards_must_be_asked_about() -> None:
    catalogue = {"x.fence": ActionSpec("x.fence", on_unknown="ask", blast="host")}

    assert "write on_unknown: ask" in told(one("x.fence"), catalogue)[0]
    assert told(one("{action: x.fence, on_unknown: ask}"), catalogue) == []
    assert "never repeated" in told(one("{action: x.fence, on_unknown: ask, retry: {max: 2}}"), catalogue)[0]


def test_what_a_service_verb_means_is_what_its_subjects_say(catalogue: dict[str, ActionSpec]) -> None:
    web = Subject("web", controller={"restart": "command.reload-web"})
    book = one("{action: service.restart, args: {grace: 1s, pid: none}}")

    assert [line for line in told(book, catalogue, web) if "do.args.pid: " in line and "number" in line]
    assert [line for line in told(book, catalogue) if "no such argument" in line]


def test_subjects_that_a_runbook_is_not_for_say_nothing(catalogue: dict[str, ActionSpec]) -> None:
    db = Subject("db", controller={"restart": "command.reload-web"})
    book = one("{action: service.restart, args: {grace: 1s}}", ", subjects: [web*]")

    assert told(book, catalogue, db) == []


# -- what it comes to --------------------------------------------------------------------------------------------------

WEB = Subject("web", depends_on=("db", "gone"), controller={"restart": "process.restart", "start": "process.start"})
DB = Subject("db", controller={"restart": "systemd.restart"})
ONLY_START = Subject("web", controller={"start": "command.start-web"})


@pytest.mark.parametrize(
    ("action", "subject", "fault", "wanted"),
    [
        ("service.restart", WEB, "hung", [("process.restart", "web")]),
        ("dependency.restart", WEB, "hung", [("systemd.restart", "db")]),
        ("notify.human", WEB, "hung", [("notify.human", "web")]),
        ("service.reload", WEB, "hung", []),
        ("dependency.restart", DB, "hung", []),
        ("service.restart", ONLY_START, "dead", [("command.start-web", "web")]),
        ("service.restart", ONLY_START, "hung", []),
    ],
)
def test_a_role_comes_to_the_action_of_whoever_plays_it(
    action: str, subject: Subject, fault: str, wanted: list[tuple[str, str]]
) -> None:
    assert resolved(action, subject, {"web": WEB, "db": DB}, fault) == tuple(Resolved(*one) for one in wanted)
