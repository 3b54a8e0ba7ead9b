"""Works with runbooks before they are needed: checks, draws, tests and lists them. Nothing is started or done."""

import asyncio
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.exits import BAD, CONFIG, OK, Refusal, quoted
from x0tta6bl4.cli.places import config_of, known_or_refuse, opened, place_of
from x0tta6bl4.kernel.errors import ConfigError, Problem
from x0tta6bl4.kernel.units import show_seconds

if TYPE_CHECKING:
    from x0tta6bl4.app import Blueprint
    from x0tta6bl4.kernel.facts import Book, Incident
    from x0tta6bl4.kernel.memory import Knowledge
    from x0tta6bl4.runbooks.catalogue import ActionSpec
    from x0tta6bl4.runbooks.document import Runbook
    from x0tta6bl4.runbooks.trial import Report, Trials

LARGEST = 1 << 20
"""Bytes that are read of a file at all; what a runbook may have is less."""


def validate(args: Namespace) -> int:
    """Every file by itself, so that the mistakes of one do not hide those of the next."""
    display = Display(args)
    blueprint = _blueprint(args)
    catalogue = _catalogue(blueprint)
    books: list[Runbook] = []
    problems: list[Problem] = []
    for file in _files(args.files):
        try:
            found, mistakes = _drafts(file)
        except ConfigError as error:
            problems += error.problems
            continue
        # What could be made out of a runbook with mistakes is checked like the others.
        mistakes = [*mistakes, *(p for book in found for p in _check(book, catalogue, blueprint))]
        books += found if not mistakes else []
        problems += mistakes
    if display.as_json:
        told = [_told(book) for book in books]
        display.json({"ok": not problems, "runbooks": told, "problems": problems})
        if problems:
            print(f"x0tta6bl4: {plural(len(problems), 'mistake')}", file=sys.stderr)
    elif problems:
        print(*map(str, problems), sep="\n", file=sys.stderr)
        print(f"x0tta6bl4: {plural(len(problems), 'mistake')}; nothing was changed", file=sys.stderr)
    else:
        for book in books:
            states = len(list(book.walk()))
            display.line(f"OK: {book.name} v{book.version} ({book.hash}): {plural(states, 'state')}, {book.place}")
    return CONFIG if problems else OK


def draw(args: Namespace) -> int:
    from x0tta6bl4.runbooks.draw import draw as diagram

    display = Display(args)
    active: Sequence[str] = ()
    if args.incident is not None:
        book, active = asyncio.run(_of_incident(args))
    elif args.book is None:
        raise Refusal("which runbook? give a name, a file, or --incident ID")
    else:
        book = _named(args, args.book)
    text = diagram(book, active)
    if display.as_json:
        display.json({"runbook": _told(book), "active": list(active), "mermaid": text})
    else:
        print(text, end="")
    return OK


def test(args: Namespace) -> int:
    """Exit code 1 when a test fails; what no test takes is told and is no failure."""
    from x0tta6bl4.runbooks.shipped import folder
    from x0tta6bl4.runbooks.trial import run

    display = Display(args)
    files = _files(args.files) if args.files else sorted((folder() / "tests").glob("*.yaml"))
    if not files:
        raise Refusal(f"there are no tests in {folder() / 'tests'}; name files")
    by_book: dict[str, list[Trials]] = {}
    books: dict[str, Runbook] = {}
    problems: list[Problem] = []
    for file in files:
        try:
            trials = _trials(file)
            book = books.setdefault(trials.runbook, _tested(args, trials, file))
        except ConfigError as error:
            problems += error.problems
        else:
            by_book.setdefault(book.name, []).append(trials)
    if problems:
        raise ConfigError(problems, remedy="mend the tests, or the runbook that they are of")
    # Without stand-ins nothing is held against it, so what is configured here does not matter.
    offered = _catalogue(_blueprint(args)) if any(t.actions for all_of in by_book.values() for t in all_of) else {}
    reports = [run(by_book[book.name], book, offered) for book in {book.name: book for book in books.values()}.values()]
    failed = sum(len(report.failures) for report in reports)
    if display.as_json:
        display.json({"ok": not failed, "reports": reports})
    else:
        _tell(display, reports, failed)
    return BAD if failed else OK


