"""The guard: one ordered chain of pure checks between a plan and the world. Each says allow, hold or deny, and why."""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from x0tta6bl4.kernel.facts import Answer, Incident, Plan, Result, Step, Verdict
from x0tta6bl4.kernel.flags import FeatureFlags
from x0tta6bl4.kernel.memory import ActionRecord, Approval, Pause
from x0tta6bl4.kernel.plugin import Action
from x0tta6bl4.kernel.policy import Budget, GuardPolicy, Maintenance
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.subjects import MODES, Subject

UNHELPFUL = frozenset({Result.REFUTED, Result.FAILED, Result.UNVERIFIED, Result.REFUSED})
NOTHING_AGAINST = "nothing against it"
TELLS = "notify"
"""The executor whose messages are spaced out: people read them."""
FOR_UNDOING = ("kill switch", "maintenance", "allowlist")
"""The checks that hold for a step that takes back another one: the others were asked when that one was let through."""
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Ledger:
    """The actions of the recent past, as the journal has them: what budgets, backoff and brakes are counted from.

    Filled from the journal at start, so that a restart of the daemon forgives nothing.
    """

    def __init__(self, records: Iterable[ActionRecord] = (), keep: float = 86400.0) -> None:
        self._keep = keep
        self._records: deque[ActionRecord] = deque(sorted(records, key=lambda r: r.at))
        self._told_wall = float("inf")

    def __len__(self) -> int:
        return len(self._records)

    def begun(self, record: ActionRecord) -> None:
        """Counts from now on. Called when it is allowed, and once more when its intent is written."""
        self.never_begun(record.step_id)
        while self._records and record.at - self._records[0].at > self._keep:
            self._records.popleft()
        self._records.append(record)

    def never_begun(self, step_id: str) -> None:
        """It was allowed and did not come to it."""
        for index in range(len(self._records) - 1, -1, -1):
            if self._records[index].step_id == step_id and self._records[index].result is None:
                del self._records[index]
                return

    def not_after(self, wall: float) -> None:
        """The clock was set back: what would lie ahead counts as done now, or it would be waited for until then."""
        told, self._told_wall = self._told_wall, wall
        if wall < told:
            self._records = deque(
                replace(r, at=min(r.at, wall), ended_at=None if r.ended_at is None else min(r.ended_at, wall))
                for r in self._records
            )

    def ended(self, step_id: str, result: Result, at: float, *, unknown: bool = False) -> None:
        for index in range(len(self._records) - 1, -1, -1):
            if self._records[index].step_id == step_id:
                self._records[index] = replace(self._records[index], result=result, ended_at=at, unknown=unknown)
                return

    def since(self, wall: float, matches: Callable[[ActionRecord], bool]) -> list[ActionRecord]:
        taken = []
        for record in reversed(self._records):
            if record.at < wall:
                break
            if matches(record):
                taken.append(record)
        taken.reverse()
        return taken

    def of_target(self, target: str) -> list[ActionRecord]:
        return [r for r in self._records if r.target == target]

    def latest_of(self, incident: str) -> ActionRecord | None:
        return next((r for r in reversed(self._records) if r.incident == incident), None)

    def equal_tries(self, subject: str, now: float, calm: float) -> tuple[str, int]:
        """The latest action for the subject, and how often in a row it was taken with less than ``calm`` s between.

        On the same target: to restart what it depends on is another step than to restart it.
        """
        latest, target, count, at = "", "", 0, now
        for record in reversed(self._records):
            if record.subject != subject or _is_look(record):
                continue  # to have looked in between makes no other step of it
            if at - (record.ended_at or record.at) > calm:
                break
            if not latest:
                latest, target = record.action, record.target
            if (record.action, record.target) != (latest, target):
                break
            count, at = count + 1, record.at
        return latest, count

    def done_for(self, incident: str) -> int:
        return sum(r.incident == incident and r.disruptive for r in self._records)

    def latest_target(self, subject: str) -> str:
        return next((r.target for r in reversed(self._records) if r.subject == subject and not _is_look(r)), "")


def _is_look(record: ActionRecord) -> bool:
    return not record.disruptive and not record.action.startswith(f"{TELLS}.")


