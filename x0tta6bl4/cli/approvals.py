"""Lists what waits for a person's approval, and answers for one: approved or rejected."""

import asyncio
from argparse import Namespace

from x0tta6bl4.cli.display import Display
from x0tta6bl4.cli.exits import BAD, OK, Refusal, quoted
from x0tta6bl4.cli.places import opened, place_of, who
from x0tta6bl4.kernel.memory import plain
from x0tta6bl4.settings.mistakes import nearest


def listed(args: Namespace) -> int:
    return asyncio.run(_listed(args, Display(args)))


def approve(args: Namespace) -> int:
    return asyncio.run(_answer(args, Display(args), True))


def reject(args: Namespace) -> int:
    return asyncio.run(_answer(args, Display(args), False))


async def _listed(args: Namespace, display: Display) -> int:
    place = place_of(args)
    async with opened(place) as knowledge:
        wanted = [a for a in await knowledge.approvals("wanted", limit=1000) if a.expires > display.now]
        plans = {a.plan: await knowledge.plan(a.plan) for a in wanted}
    if display.as_json:
        display.json(
            {
                "approvals": [{**plain(a), "steps": p.steps if (p := plans[a.plan]) else ()} for a in wanted],
                "daemon": place.daemon,
            }
        )
        return OK
    if not wanted:
        display.line("Nothing waits for approval.")
        return OK
    rows = []
    for approval in wanted:
        plan = plans[approval.plan]
        steps = ", ".join(f"{s.action} on {s.target}" for s in plan.steps) if plan else "?"
        rows.append(
            (approval.plan, plan.subject if plan else "?", steps, display.ago(approval.expires), approval.why or "-")
        )
    display.table(("PLAN", "SUBJECT", "WHAT WOULD BE DONE", "EXPIRES", "WHY"), rows)
    display.line(f"`x0tta6bl4 approve {wanted[0].plan}` or `x0tta6bl4 reject {wanted[0].plan}` answers.")
    if place.daemon is None:
        display.line("No daemon runs: what is approved is done when one runs before it expires.")
    return OK


async def _answer(args: Namespace, display: Display, approve: bool) -> int:
    place, asker = place_of(args), who()
    async with opened(place) as knowledge:
        approval = await knowledge.answer_approval(args.plan, approve, asker, args.why)
        if approval is None:
            waiting = [a.plan for a in await knowledge.approvals("wanted") if a.expires > display.now]
            hint = nearest(args.plan, waiting) if waiting else "nothing waits for approval now"
            raise Refusal(f"no plan {quoted(args.plan)} waits for approval; {hint}")
        plan = await knowledge.plan(args.plan)
    # Taken when what stands there is ours and not older than this command: somebody else may have been quicker.
    wanted = "approved" if approve else "rejected"
    taken = approval.state == wanted and approval.who == asker and approval.at >= display.now
    if display.as_json:
        display.json({"taken": taken, "approval": approval, "plan": plan, "daemon": place.daemon})
        return OK if taken else BAD
    steps = ", ".join(f"{s.action} on {s.target}" for s in plan.steps) if plan else args.plan
    if not taken and approval.state == "expired":
        display.line(
            f"Too late: {args.plan} expired {display.when(approval.expires)}. If the fault is still there, the "
            "daemon asks anew."
        )
    elif not taken:
        display.line(
            f"{args.plan} was {approval.state} before, by {approval.who} {display.when(approval.at)}; that stands."
        )
    elif not approve:
        display.line(f"Rejected: {steps}. It is left to people now.")
    else:
        display.line(
            f"Approved: {steps}. The other checks of the guard still count; `x0tta6bl4 why "
            f"{plan.subject if plan else 'TARGET'}` tells what came of it."
        )
        if place.daemon is None:
            display.line(f"No daemon runs: it is done when one runs before {display.clock(approval.expires)}.")
    return OK if taken else BAD
