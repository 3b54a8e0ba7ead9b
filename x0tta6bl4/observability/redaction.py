"""Keeps secrets and personal data out of everything the daemon says, whichever field or message they hide in."""

import re
import reprlib
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Set
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, NamedTuple
from uuid import UUID

LIMIT = 8192
"""Characters of one text that are looked at. The rest is cut away first: what was not looked at is not printed."""
TRACEBACK_LIMIT = 4 * LIMIT
DEPTH = 6
ITEMS = 64
TOTAL = 512
"""Values of one field, all levels together, after which the rest is left out."""

_NOTE_ROOM = 64
_ROUNDS = 6


def _hidden(kind: str) -> str:
    return f"[REDACTED:{kind}]"


# ---------------------------------------------------------------- names

_STEMS = (
    r"passw(?:or)?d|passphrase|passcode|pwd(?![=:]/)|secret|token(?!iz)|api[_.\-]?key|credential|authorization|cookie"
    r"|jwt|csrf|(?:private|access|signing|encryption|shared|master|session|hmac|ssh)[_.\-]?key|session[_.\-]?id"
)
# Ends that make a name speak *about* a secret: where it lies, how long it lives, how many there are.
_ABOUT = (
    "file", "path", "dir", "name", "count", "total", "size", "length", "limit", "type", "ttl", "age", "seconds",
    "expires", "enabled", "required",
)  # fmt: skip
_NOT_ABOUT = "".join(rf"(?<![_.\-]{end})" for end in _ABOUT)
_SECRET_NAME = re.compile(rf"(?:{_STEMS}|(?:^|_)(?:auth|otp|psk|pass)(?:_|$))[\w.\-]*+{_NOT_ABOUT}$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NO_WORD = re.compile(r"[^a-z0-9]+")


@lru_cache(maxsize=2048)
def is_secret_name(name: str) -> bool:
    """Whether a field, option, header or variable called so holds a secret, judging by the name alone."""
    return bool(_SECRET_NAME.search(_NO_WORD.sub("_", _CAMEL.sub("_", name[-128:]).lower()).strip("_")))


# ---------------------------------------------------------------- texts


class _Rule(NamedTuple):
    hints: tuple[str, ...]
    """In lower case. The rule is tried only on texts that hold one of them: finding costs far less than matching."""
    pattern: re.Pattern[str]
    replace: Callable[[re.Match[str]], str] | str


_NUMBER = re.compile(r"[\d.,]{1,12}")
_NOTHING = frozenset({"", "None", "null", "True", "False", "true", "false"})


def _named_value(match: re.Match[str]) -> str:
    name, separator, value = match.group("name", "separator", "value")
    if match.string.endswith("[REDACTED:", 0, match.start()):
        return match.group()
    quote = value[0] if value[0] in "\"'" else ""
    closing = quote if quote and len(value) > 1 and value[-1] == quote else ""
    bare = value.strip(quote) if quote else value.rstrip(")]};,")
    if bare in _NOTHING:
        return match.group()
    if name[:5].lower() == "token" and _NUMBER.fullmatch(bare):
        return match.group()  # a rate limiter's tokens are a number; a token that grants anything is not
    return f"{name}{separator}{quote}{_hidden('secret')}{closing}"


def _option_value(match: re.Match[str]) -> str:
    if not is_secret_name(match["name"]):
        return match.group()
    return f"--{match['name']}{match['gap']}{_hidden('secret')}"


# "Bearer token" and "basic authentication" are prose.
_PROSE = frozenset({
    "auth", "authentication", "authorization", "credentials", "header", "headers", "realm", "scheme", "token", "tokens",
})  # fmt: skip


def _scheme_value(match: re.Match[str]) -> str:
    word = match["value"].rstrip(".")
    prose = word.lower() in _PROSE
    if prose or (match["scheme"][-5:].lower() == "basic" and not re.search(r"[A-Z0-9=]", word[1:])):
        return match.group()
    return f"{match['scheme']}{match['gap']}{_hidden('token')}"


# user@1000.service is a unit of systemd, not a person; pkg@1.2.3 is a version.
_NO_DOMAINS = frozenset({
    "service", "socket", "timer", "mount", "automount", "target", "slice", "scope", "device", "path", "swap",
})  # fmt: skip


def _email(match: re.Match[str]) -> str:
    last = match.group().rpartition(".")[2]
    return match.group() if last.isdigit() or last in _NO_DOMAINS else _hidden("email")


_HEX = frozenset("0123456789abcdefABCDEF-_")


def _long_run(match: re.Match[str]) -> str:
    """Random material mixes upper case, lower case and digits; names, digests and identifiers do not."""
    run = match.group()
    mixed = (
        sum(map(str.isupper, run)) >= 3
        and sum(map(str.islower, run)) >= 3
        and sum(map(str.isdigit, run)) >= 3
        and not _HEX.issuperset(run)
    )
    return _hidden("key") if mixed else run


def _phone(match: re.Match[str]) -> str:
    text = match.group()
    digits = sum(map(str.isdigit, text))
    # Without a gap, +12345678 may as well be a difference in bytes.
    least = 8 if text[0] == "+" and not text[1:].isdigit() else 9 if text[0] != "+" else 10
    return _hidden("phone") if least <= digits <= 15 else text


# Every pattern is linear in the text: repetitions are possessive or short, and the lookbehinds let a run of characters
# be entered at its start only, never again from its middle.
_RULES: tuple[_Rule, ...] = (
    _Rule(
        ("private key",),
        re.compile(
            r"-----BEGIN [^-\n]{0,40}PRIVATE KEY[^-\n]{0,16}-----"
            r"(?:[^-]++|-(?!----END))*+(?:-----END[^-\n]{0,60}-----)?+"
        ),
        _hidden("private-key"),
    ),
    _Rule(
        ("://",),
        # Second branch: a password with an unescaped slash, unless it is a port and a path.
        re.compile(
            r"(?P<front>://[^\s/?#:@\[\"'<>]{0,256}+:)(?!\[REDACTED:)"
            r"(?:[^\s/?#\"'<>]{1,512}(?=@)|(?!\d{1,5}[/?#])[^\s@\"'<>]{1,128}+(?=@))"
        ),
        rf"\g<front>{_hidden('password')}",
    ),
    _Rule(
        ("cookie:", "authorization:"),
        # A header's value may be several words: it is the rest of the line.
        re.compile(
            r"(?P<name>cookie|authorization)(?P<separator>:[ \t]{0,3}+)"
            r"(?P<value>(?![\"'\s])(?:[^\r\n\"']|(?<==)\"[^\r\n\"]*+\"?+|(?<==)'[^\r\n']*+'?+)++)",
            re.IGNORECASE,
        ),
        _named_value,
    ),
    _Rule(
        ("pass", "pwd", "secret", "token", "key", "cred", "authori", "cookie", "jwt", "csrf", "session"),
        re.compile(
            rf"(?P<name>(?:{_STEMS})[\w.\-]{{0,64}}+){_NOT_ABOUT}"
            r"(?P<separator>[\"'\\\]]{0,3}+\s{0,3}+(?:=>|:=|[=:])\s{0,3}+)"
            # What comes first may be one more name ("error: token: ..."): then the value is what follows that.
            r"(?P<value>(?:[\"']?[\w.\-]{1,64}+[\"']?\s{0,3}+(?::\s|=)\s{0,3}+){0,3}"
            r"(?:\"(?:[^\"\\]|\\.)*+\"?+|'(?:[^'\\]|\\.)*+'?+"
            r"|(?:(?:bearer|basic|digest|negotiate|token|apikey)\s{1,3}+(?=\S))?+\S++))",
            re.IGNORECASE | re.DOTALL,
        ),
        _named_value,
    ),
    _Rule(
        ("--",),
        re.compile(
            r"(?<![\w\-])--(?P<name>[A-Za-z][\w\-]{0,63}+)"
            r"(?:(?P<gap>[ \t]{1,3}+|[\"'],[ \t]{0,2}+[\"'])(?!-)(?P<value>\"[^\"]*+\"?+|'[^']*+'?+|[^\s\"']++))"
        ),
        _option_value,
    ),
    _Rule(
        ("bearer ", "basic ", "bearer\t", "basic\t"),
        re.compile(
            r"(?P<scheme>\b(?:bearer|basic)(?:[ \t]{1,4}+(?:bearer|basic)\b){0,8}+)"
            r"(?P<gap>[ \t]{1,4}+)(?P<value>[A-Za-z0-9._~+/=\-]{6,}+)",
            re.IGNORECASE,
        ),
        _scheme_value,
    ),
    _Rule(("eyj",), re.compile(r"(?<![\w\-])eyJ[\w\-]{6,}+(?:\.[\w\-]*+){1,4}+"), _hidden("jwt")),
    _Rule(
        (
            "sk-",
            "_live_",
            "_test_",
            "whsec_",
            "ghp_",
            "gho_",
            "ghu_",
            "ghs_",
            "ghr_",
            "github_pat_",
            "glpat",
            "xox",
            "xapp",
            "akia",
            "asia",
            "aiza",
            "npm_",
            "pypi-",
            "hf_",
            "sg.",
        ),
        re.compile(
            r"(?<![A-Za-z0-9])(?:sk-[\w\-]{8,}+|[sr]k_(?:live|test)_\w{8,}+|whsec_\w{8,}+|gh[pousr]_\w{8,}+"
            r"|github_pat_\w{8,}+|glpat-[\w\-]{8,}+|xox[a-z]-[\w\-]{8,}+|xapp-[\w\-]{8,}+|A(?:KIA|SIA)[A-Z0-9]{12,}+"
            r"|AIza[\w\-]{20,}+|npm_\w{20,}+|pypi-[\w\-]{16,}+|hf_\w{20,}+|SG\.[\w\-]{8,}+\.[\w\-]{8,}+)"
        ),
        _hidden("key"),
    ),
    _Rule(("@",), re.compile(r"(?<![\w.%+\-])[\w.%+\-]++@[\w\-]++(?:\.[\w\-]++)++"), _email),
    _Rule(("",), re.compile(r"(?<![\w+=\-])[\w+=\-]{32,}+"), _long_run),
    _Rule(("+",), re.compile(r"\+(?<![\w+]\+)[1-9](?:[ .\-/()]{0,2}+\d){6,14}+(?!\w)"), _phone),
    _Rule(("(",), re.compile(r"\((?<!\w\()\d{2,5}\)[ \-]?+\d{3,8}+(?:[ \-]\d{3,5}){0,2}+(?!\w)"), _phone),
    _Rule(
        ("-", ".", "/", " "),
        # 555-123-4567 and 0171 1234567, but no date, time, address or part of a UUID.
        re.compile(
            r"[0-9](?<![\w.:/+\-].)(?:[0-9]{2}(?:-[0-9]{3}-|\.[0-9]{3}\.)[0-9]{4}(?![\w\-]|\.[0-9])"
            r"|(?<=0)[1-9][0-9]{1,3}[ /\-][0-9]{3,8}+(?:[ \-][0-9]{2,5}){0,3}+(?![\w\-]|[.:][0-9]))",
            re.DOTALL,
        ),
        _phone,
    ),
)


_NOTE = re.compile(r"… \[cut, was [0-9]{1,15} characters\]\Z")


def redact_text(text: str, limit: int = LIMIT) -> str:
    """The text without its secrets, never longer than ``limit``; a cut is said. Doing it twice changes nothing."""
    text = str.__str__(text)
    original = len(text)
    # The note of an earlier look is no part of the text, or it would be taken for the value of a name just before it.
    note = match.group() if original <= limit and text.endswith("]") and (match := _NOTE.search(text)) else ""
    text = text.removesuffix(note)
    cut = False
    # Again until nothing changes: what one rule took away may lay open what another did not see, and placeholders may
    # be longer than what they stand for.
    for _ in range(_ROUNDS):
        if len(text) > limit - _NOTE_ROOM * (cut or note != ""):
            cut = True
            text = _shortened(text, limit)
        before = text
        text = _redacted_once(text)
        if text == before:
            break
    if not cut and len(text) + len(note) <= limit:
        return text + note
    return f"{text[: limit - _NOTE_ROOM]}… [cut, was {original} characters]"


def _shortened(text: str, limit: int) -> str:
    """A secret that straddles the cut would no longer look like one, so the word that is cut goes whole."""
    head = text[: limit - _NOTE_ROOM]
    return head[: max(map(head.rfind, " \n\t\"'")) + 1]


def _redacted_once(text: str) -> str:
    lower = text.lower()
    for hints, pattern, replace in _RULES:
        for hint in hints:
            if hint in lower:
                text = pattern.sub(replace, text)
                break
    return text


# ---------------------------------------------------------------- values

_REPR = reprlib.Repr()
_REPR.maxother = 8 * LIMIT
# What these print is theirs alone and never raises.
_PRINTABLE = (PurePath, date, time, timedelta, UUID, Decimal)


class _Walk:
    """One look through one value, which ends after TOTAL parts however the value is made."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = TOTAL

    def named(self, name: str, value: Any, depth: int) -> Any:
        if not is_secret_name(name) or value is None or isinstance(value, bool):
            return self.value(value, depth)
        if isinstance(value, int | float) and "token" in name.lower():
            return value
        if isinstance(value, str | bytes) and not value:
            return ""
        return _hidden("secret")

    def value(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, str):
            return redact_text(value) if self.left >= 0 else "[cut]"
        if isinstance(value, int):
            return value if value.bit_length() <= 256 else f"[cut: a number of {value.bit_length()} bits]"
        if self.left < 0 or depth > DEPTH:
            return "[cut]"
        if isinstance(value, Mapping):
            return self.mapping({self.text(key): item for key, item in value.items()}, depth)
        if is_dataclass(value) and not isinstance(value, type):
            return self.mapping({f.name: getattr(value, f.name, None) for f in fields(value) if f.repr}, depth)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return self.mapping(dict(zip(value._fields, value, strict=False)), depth)
        if isinstance(value, list | tuple | Set):
            return self.sequence(list(value), depth)
        if isinstance(value, Enum):
            return self.value(value.value, depth + 1)
        return redact_text(self.text(value))

    def text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value[: 2 * LIMIT]).decode(errors="backslashreplace")
        if isinstance(value, BaseException):
            return "".join(traceback.format_exception_only(value)).strip()
        # reprlib survives objects that cannot print themselves.
        return str(value) if isinstance(value, _PRINTABLE) else _REPR.repr_instance(value, 0)

    def mapping(self, items: dict[str, Any], depth: int) -> dict[str, Any]:
        # {"name": "DB_PASSWORD", "value": ...} is how Kubernetes writes a variable.
        told = items.get("name", items.get("key"))
        result: dict[str, Any] = {}
        for index, (name, item) in enumerate(items.items()):
            if index == ITEMS or self.left <= 0:
                result["…"] = f"[cut: {len(items) - index} more]"
                break
            shown = redact_text(name)
            if shown in result:
                shown = f"{shown} #{index}"
            result[shown] = self.named(told if name == "value" and isinstance(told, str) else name, item, depth + 1)
        return result

    def sequence(self, items: list[Any], depth: int) -> list[Any]:
        result: list[Any] = []
        hide_next = False
        for index, item in enumerate(items):
            if index == ITEMS or self.left <= 0:
                result.append(f"[cut: {len(items) - index} more]")
                break
            result.append(_hidden("secret") if hide_next else self.value(item, depth + 1))
            # An option of a command line, or the first half of a (name, value) pair.
            word = self.text(item) if isinstance(item, str | bytes) and len(item) <= 128 else ""
            hide_next = (len(items) == 2 or word[:1] == "-") and "=" not in word and is_secret_name(word)
        return result


def redact_value(value: Any) -> Any:
    """Plain data (dicts with text keys, lists, texts, numbers) that says what ``value`` says, without its secrets.

    Looks DEPTH levels deep, at ITEMS entries of each container and TOTAL of all; the rest is said to be cut. What is
    neither plain data nor a dataclass is shown by its ``repr``, also when that fails.
    """
    return _Walk().value(value, 0)


def redact_exception(error: BaseException) -> str:
    """The traceback with all causes, as Python prints it, without what its messages or source lines give away."""
    lines = traceback.TracebackException.from_exception(error, limit=-24, max_group_width=8, max_group_depth=4).format()
    return redact_text("".join(lines).rstrip("\n"), TRACEBACK_LIMIT)


def redact(logger: Any, name: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor: every field of the event; the exception with it becomes the text ``exception``."""
    clean: dict[str, Any] = {}
    for key, value in event_dict.items():
        if key == "exc_info":
            error = _exception_of(value)
            if error is not None:
                clean["exception"] = redact_exception(error)
        elif key in ("_record", "_from_structlog"):
            clean[key] = value
        else:
            clean[key] = _Walk().named(key, value, 0)
    return clean


def _exception_of(value: Any) -> BaseException | None:
    """exc_info comes as an exception, as the triple of sys.exc_info(), or as True for the one being handled."""
    if isinstance(value, BaseException):
        return value
    if isinstance(value, tuple) and len(value) == 3:
        return value[1] if isinstance(value[1], BaseException) else None
    return sys.exc_info()[1] if value else None
