"""Log lines: one JSON object or one readable line each, from stdlib and structlog loggers alike, without secrets."""

import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, Literal, TextIO, TypeVar, cast

from x0tta6bl4.observability.redaction import redact
from x0tta6bl4.observability.tracker import bind_thread_id, current_thread_id, unbind_thread_id


@contextmanager
def _rich_left_out() -> Iterator[None]:
    """structlog imports rich where it is installed: 40 ms and 8 MiB for coloured tracebacks that a daemon never shows.

    A None in sys.modules makes an import say "not there". Whoever has loaded rich or structlog already keeps it.
    """
    if "rich" in sys.modules or "structlog" in sys.modules:
        yield
        return
    sys.modules["rich"] = cast(ModuleType, None)
    try:
        yield
    finally:
        del sys.modules["rich"]


with _rich_left_out():
    import structlog
    import structlog.stdlib
    import structlog.typing

__all__ = ["bind_thread_id", "get_logger", "log_stage", "setup_logging", "stop_logging", "unbind_thread_id"]

T = TypeVar("T")
Format = Literal["json", "text", "console"]
Level = Literal["debug", "info", "warning", "error", "critical"]

ROOT = "x0tta6bl4"
# Libraries that speak about our own work. At WARNING: their chatter is not ours, their complaints are.
_FOREIGN = ("py.warnings", "asyncio", "uvicorn", "apscheduler")

FILE_BYTES = 100_000_000
FILES = 10

_HEAD = ("timestamp", "level", "logger", "event")
# What a record carries anyway; the rest came by extra=. uvicorn's color_message repeats its message with escape codes.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"asctime", "message", "taskName", "color_message"}
_PRIORITY = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_COLOURS = ((logging.ERROR, "\x1b[31m"), (logging.WARNING, "\x1b[33m"), (logging.INFO, "\x1b[32m"))
_RESET = "\x1b[0m"

_CHAIN: list[structlog.typing.Processor] = [
    structlog.stdlib.filter_by_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
]


def setup_logging(
    level: int | str = logging.INFO,
    format: Format = "json",
    file: str | os.PathLike[str] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Sends what the daemon and its libraries say to ``stream`` (standard error) and, if named, to a rotating file too.

    ``text`` and ``console`` are the same: a line for people, coloured on a terminal. Calling it again replaces what the
    last call set up. Only the x0tta6bl4 loggers, Python's warnings and the libraries of the daemon are touched; a host
    program's root logger keeps its own. Raises ValueError for an unknown level or format, OSError when the file cannot
    be opened; then everything stays as it was.
    """
    number = level if isinstance(level, int) else logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no log level is called {level!r}; there are: debug, info, warning, error, critical")
    if format not in ("json", "text", "console"):
        raise ValueError(f"no log format is called {format!r}; there are: json, text, console")
    out = stream if stream is not None else sys.stderr
    handlers: list[logging.Handler] = []
    if file is not None:
        handlers.append(_FileHandler(file))
        handlers[0].setFormatter(_formatter(_Line(format, encoding="utf-8")))
    if out is not None:  # a process without standard error has None there
        handlers.append(_StreamHandler(out))
        line = _Line(format, out.encoding or "utf-8", colours=_wants_colours(out), journal=_is_journal(out))
        handlers[-1].setFormatter(_formatter(line))
    stop_logging()
    for name in (ROOT, *_FOREIGN):
        logger = logging.getLogger(name)
        logger.setLevel(number if name == ROOT else max(number, logging.WARNING))
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
    logging.captureWarnings(True)


def stop_logging() -> None:
    """Takes back what setup_logging did. Handlers of others on the same loggers stay."""
    ours: set[_Unbreakable] = set()
    for name in (ROOT, *_FOREIGN):
        logger = logging.getLogger(name)
        mine = [handler for handler in logger.handlers if isinstance(handler, _Unbreakable)]
        if mine:
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
        for old in mine:
            logger.removeHandler(old)
        ours.update(mine)
    if ours:
        logging.captureWarnings(False)
    for old in ours:
        old.close()


def get_logger(name: str = ROOT) -> structlog.stdlib.BoundLogger:
    """A structured logger. Names outside of the x0tta6bl4 tree, such as a plugin's ``__name__``, are put under it."""
    if name != ROOT and not name.startswith(f"{ROOT}."):
        name = f"{ROOT}.{name}"
    # Made here, not by structlog.get_logger: its configuration is global and may be a host program's own.
    return structlog.stdlib.BoundLogger(logging.getLogger(name), _CHAIN, {})


def log_stage(
    logger: structlog.stdlib.BoundLogger, stage: str, message: str, level: Level = "info", **fields: Any
) -> None:
    """A message about a stage of the execution tracker, with its id in the field ``stage``."""
    logger.log(logging.getLevelNamesMapping()[level.upper()], message, stage=stage, **fields)


# ---------------------------------------------------------------- from a record to a line


def _formatter(line: "_Line") -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_add_extra], processors=[_add_thread_id, redact, line]
    )