@dataclass
class Standing:
    """What people have said, as the knowledge store has it; refreshed by the loop whenever somebody writes there."""

    pauses: tuple[Pause, ...] = ()
    approvals: dict[str, Approval] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    """Plans of which people were asked whether they may be carried out. A new life of the daemon asks once more."""
    in_treatment: dict[str, str] = field(default_factory=dict)
    """Subject -> its group, for every subject that is being treated at this moment."""
    recovering: set[str] = field(default_factory=set)
    """Those of them whose healthy signs are back and only have to last: they take nobody's share any more."""
    at_work: Counter[str] = field(default_factory=Counter)
    """How many plans are being carried out that count to a rule's own limits, by the limit's name."""
    owners: dict[str, str] = field(default_factory=dict)
    """The incident that is treated, of all that are the same trouble by their rule's own word."""
    store_trouble: str = ""
    """Why the journal cannot be written; acting is off until it can."""


@dataclass(frozen=True)
class Case:
    """Everything the checks may look at about one step."""

    plan: Plan
    step: Step
    action: Action
    incident: Incident
    subject: Subject
    """The plan's subject: its mode and pauses count beside the target's."""
    target: Subject
    wall: float
    under_way: bool = False
    """A later step of a plan whose first step was allowed: waiting in the middle of it would help nobody."""


Check = Callable[["Guard", Case], Verdict | None]


class Guard:
    """Asks the checks in their order and stops at the first that does not allow. Pure: judging changes nothing."""

    def __init__(
        self, policy: GuardPolicy, flags: FeatureFlags, ledger: Ledger, standing: Standing, sight: Sight
    ) -> None:
        self.policy = policy
        self.flags = flags
        self.ledger = ledger
        self.standing = standing
        self.sight = sight

    def judge(self, case: Case) -> tuple[Verdict, ...]:
        """The verdicts up to the first that stops the step, or all of them; the last one decides."""
        verdicts: list[Verdict] = []
        for name, check in CHAIN:
            if case.step.undoes and name not in FOR_UNDOING:
                continue
            verdict = check(self, case) or Verdict(name, Answer.ALLOW, NOTHING_AGAINST)
            verdicts.append(verdict)
            if verdict.answer is not Answer.ALLOW:
                break
        return tuple(verdicts)

    def judge_all(self, case: Case) -> tuple[Verdict, ...]:
        """Every check's answer, also behind one that stops it: for `simulate`."""
        return tuple(check(self, case) or Verdict(name, Answer.ALLOW, NOTHING_AGAINST) for name, check in CHAIN)


def _kill_switch(guard: Guard, case: Case) -> Verdict | None:
    if guard.standing.store_trouble:
        return Verdict(
            "kill switch", Answer.DENY, f"what is done could not be journaled: {guard.standing.store_trouble}"
        )
    if not guard.flags.is_enabled("auto_healing"):
        return Verdict(
            "kill switch", Answer.DENY, "auto_healing is off; `x0tta6bl4 flags auto_healing on` lets it act again"
        )
    return None


def _mode(guard: Guard, case: Case) -> Verdict | None:
    # A step may touch another subject than it is for, such as a dependency: the more careful of the two counts.
    stricter = min((case.subject, case.target), key=lambda s: MODES.index(s.mode))
    mode = stricter.mode
    if not case.action.disruptive and mode != "observe":
        return Verdict("mode", Answer.ALLOW, "telling a human changes nothing")
    unsure = _may_have_been_done(guard, case)
    if mode == "auto" and not unsure:
        return Verdict("mode", Answer.ALLOW, f"{stricter.name} is in mode auto")
    if mode == "observe":
        return Verdict("mode", Answer.DENY, f"{stricter.name} is in mode observe: it is only watched")
    if mode == "suggest":
        return Verdict(
            "mode",
            Answer.DENY,
            f"{stricter.name} is in mode suggest: would do {case.step.action} on {case.step.target}",
        )
    approval = guard.standing.approvals.get(case.plan.id)
    if approval is not None and approval.state == "approved" and approval.expires > case.wall:
        by = f" ({approval.why})" if approval.why else ""
        return Verdict("mode", Answer.ALLOW, f"approved by {approval.who}{by}")
    if approval is not None and approval.state == "rejected" and approval.expires > case.wall:
        why = f": {approval.why}" if approval.why else ""
        return Verdict("mode", Answer.DENY, f"rejected by {approval.who}{why}")
    until = approval.expires if approval is not None and approval.expires > case.wall else None
    return Verdict("mode", Answer.HOLD, f"{unsure}waits for approval: `x0tta6bl4 approve {case.plan.id}`", until)