def actions(args: Namespace) -> int:
    display = Display(args)
    catalogue = _catalogue(_blueprint(args))
    if display.as_json:
        told = [
            {
                "action": spec.name,
                "summary": spec.summary,
                "args": spec.args.model_json_schema() if spec.args is not None else None,
                "read_only": spec.is_read_only,
                "idempotent": spec.idempotent,
                "blast": spec.blast,
                "reboot_class": spec.is_reboot_class,
                "timeout": spec.timeout,
                "undo": spec.undo,
                "on_unknown": spec.on_unknown,
            }
            for _, spec in sorted(catalogue.items())
        ]
        display.json({"actions": told})
        return OK
    display.table(
        ("ACTION", "REACHES", "ON UNKNOWN", "TIMEOUT", "UNDO", "ARGUMENTS", "WHAT"),
        [
            (
                spec.name,
                spec.blast,
                spec.on_unknown,
                show_seconds(spec.timeout),
                spec.undo.rpartition(".")[2] or "-",
                ", ".join(spec.args.model_fields) if spec.args is not None and spec.args.model_fields else "-",
                spec.summary,
            )
            for _, spec in sorted(catalogue.items())
        ],
    )
    display.line()
    display.line("service.VERB is whatever controls the subject, dependency.VERB the same for each one it depends on.")
    return OK


def replay(args: Namespace) -> int:
    return asyncio.run(_replay(args, Display(args)))


async def _replay(args: Namespace, display: Display) -> int:
    from x0tta6bl4.cli.incidents import find
    from x0tta6bl4.runbooks.life import replayed
    from x0tta6bl4.runbooks.stand import kept

    async with opened(place_of(args)) as knowledge:
        incident = await find(knowledge, args.incident)
        moves = await knowledge.moves(incident.id)
        for _ in range(5):  # a daemon may have moved it on between both looks
            again = await knowledge.incident(incident.id)
            if again is None or again.place == incident.place:
                break
            incident, moves = again, await knowledge.moves(incident.id)
        by_hash = await kept(knowledge)
    has_chart = incident.place.get("chart") is not None
    if not any(move.event == "$start" for move in moves):
        wrong = ["the journal does not reach back to a beginning of its runbook"] if has_chart or moves else []
    else:
        wrong = replayed(moves, by_hash, incident)
    if display.as_json:
        display.json({"ok": not wrong, "incident": incident.id, "moves": moves, "wrong": wrong})
        return BAD if wrong else OK
    if moves:
        display.table(
            ("MOVE", "WHEN", "EVENT", "LEADS TO", "ASKS FOR"),
            [
                (
                    str(move.number),
                    display.clock(move.at),
                    move.event if move.taken else f"{move.event} (not taken)",
                    ", ".join(move.states) or "-",
                    "; ".join(effect for effect in move.effects if effect) or "-",
                )
                for move in moves
            ],
        )
    for reason in wrong:
        display.line(f"WRONG: {reason}")
    if not moves:
        display.line(f"{incident.id} was never on a runbook, as far as is remembered.")
    elif not wrong:
        where = "and gives the place it is at" if has_chart else "and its runbook has ended"
        display.line(f"OK: played again, each of {plural(len(moves), 'move')} leads where the journal says, {where}.")
    return BAD if wrong else OK


def migrate(args: Namespace) -> int:
    return asyncio.run(_migrate(args, Display(args)))


MIGRATION_KEYS = ("runbook", "from", "to", "states", "data", "refuse_if")


