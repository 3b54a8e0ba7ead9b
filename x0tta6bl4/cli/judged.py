"""Shows how something was judged: which series, the number that decided, and what would have been no finding."""

from collections.abc import Sequence

from x0tta6bl4.cli.display import Display
from x0tta6bl4.kernel.facts import Incident
from x0tta6bl4.kernel.incidents import is_soft
from x0tta6bl4.kernel.judged import judged_of
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.status.judgements import UNHEARD, CauseTold, MemberTold, SeriesJudged, how_judged

FORETOLD = ("leaking-", "filling-", "draining-")
"""How faults begin that are forecasts: those, too, are judged by what was learnt."""
MEMBERS = 10
"""Of what was found with it; ``--output json`` has all of it."""


def tell_judged(display: Display, incident: Incident) -> None:
    """Nothing, where nothing is known of it."""
    how = how_judged(incident)
    if how["series"]:
        display.line("How it was judged:", 2)
        for one in how["series"]:
            _tell_series(display, one, is_only=len(how["series"]) == 1)
        if how["more_series"]:
            display.line(f"and {how['more_series']} more series", 4)
    if how["causes"]:
        display.line("Likely causes, the likeliest first:", 2)
        for number, cause in enumerate(how["causes"], 1):
            display.line(f"{number}. {_cause(cause)}", 4)
    if how["together"]:
        display.line("Found together with it:", 2)
        for member in how["together"][:MEMBERS]:
            display.line(_member(member), 4)
        left = len(how["together"]) + how["more_together"] - MEMBERS
        if left > 0:
            display.line(f"and {left} more", 4)
    part = how["part_of"]
    if part is not None:
        display.line(
            f"It is a part of {part['incident']} ({part['subject']} is {part['fault']}); "
            f"`x0tta6bl4 why {part['incident']}` tells of that one.",
            2,
        )
    if how["storm"] and how["storm"] != incident.id:
        display.line(f"It came in a storm of faults; {how['storm']} stands for it.", 2)


def tell_verdicts(display: Display, incident: Incident, verdicts: Sequence[Lesson]) -> None:
    if verdicts:
        display.line("What people said of it:", 2)
        for lesson in verdicts:
            word = "it was right" if lesson.right else "it was a false alarm"
            why = f": {lesson.why}" if lesson.why else ""
            display.line(f"{display.when(lesson.at)} {lesson.who}: {word}{why}", 4)
            display.line(f"what came of it: {lesson.said or UNHEARD}", 6)
    elif judged_of(incident.data) and (
        is_soft(incident.fault, incident.data) or incident.fault.startswith(FORETOLD) or incident.data.get("together")
    ):  # of the others nobody learns, whatever is said
        display.line(
            f"Was it right to tell? `x0tta6bl4 feedback {incident.id} right` or `false-alarm` teaches what learns.", 2
        )


def _tell_series(display: Display, one: SeriesJudged, *, is_only: bool) -> None:
    share = "" if is_only or one["share"] is None else f", {one['share']:.0%} of the decision"
    usual = f", well {one['usual']}" if one["usual"] else ""
    why = f" ({one['why']})" if one["why"] else ""
    display.line(f"{one['subject']} {one['metric']} was {one['was']}{usual}{share}{why}", 4)
    if one["decided"]:
        display.line(f"what decided: {one['decided']}", 6)
    if one["otherwise"]:
        display.line(one["otherwise"], 6)


def _cause(cause: CauseTold) -> str:
    share = "" if cause["share"] is None else f" ({cause['share']:.0%})"
    why = f": {cause['why']}" if cause["why"] else ""
    return f"{cause['subject']} {cause['name']}{share}{why}"


def _member(member: MemberTold) -> str:
    return f"{member['subject']} is {member['fault']}" + (f": {member['summary']}" if member["summary"] else "")