def _may_have_been_done(guard: Guard, case: Case) -> str:
    """What must not be done twice, and may have been done already, is for a person to decide, whatever the mode."""
    if case.action.on_unknown != "ask" and case.step.on_unknown != "ask":
        return ""
    for record in reversed(guard.ledger.of_target(case.target.name)):
        if record.action == case.step.action and record.result is not None:
            if not record.unknown or record.incident != case.incident.id:
                return ""
            return f"{record.action} may have been done already, and nobody knows whether it was; "
    return ""


def _allowlist(guard: Guard, case: Case) -> Verdict | None:
    if not case.action.disruptive:
        return None
    if any(fnmatchcase(case.step.action, pattern) for pattern in guard.policy.allow):
        return None
    return Verdict("allowlist", Answer.DENY, f"{case.step.action} is not among guard.allow; add it there to permit it")


def _maintenance(guard: Guard, case: Case) -> Verdict | None:
    for pause in guard.standing.pauses:
        if pause.until > case.wall and any(fnmatchcase(n, pause.target) for n in {case.subject.name, case.target.name}):
            until = datetime.fromtimestamp(pause.until).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
            why = f": {pause.reason}" if pause.reason else ""
            return Verdict("maintenance", Answer.HOLD, f"paused by {pause.who} until {until}{why}", pause.until)
    for window in guard.policy.maintenance:
        if any(fnmatchcase(n, pattern) for n in {case.subject.name, case.target.name} for pattern in window.targets):
            ends = window_end(window, case.wall)
            if ends is not None:
                until = datetime.fromtimestamp(ends).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
                why = f": {window.reason}" if window.reason else ""
                return Verdict("maintenance", Answer.HOLD, f"maintenance window until {until}{why}", ends)
    return None


def window_end(window: Maintenance, wall: float) -> float | None:
    """When the window that is open at that moment ends; None when it is not open."""
    if window.begins_at is not None and window.ends_at is not None:
        return window.ends_at if window.begins_at <= wall < window.ends_at else None
    assert window.start is not None and window.end is not None, "a weekly window has both"
    here = (
        datetime.fromtimestamp(wall, ZoneInfo(window.timezone))
        if window.timezone
        else datetime.fromtimestamp(wall).astimezone()
    )
    for back in (0, 1):
        day = (here - timedelta(days=back)).date()
        begins = datetime.combine(day, window.start, here.tzinfo)
        ends = datetime.combine(day + timedelta(days=window.end <= window.start), window.end, here.tzinfo)
        # Compared as moments: by the clock's face, the hour that comes twice would open a window again.
        if DAYS[day.weekday()] in window.days and begins.timestamp() <= wall < ends.timestamp():
            return ends.timestamp()
    return None


def _other_healers(guard: Guard, case: Case) -> Verdict | None:
    name = case.target.name
    sight = guard.sight
    job = sight.latest(name, "unit_job")
    if job is not None and job.value >= 1:
        return Verdict(
            "other healers", Answer.HOLD, f"systemd has a {job.detail} job for it under way", case.wall + 1.0
        )
    restarting = sight.latest(name, "unit_auto_restart")
    if restarting is not None and restarting.value >= 1:
        return Verdict(
            "other healers", Answer.HOLD, f"systemd's own Restart= is at it ({restarting.detail})", case.wall + 1.0
        )
    stopped = sight.latest(name, "unit_stopped_on_purpose")
    if stopped is not None and stopped.value >= 1:
        return Verdict("other healers", Answer.DENY, stopped.detail or "somebody stopped it on purpose")
    return None


def _precondition(guard: Guard, case: Case) -> Verdict | None:
    incident = case.incident
    if not incident.healthy_when:
        return None
    if all(guard.sight.holds(c, incident.subject) for c in incident.healthy_when):
        signs = ", ".join(map(str, incident.healthy_when))
        return Verdict("precondition", Answer.DENY, f"the symptom is gone: {signs}")
    if case.action.disruptive:
        failing = [c for c in incident.healthy_when if not guard.sight.holds(c, incident.subject)]
        sources = {
            seen.source
            for c in failing
            if (seen := guard.sight.latest(c.subject or incident.subject, c.metric)) is not None
        }
        if sources and sources <= guard.sight.blind_instances.keys():
            return Verdict(
                "precondition",
                Answer.HOLD,
                f"{', '.join(sorted(sources))} cannot see any more: whether it still fails is not known",
            )
    return None