async def _migrate(args: Namespace, display: Display) -> int:
    """Exit code 1 when there are incidents that cannot move."""
    from x0tta6bl4.cli.places import who
    from x0tta6bl4.runbooks.life import MIGRATE, cannot_move, way_between
    from x0tta6bl4.statechart.persistence.migrate import MigrationRefused, plan

    file = _files([args.migration])[0]
    asked = _migration(file)
    place = place_of(args)
    async with opened(place) as knowledge:
        known = await _versions(args, knowledge, asked["runbook"])
        in_store = {book.hash for book in await knowledge.books()}
        old = _version(known, asked["from"], "from", asked["runbook"], file)
        new = _version(known, asked["to"], "to", asked["runbook"], file)
        if old.hash == new.hash:
            raise ConfigError([Problem("to", "is the version that the migration is from", str(file))])
        body: dict[str, Any] = {key: asked[key] for key in ("states", "data", "refuse_if") if key in asked}
        try:
            found = plan(old.chart, new.chart, way_between(old, new, body))
        except MigrationRefused as refused:
            raise ConfigError([Problem("", reason, str(file)) for reason in refused.reasons], remedy=_MEND) from refused
        problems = [problem for problem in found if problem.level == "error"]
        if problems:
            raise ConfigError([Problem("", str(p), str(file)) for p in problems], remedy=_MEND)
        under = [i for i in await knowledge.open_incidents() if i.place.get("book") == old.hash]
        reasons = {i.id: cannot_move(i, old, new, body, display.now) for i in under}
        moving = [i for i in under if not reasons[i.id]]
        if args.apply:
            if new.hash not in in_store and place.daemon is not None:
                raise Refusal(
                    f"the daemon that runs has not read v{new.version} ({new.hash}) of {new.name}",
                    BAD,
                    remedy="put it into the configuration, reload the daemon (SIGHUP), and apply again",
                )
            await knowledge.keep_books([_kept_as(new)])
            told = {"from": old.hash, "to": new.hash, "version": new.version, "migration": body}
            for incident in moving:
                await knowledge.send(incident.id, MIGRATE, told, who())
    if display.as_json:
        display.json(
            {
                "from": _told(old),
                "to": _told(new),
                "applied": args.apply,
                "incidents": [{"incident": i.id, "can_move": not reasons[i.id], "why": reasons[i.id]} for i in under],
                "warnings": [str(problem) for problem in found if problem.level != "error"],
                "daemon": place.daemon,
            }
        )
    else:
        _tell_migration(display, old, new, under, reasons)
        for problem in found:
            display.line(f"warning: {problem}")
        _tell_applied(display, args, len(moving), runs=place.daemon is not None)
    return BAD if any(reasons.values()) else OK


_MEND = "mend the migration; nothing was changed"


def _migration(file: Path) -> dict[str, Any]:
    from x0tta6bl4.runbooks.document import near, pages

    found, problems = pages(_text(file), str(file))
    if not problems and len(found) != 1:
        problems = [Problem("the whole file", f"has {len(found)} documents; a migration is one", str(file))]
    value: Any = found[0].value if found else None
    if not problems and not isinstance(value, dict):
        problems = [Problem("the whole file", "should be a mapping: runbook, from, to, states, …", str(file))]
    if not problems:
        lines = found[0].lines
        for key in value:
            if key not in MIGRATION_KEYS:
                problems.append(
                    Problem(key, f"there is no such key; {near(key, MIGRATION_KEYS)}", str(file), lines[(key,)])
                )
        for key in ("runbook", "from", "to"):
            if key not in value:
                problems.append(Problem(key, "is missing", str(file)))
            elif not isinstance(value[key], str | int) or isinstance(value[key], bool):
                problems.append(Problem(key, "should be a name, a version or a hash", str(file), lines[(key,)]))
    if problems:
        raise ConfigError(problems, remedy=_MEND)
    return dict(value)


async def _versions(args: Namespace, knowledge: "Knowledge", name: str) -> "list[Runbook]":
    """Every version of a runbook that is kept or configured, each text once."""
    from x0tta6bl4.runbooks.stand import kept

    by_hash = await kept(knowledge)
    books = {book.hash: by_hash(book.hash) for book in await knowledge.books() if book.name == name}
    here = {book.hash: book for book in _books(_blueprint(args)) if book.name == name}
    found = [book for book in {**books, **here}.values() if book is not None]
    if not found:
        names = {book.name for book in await knowledge.books()}
        known_or_refuse(name, names, "runbook")
    return found


def _version(books: "Sequence[Runbook]", wanted: str | int, key: str, name: str, file: Path) -> "Runbook":
    found = [book for book in books if str(wanted) in (book.hash, str(book.version))]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"v{book.version} ({book.hash})" for book in books)
    what = f"there are {len(found)} texts of v{wanted}; give the hash" if found else f"there is no {wanted} of {name}"
    raise ConfigError([Problem(key, f"{what}; known are {there}", str(file))], remedy=_MEND)