def _add_extra(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event["_record"].__dict__.items():
        if key not in _STANDARD:
            event[f"{key}_" if key in event else key] = value
    return event


def _add_thread_id(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    thread_id = current_thread_id()
    if thread_id is not None:
        event.setdefault("thread_id", thread_id)
    return event


class _Line:
    """The last processor: the line itself."""

    def __init__(self, format: Format, encoding: str, *, colours: bool = False, journal: bool = False) -> None:
        self._json = format == "json"
        self._encoding = encoding
        self._colours = colours and not self._json and not journal
        self._journal = journal

    def __call__(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        record: logging.LogRecord = event.pop("_record")
        event.pop("_from_structlog", None)
        message = event.pop("event", "")
        if isinstance(message, str):
            message = message.rstrip()  # a warning ends in a line break
        fields = {f"{key}_" if key in _HEAD else key: value for key, value in event.items()}
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._json:
            head = {"timestamp": time, "level": record.levelname.lower(), "logger": record.name, "event": message}
            text = _json(head | fields)
        else:
            text = self._text(time, record, message, fields)
            # A terminal or a file in another encoding gets what it can show; the rest as escapes.
            text = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        if self._journal:
            # sd-daemon's prefix: the journal takes it off and files each line under that priority.
            prefix = f"<{_at_level(_PRIORITY, record.levelno, 7)}>"
            text = "\n".join(prefix + line for line in text.split("\n"))
        return text

    def _text(self, time: str, record: logging.LogRecord, message: Any, fields: dict[str, Any]) -> str:
        exception = fields.pop("exception", None)
        stack = fields.pop("stack_info", None)
        level = f"{record.levelname.lower():<8}"
        if self._colours:
            level = f"{_at_level(_COLOURS, record.levelno, '')}{level}{_RESET}"
        # The journal has a clock of its own.
        parts = [level] if self._journal else [time, level]
        parts.append(f"{record.name}: {_printable(message if isinstance(message, str) else _json(message))}")
        parts.extend(f"{_printable(key)}={_shown(value)}" for key, value in fields.items())
        lines = [" ".join(parts)]
        for more in (stack, exception):
            if isinstance(more, str):
                lines.extend(_printable(line.expandtabs()) for line in more.split("\n"))
        return "\n".join(lines)


def _json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity; a line with them would not be JSON, and null would not be true."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def _shown(value: Any) -> str:
    if not isinstance(value, str):
        return _printable(json.dumps(value, ensure_ascii=False))
    plain = value and not any(mark in value for mark in ' "=') and value.isprintable()
    return value if plain else _printable(json.dumps(value, ensure_ascii=False))


def _printable(text: str) -> str:
    """Line breaks and escape sequences from outside must not forge lines or drive the reader's terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _at_level(table: tuple[tuple[int, T], ...], level: int, otherwise: T) -> T:
    return next((value for least, value in table if level >= least), otherwise)


def _wants_colours(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _is_journal(stream: TextIO) -> bool:
    """Whether the stream is the socket that systemd named: the variable alone is inherited by those who redirect."""
    named = os.environ.get("JOURNAL_STREAM")
    if not named:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no descriptor behind it, or closed
        return False
    return named == f"{status.st_dev}:{status.st_ino}"


# ---------------------------------------------------------------- where lines go


class _Unbreakable(logging.StreamHandler[TextIO]):
    """A full disk or a closed pipe loses lines; it never reaches the one who logs. When it works again, it says so."""

    lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        lost = self.lost
        super().emit(record)
        if lost and self.lost == lost:
            self.lost = 0
            super().emit(_own_record(logging.WARNING, f"{lost} log lines were lost here"))

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError) and self.stream is not None:
            # Most likely arguments that do not fit the message. What was said must not vanish without a word.
            message = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
            instead = _own_record(
                logging.ERROR,
                "a log call could not be written",
                message=message,
                error=f"{type(error).__name__}: {error}",
                place=f"{record.pathname}:{record.lineno}",
            )
            try:
                self.stream.write(self.format(instead) + self.terminator)
                self.flush()
            except (OSError, ValueError):
                self.lost += 1
        else:
            self.lost += 1


def _own_record(level: int, event: str, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord(f"{ROOT}.observability.logging", level, __file__, 0, event, None, None)
    record.__dict__.update({f"{key}_" if key in _STANDARD else key: value for key, value in fields.items()})
    return record


class _StreamHandler(_Unbreakable):
    pass


class _FileHandler(_Unbreakable, logging.handlers.RotatingFileHandler):
    """100 MB, ten times. Created readable for the group only: logs name hosts, users and habits."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        logging.handlers.RotatingFileHandler.__init__(
            self, path, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8", errors="backslashreplace"
        )

    def _open(self) -> Any:
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_CLOEXEC, 0o640)

        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=opener)

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        # The parent formats every line a second time to know its length; one line more than the limit is no harm.
        # A pipe or a device named as the file has no size.
        if self.stream is None or not self.stream.seekable():
            return False
        return self.stream.tell() >= self.maxBytes

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            # The last lines did not fit on the disk. The descriptor is closed all the same.
            self.lost += 1