def backoff(policy: GuardPolicy, records: Sequence[ActionRecord], wall: float, seed: str) -> tuple[int, float]:
    """How many tries did not help since the last one that did (forgiven with time), and until when to wait for it."""
    unhelpful, last_end, last_begin = 0, 0.0, 0.0
    # A plan is one try, however many steps it has: its last step says how it went.
    for record in {r.step_id.rsplit(".", 1)[0]: r for r in records}.values():
        if record.result == Result.VERIFIED:
            unhelpful = 0
        elif record.result in UNHELPFUL:
            unhelpful += 1
            last_end, last_begin = max(last_end, record.ended_at or record.at), max(last_begin, record.at)
    if last_end:
        unhelpful -= int(max(0.0, wall - last_end) / policy.backoff.decay)
    if unhelpful <= 0:
        return 0, 0.0
    wait = min(policy.backoff.cap, policy.backoff.base * policy.backoff.factor ** min(unhelpful - 1, 64))
    # The same chance at every look at the same try: a new one each turn would always end at the shortest wait.
    chance = random.Random(f"{seed}:{unhelpful}:{last_end}").random()
    # Counted from the beginning of the last try: the seconds that it took, and was watched, have been waited already.
    return unhelpful, last_begin + wait * (1 - policy.backoff.jitter * chance)


def _backoff(guard: Guard, case: Case) -> Verdict | None:
    if not case.action.disruptive or case.under_way:
        return None
    records = [r for r in guard.ledger.of_target(case.target.name) if r.disruptive]
    unhelpful, until = backoff(guard.policy, records, case.wall, case.incident.id)
    if unhelpful and until > case.wall:
        tries = "1 try" if unhelpful == 1 else f"{unhelpful} tries"
        return Verdict("backoff", Answer.HOLD, f"{tries} in a row did not help; the next is due then", until)
    return None


def _variety(guard: Guard, case: Case) -> Verdict | None:
    """The ladder gives another step by itself; this catches a rule that does not, and spaces out reminders."""
    if not case.action.disruptive:
        if case.step.action.partition(".")[0] != TELLS:
            return None  # a look; a runbook may look as often as it needs to
        question = case.step.args.get("plan")
        if question is not None and question not in guard.standing.asked:
            return None  # nobody was asked this yet, whatever else they were told
        told = guard.ledger.latest_of(case.incident.id)
        until = (told.ended_at or told.at) + guard.policy.remind_every if told is not None else 0.0
        if told is not None and told.action == case.step.action and until > case.wall:
            return Verdict("variety", Answer.HOLD, "a human was told already; the next reminder is due then", until)
        return None
    if case.under_way:
        return None
    latest, count = guard.ledger.equal_tries(case.subject.name, case.wall, guard.policy.backoff.decay)
    if (
        latest == case.step.action
        and count >= guard.policy.equal_tries
        and guard.ledger.latest_target(case.subject.name) == case.target.name
    ):
        return Verdict(
            "variety",
            Answer.HOLD,
            f"{latest} was tried {count} times in a row; another step or a human comes first",
            case.wall + guard.policy.backoff.cap,
        )
    return None


def _within(budget: Budget, what: str, records: Sequence[ActionRecord]) -> Verdict | None:
    if len(records) < budget.count:
        return None
    until = records[len(records) - budget.count].at + budget.window if budget.count else None
    return Verdict(
        "budget",
        Answer.HOLD,
        f"{len(records)} of {budget.count} actions in {budget.window:g} s are spent for {what}",
        until,
    )


def _budgets(guard: Guard, case: Case) -> Verdict | None:
    if not case.action.disruptive:
        return None
    policy, ledger, wall = guard.policy, guard.ledger, case.wall
    target, action, group = case.target.name, case.step.action, case.target.group
    own = ledger.since(wall - policy.per_target.window, lambda r: r.disruptive and r.target == target)
    spent = _within(policy.per_target, target, own)
    if spent is not None and own and policy.per_target.count:
        # A service whose trouble is over must not stay down for the rest of the window: spent means slow, not never.
        thinned = own[-1].at + policy.backoff.cap
        spent = replace(spent, until=min(thinned, spent.until or thinned)) if thinned > wall else None
    spent = spent or _within(
        policy.per_kind,
        action,
        ledger.since(wall - policy.per_kind.window, lambda r: r.disruptive and r.action == action),
    )
    if group:
        spent = spent or _within(
            policy.per_group,
            f"group {group}",
            ledger.since(wall - policy.per_group.window, lambda r: r.disruptive and r.group == group),
        )
    return spent


