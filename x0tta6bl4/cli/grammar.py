"""Which words the command line takes: the tree of commands and options, and plain words for what is not in it."""

import re
from argparse import (
    SUPPRESS,
    Action,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
    _SubParsersAction,
)
from difflib import get_close_matches
from typing import Any, NoReturn

from x0tta6bl4.cli.exits import LONGEST, MEANINGS, USAGE, quoted
from x0tta6bl4.kernel.flags import NAMES as FLAG_NAMES

SHELLS = ("bash", "zsh", "fish")
SCOPES = ("read", "operate", "admin")
OPINIONS = ("helped", "useless", "harmful", "right", "false-alarm")
EXITS = "exit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in MEANINGS.items())
ENVIRONMENT = (
    "environment:\n"
    "  X0TTA6BL4_CONFIG  the configuration, when --config does not say\n"
    "  NO_COLOR          no colours when set\n"
    "Where nothing says so, the configuration is ./config/x0tta6bl4.yaml, else /etc/x0tta6bl4/x0tta6bl4.yaml, else\n"
    "the defaults."
)


LONGEST_MISTAKE = 300
"""Characters of what argparse says: it quotes what it was given."""


class Parser(ArgumentParser):
    """Says a mistake in one line, with the nearest word that exists, and where to read on."""

    def __init__(self, **more: Any) -> None:
        super().__init__(formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message, re.DOTALL)
        if found:
            words = [word.strip(" '") for word in found[2].split(",")]
            near = get_close_matches(found[1][:LONGEST], words, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(words)}"
            message = f"{quoted(_printable(found[1]))} is not among what can be said here; {hint}"
        elif len(message) > LONGEST_MISTAKE:
            message = f"{message[:LONGEST_MISTAKE]}… ({len(message)} characters)"
        self.exit(USAGE, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def duration(text: str) -> float:
    """Seconds, from words such as 30m. More than none: a pause of nothing would be a mistake."""
    from x0tta6bl4.kernel.units import as_seconds

    try:
        seconds = as_seconds(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{quoted(_printable(text))} {error}") from error
    if seconds <= 0:
        raise ArgumentTypeError("should be longer than nothing")
    return seconds


def word(text: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9_-]{0,39}", text) is None:
        raise ArgumentTypeError(f"{quoted(_printable(text))} should be a word in lower case, such as deploy or config")
    return text


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1_000_000:
        raise ArgumentTypeError(f"{quoted(_printable(text))} should be a whole number from 1 to 1000000")
    return int(text)


def build() -> Parser:
    """Cheap: nothing of the daemon is imported for it."""
    parser = Parser(
        prog="x0tta6bl4",
        description="Keeps this host's services healthy, proves it, and can say why it did or did not act.",
        epilog=f"{EXITS}\n\n{ENVIRONMENT}",
    )
    parser.add_argument("--output", choices=("table", "json"), default="table", help="for people (default) or programs")
    parser.add_argument("--config", metavar="FILE", default=None, help="the daemon's configuration")
    parser.add_argument("--state-dir", metavar="DIR", default=None, help="where the daemon's store lies, instead")
    parser.set_defaults(set=[])
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")

    run = _command(commands, "run", "run", "runs the daemon until SIGTERM or Ctrl-C")
    _settings(run)
    validate = _command(commands, "validate", "validate", "tells every mistake in a configuration; starts nothing")
    _file(validate)
    _settings(validate)

    config = _group(commands, "config", "shows what is set, and what could be")
    show = _command(config, "show", "config", "every setting in force", "show")
    show.add_argument("--origin", action="store_true", help="also where each value comes from")
    _file(show)
    _settings(show)
    _command(config, "reference", "config", "a file with every setting, its default and its meaning", "print_reference")

    _command(commands, "status", "status", "how everything is now; exit code 1 when something is not well")
    _command(commands, "tui", "tui", "how everything is, live on the whole terminal, with its questions to answer")
    incidents = _command(commands, "incidents", "incidents", "what was wrong, or the whole story of one incident")
    incidents.add_argument("id", metavar="ID", nargs="?", help="an incident, or a part of its id that fits one only")
    incidents.add_argument("--all", action="store_true", help="also those that are over")
    incidents.add_argument("--subject", metavar="S", help="of this subject only")
    incidents.add_argument("--limit", type=positive, default=50, metavar="N", help="at most so many (default 50)")
    incidents.add_argument("--moves", action="store_true", help="also every step of its runbook, the inner ones too")
    tell = _command(commands, "tell", "events", "sends an event to the runbook of an incident, or lists those", "tell")
    tell.add_argument("incident", metavar="INCIDENT", help="an incident, or a part of its id that fits one only")
    tell.add_argument("event", metavar="EVENT", nargs="?", help="such as operator.hold; none: what it listens to")
    tell.add_argument(
        "--data", metavar="KEY=VALUE", nargs="+", action="extend", help="told with the event; or one JSON object"
    )
    tell.add_argument("--why", default="", metavar="REASON", help="told with the event, and kept")
    why = _command(commands, "why", "why", "why something was done about a target, or was not")
    why.add_argument("target", metavar="TARGET", help="a subject, or an incident's id")
    why.add_argument("--metrics", action="store_true", help="looks at the subject and lists what its monitors report")

    feedback = _command(
        commands, "feedback", "score", "tells the daemon whether what it did, or suggested, was right", "feedback"
    )
    feedback.add_argument("incident", metavar="INCIDENT", help="an incident, or a part of its id that fits one only")
    feedback.add_argument(
        "opinion",
        metavar="|".join(OPINIONS),
        choices=OPINIONS,
        help="what was done helped, did not, or did harm; what was found was right, or a false alarm",
    )
    feedback.add_argument("--why", default="", metavar="REASON", help="kept with the answer")
    score = _command(commands, "score", "score", "what rules would have done, and whether it would have been right")
    score.add_argument("--rule", metavar="R", help="of this rule only")
    score.add_argument(
        "--since",
        dest="seconds",
        type=duration,
        default=30 * 86400.0,
        metavar="TIME",
        help="how far back (default 30d)",
    )

    _command(commands, "approvals", "approvals", "what waits for a person, and until when", "listed")
    for name, what in (
        ("approve", "lets the daemon do a step that waits for approval"),
        ("reject", "tells the daemon not to do a step that waits for approval"),
    ):
        answer = _command(commands, name, "approvals", what, name)
        answer.add_argument("plan", metavar="PLAN", help="the plan's id, as `why` and `status` give it")
        answer.add_argument("--why", default="", metavar="REASON", help="kept with the answer")

    pause = _command(
        commands, "pause", "pauses", "keeps the daemon's hands off for a while; it goes on watching", "pause"
    )
    pause.add_argument("target", metavar="TARGET", nargs="?", default="*", help="a subject or a pattern (default '*')")
    pause.add_argument("--for", dest="seconds", type=duration, required=True, metavar="TIME", help="such as 30m or 2h")
    pause.add_argument("--reason", default="", metavar="R", help="told to whoever asks why nothing is healed")
    pause.add_argument("--maintenance", action="store_true", help="call it maintenance instead of a pause")
    resume = _command(
        commands, "resume", "pauses", "ends a pause before its time; without TARGET all of them", "resume"
    )
    resume.add_argument("target", metavar="TARGET", nargs="?", help="as it was given to `pause`")

    changed = _command(
        commands, "changed", "changed", "notes what you changed, such as a deploy; without SUBJECT lists what was"
    )
    changed.add_argument("subject", metavar="SUBJECT", nargs="?", help="what was changed")
    changed.add_argument("--kind", type=word, metavar="deploy|config|WORD", help="what was done (default deploy)")
    changed.add_argument("--detail", metavar="TEXT", help="such as the version; told with what came of it")
    changed.add_argument("--at", metavar="TIME", nargs="+", help="5m ago, 14:05 or an ISO 8601 date (default now)")
    changed.add_argument("--limit", type=positive, default=50, metavar="N", help="list at most so many (default 50)")

    simulate = _command(commands, "simulate", "simulate", "looks, judges and says what would be done; does nothing")
    _settings(simulate)
    simulate.add_argument(
        "--for", dest="seconds", type=duration, default=3.0, metavar="TIME", help="how long to look (default 3s)"
    )
    doctor = _command(commands, "doctor", "doctor", "what this host lacks for the daemon's work, and how to mend it")
    _settings(doctor)
    _command(commands, "plugins", "plugins", "every plugin that is installed")
    flags = _command(commands, "flags", "flags", "the switches that work while the daemon runs")
    flags.add_argument("name", metavar="NAME", nargs="?", choices=FLAG_NAMES, help=", ".join(FLAG_NAMES))
    flags.add_argument("value", metavar="on|off", nargs="?", choices=("on", "off"))

    runbook = _group(commands, "runbook", "checks, draws, tests and lists runbooks")
    check = _command(runbook, "validate", "runbook", "tells every mistake in runbooks; starts nothing", "validate")
    check.add_argument("files", metavar="FILE", nargs="+", help="a runbook, or a folder of them")
    draw = _command(runbook, "draw", "runbook", "a runbook as a Mermaid diagram", "draw")
    draw.add_argument("book", metavar="FILE", nargs="?", help="a runbook's name, or its file")
    draw.add_argument("--incident", metavar="ID", help="the runbook that it is on, with its states marked")
    test = _command(runbook, "test", "runbook", "plays tests of runbooks; exit code 1 when one fails", "test")
    test.add_argument("files", metavar="FILE", nargs="*", help="files of tests, or folders; none: the shipped ones")
    replay = _command(
        runbook, "replay", "runbook", "plays an incident's journal again; exit code 1 when it leads elsewhere", "replay"
    )
    replay.add_argument("incident", metavar="INCIDENT", help="an incident, or a part of its id that fits one only")
    migrate = _command(
        runbook, "migrate", "runbook", "moves open incidents to another version of their runbook", "migrate"
    )
    migrate.add_argument("migration", metavar="FILE", help="says between which versions, and which state becomes which")
    migrate.add_argument("--apply", action="store_true", help="does it; without this, only says what would be done")
    _command(runbook, "list", "runbook", "every runbook, in the order in which they are asked", "list_")
    _command(runbook, "actions", "runbook", "every action that a runbook may ask for here", "actions")

    _learning(commands)
    _access(commands)

    audit = _group(commands, "audit", "the tamper-evident record of what people changed", required=False)
    _command(audit, "show", "audit", "the latest entries", "show").add_argument(
        "--limit", type=positive, default=50, metavar="N", help="at most so many (default 50)"
    )
    _command(audit, "verify", "audit", "checks every link; exit code 1 when one does not hold", "verify")
    for name, what in (
        ("export", "writes everything that is remembered to a file (- for standard output)"),
        ("import", "takes in what `audit export` wrote (- for standard input)"),
    ):
        _command(audit, name, "audit", what, f"{name}_").add_argument("archive", metavar="FILE")

    completion = _command(commands, "completion", "completion", "completes commands in your shell")
    completion.add_argument("shell", choices=SHELLS)
    _command(
        commands,
        "demo",
        "demo",
        "breaks a sample service again and again and shows it being healed",
        "demo",
        passes_on=True,
    )
    _command(commands, "demo-service", "demo", "runs the sample service alone", "service", passes_on=True)
    _command(commands, "version", "version", "the version")
    return parser


Commands = _SubParsersAction  # the type that argparse has no public name for


class _OfQuery(Action):
    """``--query`` begins another question; ``--subject`` belongs to the one before it."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None) -> None:
        told = list(getattr(namespace, "query", None) or [])
        if self.dest == "query":
            told.append((values, None))
        elif not told or told[-1][1] is not None:
            parser.error("--subject stands behind the --query that it is for, once")
        else:
            told[-1] = (told[-1][0], values)
        namespace.query = told


def _learning(commands: "Commands[Parser]") -> None:
    """What is usual, learnt from the past and carried from host to host."""
    learn = _command(
        commands, "learn", "learn", "fills baselines from what a Prometheus, or CSV files, have of the past"
    )
    learn.add_argument("--prometheus", metavar="URL", help="instead of those of the configured prometheus monitors")
    learn.add_argument("--since", default="14d", metavar="TIME", help="how far back, or a date (default 14d)")
    learn.add_argument("--until", default="now", metavar="TIME", help="up to when; as a date, or how long ago")
    learn.add_argument(
        "--step", default="auto", metavar="TIME", help="between two values (default: as the analyzer looks)"
    )
    learn.add_argument(
        "--query", action=_OfQuery, metavar="METRIC=PROMQL", help="instead of what the monitors ask; may be given again"
    )
    learn.add_argument(
        "--subject",
        action=_OfQuery,
        metavar="LABEL|=NAME",
        help="whose numbers that query gives: by a label (default instance), or by name",
    )
    learn.add_argument("--instance", metavar="NAME", help="the node_exporter that looks at this host")
    learn.add_argument("--token-file", metavar="FILE", help="the bearer token that the server wants")
    learn.add_argument("--headers-file", metavar="FILE", help="headers to send, one `Name: value` a line")
    learn.add_argument("--ca-file", metavar="FILE", help="the certificates to trust")
    learn.add_argument("--csv", metavar="FILE", nargs="+", help="time,subject,metric,value (- for standard input)")
    learn.add_argument("--subject-name", metavar="NAME", help="whose values they are, in files of time,value")
    learn.add_argument("--metric", metavar="NAME", help="which metric of it")
    learn.add_argument("--dry-run", action="store_true", help="only says what would be learnt")
    _analyzer(learn)

    baseline = _group(commands, "baseline", "what is usual for each series, as far as it was learnt")
    show = _command(baseline, "show", "baseline", "every series that is learnt, or all about some", "show")
    show.add_argument("series", metavar="SERIES", nargs="?", help="SUBJECT/METRIC, or a pattern such as 'host/psi_*'")
    show.add_argument("--limit", type=positive, default=50, metavar="N", help="at most so many (default 50)")
    show.add_argument("--svg", metavar="FILE", help="draws a single series into a file")
    export = _command(baseline, "export", "baseline", "writes what was learnt to a file, for other hosts", "export_")
    export.add_argument("archive", metavar="FILE", help="- for standard output")
    export.add_argument("--series", metavar="PATTERN", action="append", help="only these; may be given again")
    taken = _command(baseline, "import", "baseline", "takes over what `baseline export` wrote", "import_")
    taken.add_argument("archive", metavar="FILE", help="- for standard input")
    taken.add_argument("--series", metavar="PATTERN", action="append", help="only these; may be given again")
    forget = _command(baseline, "forget", "baseline", "learns series anew", "forget")
    forget.add_argument("series", metavar="SERIES", nargs="+", help="SUBJECT/METRIC, or a pattern")
    for one in (show, export, taken, forget):
        _analyzer(one)


def _analyzer(parser: Parser) -> None:
    parser.add_argument("--analyzer", metavar="NAME", help="where several learn: which")


def _access(commands: "Commands[Parser]") -> None:
    """Who may ask the endpoint."""
    keys = _group(commands, "keys", "the keys with which programs ask the endpoint")
    create = _command(keys, "create", "keys", "makes a key and shows it, this once", "create")
    create.add_argument("name", metavar="NAME", help="what the key is for, such as prometheus")
    create.add_argument("--scope", choices=SCOPES, required=True, help="each holds the ones before it")
    create.add_argument("--per-minute", type=positive, metavar="N", help="requests a minute (none: as everybody)")
    create.add_argument("--expires", type=duration, metavar="TIME", help="such as 90d (none: holds until revoked)")
    _command(keys, "list", "keys", "every key, with its last use", "list_")
    rotate = _command(keys, "rotate", "keys", "makes another key of a name; the one before holds a while yet", "rotate")
    rotate.add_argument("name", metavar="NAME", help="as it was given to `keys create`")
    rotate.add_argument(
        "--overlap",
        type=duration,
        default=86400.0,
        metavar="TIME",
        help="how long both hold (default 24h)",
    )
    revoke = _command(keys, "revoke", "keys", "ends a key at once", "revoke")
    revoke.add_argument("key", metavar="ID|NAME", help="one key by its id, or all of a name")

    operators = _group(commands, "operators", "the people who may sign in on the endpoint's page")
    add = _command(operators, "add", "operators", "adds a person and asks for the password", "add")
    add.add_argument("name", metavar="NAME", help="in lower case, such as oncall")
    add.add_argument("--scope", choices=SCOPES, required=True, help="each holds the ones before it")
    password = _command(operators, "password", "operators", "another password; ends the sessions", "password")
    password.add_argument("name", metavar="NAME")
    for one in (add, password):
        one.add_argument("--password-file", metavar="FILE", help="has the password in one line (- for standard input)")
    _command(operators, "list", "operators", "everybody who may sign in", "list_")
    scope = _command(operators, "scope", "operators", "what a person may; ends the sessions", "scope")
    scope.add_argument("name", metavar="NAME")
    scope.add_argument("scope", metavar="|".join(SCOPES), choices=SCOPES)
    remove = _command(operators, "remove", "operators", "a person may sign in no more; ends the sessions", "remove")
    remove.add_argument("name", metavar="NAME")

    sessions = _group(commands, "sessions", "who is signed in on the endpoint's page")
    listed = _command(sessions, "list", "sessions", "the sessions that hold", "list_")
    listed.add_argument("--operator", metavar="NAME", help="of this person only")
    end = _command(sessions, "end", "sessions", "ends sessions at once", "end")
    end.add_argument("id", metavar="ID", nargs="?", help="a session, or the beginning of its id")
    end.add_argument("--operator", metavar="NAME", help="all of this person's")
    end.add_argument("--all", action="store_true", help="everybody's")


def _command(
    commands: "Commands[Parser]", name: str, module: str, what: str, function: str = "run", *, passes_on: bool = False
) -> Parser:
    parser = commands.add_parser(
        name,
        help=what,
        description=what[:1].upper() + what[1:] + ".",
        epilog=EXITS,
        add_help=not passes_on,
        prefix_chars="\0" if passes_on else "-",
    )
    parser.set_defaults(module=module, function=function)
    if passes_on:
        parser.add_argument("words", nargs="*", metavar="WORD", help="its own options")
        return parser
    _common(parser)
    return parser


def _common(parser: Parser) -> None:
    """Before the command they have their defaults; behind it they count only when they are given."""
    parser.add_argument("--output", choices=("table", "json"), default=SUPPRESS, help="for people or programs")
    parser.add_argument("--config", metavar="FILE", default=SUPPRESS, help="the daemon's configuration")
    parser.add_argument("--state-dir", metavar="DIR", default=SUPPRESS, help="where the daemon's store lies, instead")


def _group(commands: "Commands[Parser]", name: str, what: str, *, required: bool = True) -> "Commands[Parser]":
    parser = commands.add_parser(name, help=what, description=what[:1].upper() + what[1:] + ".", epilog=EXITS)
    if not required:
        parser.set_defaults(module=name, function="show", limit=50)
        _common(parser)
    return parser.add_subparsers(metavar="WHAT", required=required, dest="what")


def _settings(parser: Parser) -> None:
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=SUPPRESS,
        help="a setting, such as guard.mode=observe; may be given again",
    )


def _file(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help="the configuration, instead of --config")


def subparsers(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    """The commands below this one, by name."""
    found: dict[str, ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            found |= action.choices
    return found


def options(parser: ArgumentParser) -> list[Action]:
    return [action for action in parser._actions if not isinstance(action, _SubParsersAction)]


def helps(parser: ArgumentParser) -> dict[str, str]:
    """The one line about each command below this one."""
    found: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            found |= {str(choice.dest): choice.help or "" for choice in action._choices_actions}
    return found