def _kept_as(book: "Runbook") -> "Book":
    import json

    from x0tta6bl4.kernel.facts import Book

    return Book(book.hash, book.name, book.version, json.dumps(dict(book.source)))


def _tell_migration(
    display: Display, old: "Runbook", new: "Runbook", under: "Sequence[Incident]", reasons: Mapping[str, str]
) -> None:
    display.line(
        f"{old.name} v{old.version} ({old.hash}) to v{new.version} ({new.hash}): every state that an incident can be "
        "in has its place."
    )
    if not under:
        display.line("No open incident is under the old version.")
        return
    display.table(
        ("INCIDENT", "SUBJECT", "MOVES", "WHY NOT"),
        [(i.id, i.subject, "no" if reasons[i.id] else "yes", reasons[i.id]) for i in under],
    )


def _tell_applied(display: Display, args: Namespace, moving: int, *, runs: bool) -> None:
    if not moving:
        return
    if not args.apply:
        display.line(f"Nothing was done. --apply moves {plural(moving, 'incident')}.")
    elif runs:
        display.line(f"Sent to {plural(moving, 'incident')}; `x0tta6bl4 incidents ID` tells what came of it.")
    else:
        display.line(f"Sent to {plural(moving, 'incident')}. No daemon runs: they move when one runs.")


def list_(args: Namespace) -> int:
    display = Display(args)
    blueprint = _blueprint(args)
    books = _books(blueprint)
    own = len(books) - len([book for book in books if _is_shipped(book)])
    if display.as_json:
        display.json({"runbooks": [_told(book) for book in books]})
        return OK
    display.table(
        ("RUNBOOK", "VERSION", "FROM", "FOR", "WHAT"),
        [
            (
                book.name,
                str(book.version),
                "shipped" if _is_shipped(book) else "own",
                ", ".join(book.trigger.anomalies) + (f" if {book.trigger.guard}" if book.trigger.guard else ""),
                book.summary.partition(". ")[0].rstrip("."),
            )
            for book in books
        ],
    )
    display.line()
    display.line(
        f"The first that fits an incident treats it; {plural(own, 'runbook')} of your own asked first. "
        "A subject may name another one under `rules`."
    )
    return OK


# -- where runbooks come from ------------------------------------------------------------------------------------------


def _files(names: Iterable[str]) -> list[Path]:
    """The files themselves, and those in the folders."""
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(path.glob("*.yaml"))
            if not inside:
                raise Refusal(f"there is no *.yaml in the folder {name}")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise Refusal(f"there is no file or folder {quoted(name)}")
    return found


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened_:
            return opened_.read(LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("the whole file", "is not UTF-8 text", str(file))]) from error


def _read(file: Path) -> "list[Runbook]":
    books, problems = _drafts(file)
    if problems:
        raise ConfigError(problems, remedy="`x0tta6bl4 runbook validate FILE` checks a runbook alone")
    return books


def _drafts(file: Path) -> "tuple[list[Runbook], list[Problem]]":
    from x0tta6bl4.runbooks.document import drafts

    books, problems = drafts(_text(file), str(file))
    if not books and not problems:
        problems = [Problem("the whole file", "has no runbook in it", str(file))]
    return books, problems


def _trials(file: Path) -> "Trials":
    from x0tta6bl4.runbooks.trial import read

    return read(_text(file), str(file))


def _tested(args: Namespace, trials: "Trials", file: Path) -> "Runbook":
    """A test names its runbook, or the file with it, beside its own."""
    if trials.runbook.endswith((".yaml", ".yml")):
        path = file.parent / trials.runbook
        if not path.is_file():
            raise ConfigError([Problem("runbook", f"there is no file {str(path)!r}", str(file))])
        return _read(path)[0]
    return _named(args, trials.runbook)


def _named(args: Namespace, name: str) -> "Runbook":
    """A file that is there, else a runbook of that name."""
    if os.sep in name or name.endswith((".yaml", ".yml")):
        (file, *_) = _files([name])
        books = _read(file)
        if len(books) > 1:
            raise Refusal(f"{name} has {len(books)} runbooks; give one of them by its name, or a file with one")
        return books[0]
    from x0tta6bl4.runbooks.shipped import shipped

    for book in shipped():
        if book.name == name:
            return book
    books = _books(_blueprint(args))
    known_or_refuse(name, [book.name for book in books], "runbook")
    return next(book for book in books if book.name == name)