def _share(guard: Guard, case: Case) -> Verdict | None:
    if not case.action.disruptive:
        return None
    own = {case.subject.name, *(step.target for step in case.plan.steps)}
    busy = {n: g for n, g in guard.standing.in_treatment.items() if n not in own}
    for group in sorted({case.subject.group, case.target.group} - {""}):
        mates = [n for n, g in busy.items() if g == group]
        if mates:
            return Verdict("share", Answer.HOLD, f"one at a time in group {group}: {mates[0]} is being treated")
    for name, most in case.plan.limits:
        if guard.standing.at_work[name] >= most:
            return Verdict("share", Answer.HOLD, f"{name} is at work {most} times already, as often as it may be")
    owner = guard.standing.owners.get(case.plan.key, case.incident.id) if case.plan.key else case.incident.id
    if owner != case.incident.id:
        return Verdict("share", Answer.HOLD, f"incident {owner} is the same trouble ({case.plan.key}) and is treated")
    # One of a group is over when it is proved; of the fleet's share, when its signs are back.
    busy = {n: g for n, g in busy.items() if n not in guard.standing.recovering}
    total = max(1, len(guard.sight.subjects))
    limit = max(guard.policy.share.at_least, int(guard.policy.share.max * total))
    if len(busy) >= limit:
        return Verdict(
            "share", Answer.HOLD, f"{len(busy)} of {total} subjects are in treatment; at most {limit} may be"
        )
    return None


def _storm(guard: Guard, case: Case) -> Verdict | None:
    if not case.action.disruptive:
        return None
    storm = guard.policy.storm
    records = guard.ledger.since(case.wall - storm.window - storm.cooldown, lambda r: r.disruptive)
    if len(records) < storm.count:
        return None
    # Was there a moment, not longer ago than the cooldown, at which one window held a storm?
    for last in range(len(records) - 1, storm.count - 2, -1):
        first = records[last - storm.count + 1]
        until = records[last].at + storm.cooldown
        if records[last].at - first.at <= storm.window and until > case.wall:
            return Verdict(
                "storm brake",
                Answer.HOLD,
                f"{storm.count} actions within {storm.window:g} s: everything rests, so that a human can look",
                until,
            )
    return None


def _circuit(guard: Guard, case: Case) -> Verdict | None:
    if not case.action.disruptive:
        return None
    circuit, failed, last_end = guard.policy.circuit, 0, 0.0
    failed_on: set[str] = set()
    running = False
    for record in guard.ledger.since(case.wall - 86400, lambda r: r.action == case.step.action):
        if record.result == Result.FAILED:
            failed, last_end = failed + 1, record.ended_at or record.at
            failed_on.add(record.target)
        elif record.result is None:
            running = True
        elif record.result != Result.REFUSED:  # what was refused was not tried
            failed = 0
            failed_on.clear()
    # One target on which everything fails is that target's trouble, and backoff's: the others must not pay for it.
    if failed < circuit.failures or len(failed_on) < 2:
        return None
    until = last_end + circuit.cooldown
    if case.wall < until:
        return Verdict(
            "circuit",
            Answer.HOLD,
            f"{case.step.action} failed {failed} times in a row on {len(failed_on)} targets",
            until,
        )
    if running:
        return Verdict("circuit", Answer.HOLD, f"one {case.step.action} is trying whether it works again")
    return None


CHAIN: tuple[tuple[str, Check], ...] = (
    ("kill switch", _kill_switch),
    ("precondition", _precondition),
    ("maintenance", _maintenance),
    ("other healers", _other_healers),
    ("allowlist", _allowlist),
    ("mode", _mode),
    ("backoff", _backoff),
    ("variety", _variety),
    ("budget", _budgets),
    ("share", _share),
    ("storm brake", _storm),
    ("circuit", _circuit),
)
"""Cheap and final answers first. Mode stands behind what would stop an approved step all the same, so that nobody is
asked to approve what cannot be done. The check of a lease or a quorum for reboot-class steps joins at the end."""


def decision(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that decides: the first that does not allow; else what the checks had to say for it."""
    stopped = next((v for v in verdicts if v.answer is not Answer.ALLOW), None)
    if stopped is not None:
        return stopped
    said = [v.sentence for v in verdicts if v.sentence != NOTHING_AGAINST]
    return Verdict("guard", Answer.ALLOW, "; ".join(said) or NOTHING_AGAINST)
