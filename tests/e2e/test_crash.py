"""The daemon, killed at any instant, loses nothing and repeats nothing blindly; and who does is found out."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.crash import AIMS, Aim, Report, Round, crash, draw_rounds

pytestmark = pytest.mark.slow

START = """
import pathlib, sys
from x0tta6bl4 import app
from x0tta6bl4.executors.command import CommandExecutor
from x0tta6bl4.kernel.respond import Responder
from x0tta6bl4.knowledge.sqlite import SqliteKnowledge
{broken}
app.run(pathlib.Path(sys.argv[1]), {{}})
"""

NEVER_LOOKS = """
async def nothing(self):
    return []
SqliteKnowledge.unfinished = nothing
"""

ACTS_BEFORE_THE_INTENT = """
intend, end = SqliteKnowledge.record_intent, SqliteKnowledge.record_outcome
kept = {}
async def later(self, step, plan, epoch, **more):
    kept[step.id] = (step, plan, epoch), more
async def both(self, step, outcome, incident=None):
    if step in kept:
        values, more = kept.pop(step)
        await intend(self, *values, **more)
    await end(self, step, outcome, incident)
SqliteKnowledge.record_intent, SqliteKnowledge.record_outcome = later, both
"""

REPEATS_BLINDLY = """
settle = Responder.settle_unknown
async def again(self, step, incident, intent_at):
    executor, _ = self.catalogue.find(step.action)
    await executor.act(step)
    return await settle(self, step, incident, intent_at)
Responder.settle_unknown = again
"""

CLAIMS_WHAT_IT_DID_NOT_DO = """
from x0tta6bl4.kernel.plugin import Effect
async def nothing(self, step):
    return Effect("ran it, it says")
CommandExecutor.act = nothing
"""


def daemon(folder: Path, broken: str) -> Sequence[str]:
    script = folder / "daemon.py"
    script.write_text(START.format(broken=broken))
    return sys.executable, str(script)


def in_the_middle(rounds: int) -> list[Round]:
    """Deaths between an intent and its outcome only, where each way to be wrong shows at once."""
    aims = [(1, Aim("acting command.trace", 0.03, 0.12)), (1, Aim("acting process.restart", 0.1, 1.0))]
    return draw_rounds(rounds, 7, aims, again=0.0)


def said(report: Report) -> str:
    return "\n".join(report.wrong)


def test_killed_at_random_instants_it_loses_nothing_and_repeats_nothing_blindly(tmp_path: Path) -> None:
    report = crash(tmp_path, draw_rounds(18, 5), hosts=3)

    assert not report.wrong, said(report)
    assert report.rounds == 18
    assert report.looked_up > 0, f"no death fell into the middle of an action: {report.phases}"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        pytest.param(NEVER_LOOKS, "was interrupted and never got an outcome", id="never-looks"),
        pytest.param(ACTS_BEFORE_THE_INTENT, "no intent speaks of it", id="acts-before-the-intent"),
        pytest.param(REPEATS_BLINDLY, "no intent speaks of it", id="repeats-blindly"),
        pytest.param(CLAIMS_WHAT_IT_DID_NOT_DO, "is said to have been executed, and was not", id="claims"),
    ],
)
def test_a_daemon_that_is_broken_on_purpose_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, words: str
) -> None:
    monkeypatch.setattr("benchmarks.crash.PATIENCE", 12.0)  # what is lost does not come back, however long one waits

    report = crash(tmp_path, in_the_middle(6), hosts=1, daemon=daemon(tmp_path, broken))

    assert words in said(report)


def test_the_instants_are_the_same_for_the_same_seed_and_reach_every_aim() -> None:
    rounds = draw_rounds(200, 3)

    assert rounds == draw_rounds(200, 3)
    assert {one.aim for one in rounds} == {aim for _, aim in AIMS}
    assert any(one.again is not None for one in rounds)
    assert {one.kind for one in rounds} == {"kill", "hang", "memory"}