async def _of_incident(args: Namespace) -> "tuple[Runbook, Sequence[str]]":
    """The version that the incident is under, and where it is."""
    import json

    from x0tta6bl4.cli.incidents import find
    from x0tta6bl4.runbooks.document import parse

    async with opened(place_of(args)) as knowledge:
        incident = await find(knowledge, args.incident)
        kept = {book.hash: book for book in await knowledge.books()}
    place = incident.place
    if not place.get("book"):
        raise Refusal(f"{incident.id} is on no runbook now", BAD)
    book = kept.get(place["book"])
    if book is None:
        raise Refusal(f"the version of {place.get('name')} that {incident.id} is under is not kept", BAD)
    if args.book is not None and args.book != book.name:
        raise Refusal(f"{incident.id} is on the runbook {book.name}, not on {args.book}")
    found, wrong = parse(json.loads(book.source), f"{book.name} v{book.version}, as it was kept")
    if found is None:
        raise ConfigError(wrong, remedy="this version of the daemon cannot read that runbook any more")
    chart: Mapping[str, Any] = place.get("chart") or {}
    return found, [name for name in chart.get("states", ()) if name != found.name]


def _blueprint(args: Namespace) -> "Blueprint":
    """What is configured, for the actions and subjects that there are; the defaults where the file has mistakes."""
    from x0tta6bl4.app import read

    config = config_of(args)
    try:
        return read(config, os.environ)[1]
    except ConfigError:
        if config is None:
            raise
        print(
            f"x0tta6bl4: {config} has mistakes (`x0tta6bl4 validate` tells them); the defaults are used instead",
            file=sys.stderr,
        )
        return read(None, {})[1]


def _catalogue(blueprint: "Blueprint") -> "Mapping[str, ActionSpec]":
    from x0tta6bl4.app import LaterDatabase, tools_of
    from x0tta6bl4.runbooks.catalogue import catalogue_of

    tools = tools_of(blueprint, LaterDatabase(blueprint.places.state_dir / "unopened"))
    return catalogue_of(c.plugin.build(c.name, c.config, tools) for c in blueprint.chosen["executors"])


def _check(book: "Runbook", catalogue: "Mapping[str, ActionSpec]", blueprint: "Blueprint") -> list[Problem]:
    from x0tta6bl4.runbooks.catalogue import check

    return check(book, catalogue, blueprint.subjects.values())


def _books(blueprint: "Blueprint") -> "list[Runbook]":
    """In the order in which they are asked."""
    from x0tta6bl4.runbooks.document import parse
    from x0tta6bl4.runbooks.shipped import shipped

    books: list[Runbook] = []
    with_shipped = True
    for chosen in blueprint.chosen["planners"]:
        books += [book for raw in getattr(chosen.config, "rules", ()) if (book := parse(raw)[0]) is not None]
        with_shipped = getattr(chosen.config, "shipped", True)
    return books + (shipped() if with_shipped else [])


def _is_shipped(book: "Runbook") -> bool:
    return bool(book.place)


# -- what is said of them ----------------------------------------------------------------------------------------------


def _told(book: "Runbook") -> Mapping[str, Any]:
    return {
        "name": book.name,
        "version": book.version,
        "hash": book.hash,
        "summary": book.summary,
        "place": book.place,
        "anomalies": list(book.trigger.anomalies),
        "if": book.trigger.guard,
        "states": [node.name for node in book.walk()],
    }


def _tell(display: Display, reports: "Sequence[Report]", failed: int) -> None:
    display.table(
        ("RUNBOOK", "STATE", "TESTS", "TRANSITIONS TAKEN"),
        [
            (
                report.runbook,
                "failed" if report.failures else "ok",
                str(report.tests),
                f"{report.transitions - len(report.never)} of {report.transitions}",
            )
            for report in reports
        ],
        states=1,
    )
    for report in reports:
        for failure in report.failures:
            display.line(str(failure))
        for never in report.never:
            display.line(f"{report.runbook}: no test takes {never}")
    tests = sum(report.tests for report in reports)
    display.line(f"{plural(tests, 'test')}, {failed} failed.")
