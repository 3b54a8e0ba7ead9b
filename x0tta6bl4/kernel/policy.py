"""The guard's settings: what acting alone may cost, in counts, seconds and shares, and when nothing is done at all."""

import re
from collections.abc import Mapping
from datetime import datetime, time
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from x0tta6bl4.kernel.subjects import Mode
from x0tta6bl4.kernel.units import Seconds

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _glob(value: str) -> str:
    if not re.fullmatch(r"[^\s,]+", value):
        raise ValueError("should be one name or glob without spaces, such as process.restart or systemd.*")
    return value


Glob = Annotated[str, AfterValidator(_glob)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the settings: unknown keys are mistakes, and a section left empty is the section with its defaults."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_parts_are_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if value is not None or not cls._is_container(key)}

    @classmethod
    def _is_container(cls, key: object) -> bool:
        field = cls.model_fields.get(key) if isinstance(key, str) else None
        return field is not None and isinstance(
            field.get_default(call_default_factory=True, validated_data={}), (BaseModel, dict, list)
        )


class Budget(Section):
    """How many actions there may be within how long."""

    count: Positive = 60
    """Actions. Raised, a mistaken rule does more before it is held; lowered, real faults wait for their turn."""
    window: Seconds = Field(default=600.0, gt=0)
    """Seconds over which actions are counted, sliding. Raised, a spent budget comes back later; lowered, sooner."""


class KindBudget(Budget):
    """The same for one kind of action, which many targets share."""

    count: Positive = 120
    """Actions. Raised, a mistaken rule does more before it is held; lowered, real faults wait for their turn."""


class Share(Section):
    """How much of the fleet may be worked on at the same time."""

    max: float = Field(default=0.34, gt=0, le=1)
    """
    The largest part of all targets in treatment at once, from 0 to 1.

    Raised, a mistaken rule can take down more together; lowered, a real fault of many is healed more slowly.
    """
    at_least: Positive = 3
    """Targets that may be in treatment whatever the share says, so that a handful of targets can be healed at all."""


class Storm(Section):
    """The brake for when everything seems broken at once, which mostly means that something else is."""

    count: Positive = 40
    """Actions within ``window`` that put the brake on. Raised, it holds later; lowered, it holds in small trouble."""
    window: Seconds = Field(default=60.0, gt=0)
    """Seconds over which those actions are counted. Raised, a slow storm is seen too; lowered, only a sudden one."""
    cooldown: Seconds = Field(default=120.0, gt=0)
    """Seconds without any action once the brake is on. Raised, healing rests longer; lowered, the storm may go on."""


class Backoff(Section):
    """How long to wait before the same target is treated again."""

    base: Seconds = Field(default=0.5, gt=0)
    """Seconds before the second try. Raised, a failed try costs more downtime; lowered, a slow start is disturbed."""
    factor: float = Field(default=2.0, ge=1)
    """What the wait is multiplied with after each try. Raised, the waits grow sooner; at 1 they do not grow at all."""
    cap: Seconds = Field(default=45.0, gt=0)
    """Seconds of the longest wait. Raised, a target mended by others is retried later; lowered, it spins more."""
    jitter: float = Field(default=0.2, ge=0, le=1)
    """The part of a wait that is left to chance, from 0 to 1, so that many targets do not come back in step."""
    decay: Seconds = Field(default=600.0, gt=0)
    """Seconds of health after which waits begin at ``base`` again. Raised, old trouble counts longer; lowered, less."""

    @model_validator(mode="after")
    def _cap_is_above_base(self) -> Self:
        if self.cap < self.base:
            raise ValueError("cap should not be below base")
        return self


class Circuit(Section):
    """When a kind of action is left alone because it keeps failing everywhere."""

    failures: Positive = 5
    """Failures in a row before a kind of action is paused. Raised, broken tools go on; lowered, chance pauses."""
    cooldown: Seconds = Field(default=60.0, gt=0)
    """Seconds before one trial is let through. Raised, a mended tool waits; lowered, a broken one is tried more."""


def _clock_time(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[0-2]?[0-9]:[0-5][0-9](:[0-5][0-9])?", value):
        raise ValueError("should be a time of day such as 22:00")
    if isinstance(value, str):
        return value.zfill(8 if value.count(":") == 2 else 5)
    if not isinstance(value, time):
        raise ValueError("should be a time of day such as 22:00; in quotes, if in doubt")
    return value


def _moment(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}", value, re.ASCII):
        return value
    raise ValueError("should be a date and time such as 2030-01-31 22:00")


ClockTime = Annotated[time, BeforeValidator(_clock_time)]
Moment = Annotated[datetime, BeforeValidator(_moment)]


class Maintenance(Section):
    """A time in which people work on targets and the daemon keeps its hands off: once, or every week."""

    targets: list[Glob] = Field(default=["*"], min_length=1)
    """Names or globs of the targets it is about."""
    from_: Moment | None = Field(default=None, alias="from")
    """When a single window begins, as date and time; without an offset it is read in ``timezone``."""
    until: Moment | None = None
    """When a single window ends."""
    days: list[Annotated[Day, BeforeValidator(lower)]] = Field(
        default=["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    )
    """Days of the week on which a weekly window begins."""
    start: ClockTime | None = None
    """Time of day at which a weekly window begins."""
    end: ClockTime | None = None
    """Time of day at which a weekly window ends; at or before ``start`` it is on the day after."""
    timezone: str = ""
    """The name of the time zone the times are meant in, such as Europe/Berlin. Empty: that of the host."""
    reason: str = ""
    """What is done in it; shown to whoever asks why nothing was healed."""

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, value: str, info: ValidationInfo) -> str:
        if value:
            try:
                ZoneInfo(value)
            except (KeyError, ValueError, OSError) as error:
                raise ValueError("this host knows no such time zone; names look like Europe/Berlin or UTC") from error
        return value

    @model_validator(mode="after")
    def _is_one_kind_of_window(self) -> Self:
        single, weekly = (self.from_, self.until), (self.start, self.end)
        if any(single) == any(part is not None for part in weekly) or None in (single if any(single) else weekly):
            raise ValueError("should have either both 'from' and 'until', or both 'start' and 'end'")
        begins, ends = self.begins_at, self.ends_at
        if begins is not None and ends is not None and ends <= begins:
            raise ValueError("'until' should be later than 'from'")
        return self

    @property
    def begins_at(self) -> float | None:
        """Wall-clock seconds at which a single window begins; None for a weekly one."""
        return self._wall(self.from_)

    @property
    def ends_at(self) -> float | None:
        return self._wall(self.until)

    def _wall(self, moment: datetime | None) -> float | None:
        if moment is None:
            return None
        try:
            if moment.tzinfo is None and self.timezone:
                moment = moment.replace(tzinfo=ZoneInfo(self.timezone))
            return moment.timestamp()
        except (OverflowError, OSError, ValueError) as error:
            raise ValueError(f"{moment.isoformat()} is too far away") from error


class GuardPolicy(Section):
    """What the daemon may do, how much of it, and when not. Nothing is done until ``allow`` names it."""

    mode: Annotated[Mode, BeforeValidator(lower)] = "suggest"
    """
    What a subject without a mode of its own gets: ``observe`` only watches and records, ``suggest`` tells a human
    what it would do,
    ``approve`` asks a person before each step, ``auto`` acts.
    """
    allow: list[Glob] = []
    """
    Names of the actions that may be done, as globs: ``process.restart``, ``systemd.*``. Empty: none at all.

    Each name more is one more thing that a mistaken rule can do.
    """
    per_target: Budget = Budget()
    """Actions on one target. The last brake for a target that keeps falling over; backoff comes long before it. Once it
    is spent, one action each ``backoff.cap`` is still taken, so that a target whose trouble is over comes back."""
    per_kind: KindBudget = KindBudget()
    """Actions of one kind, such as process.restart, on all targets together."""
    per_group: Budget = Budget()
    """Actions on all targets of one dependency group together."""
    share: Share = Share()
    """How much of the fleet may be in treatment at the same time."""
    storm: Storm = Storm()
    """When to stop acting because too much seems broken at once."""
    backoff: Backoff = Backoff()
    """How long to wait before the same target is treated again."""
    equal_tries: int = Field(default=3, ge=1, le=3)
    """
    Tries of the same step in a row for one subject; after them another rung of the ladder comes first.

    Raised, a step that does not help is repeated longer; lowered, harder steps come sooner.
    """
    remind_every: Seconds = Field(default=900.0, gt=0)
    """
    Seconds between two messages to a human about the same incident while nothing else happens to it.

    Raised, an open incident is easier forgotten; lowered, people stop reading the messages.
    """
    approval_expires: Seconds = Field(default=900.0, gt=0)
    """
    Seconds after which a step that nobody approved is asked for anew, and for which an answer holds.

    Raised, an old answer may meet a changed world; lowered, people have less time to look.
    """
    circuit: Circuit = Circuit()
    """When a kind of action is left alone because it keeps failing."""
    maintenance: list[Maintenance] = []
    """Times in which nothing is done to certain targets."""
