"""Works with runbooks before they are needed: checks, draws, tests and lists them. Nothing is started or done."""

import asyncio
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.exits import BAD, CONFIG, OK, Refusal
from x0tta6bl4.cli.places import config_of, known_or_refuse, opened, place_of
from x0tta6bl4.kernel.errors import ConfigError, Problem

if TYPE_CHECKING:
    from x0tta6bl4.app import Blueprint
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
            found = _read(file)
        except ConfigError as error:
            problems += error.problems
            continue
        books += found
        problems += [p for book in found for p in _check(book, catalogue, blueprint)]
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
    reports = [run(by_book[book.name], book) for book in {book.name: book for book in books.values()}.values()]
    failed = sum(len(report.failures) for report in reports)
    if display.as_json:
        display.json({"ok": not failed, "reports": reports})
    else:
        _tell(display, reports, failed)
    return BAD if failed else OK


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
                book.summary,
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
            raise Refusal(f"there is no file or folder {name!r}")
    return found


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened_:
            return opened_.read(LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("the whole file", "is not UTF-8 text", str(file))]) from error


def _read(file: Path) -> "list[Runbook]":
    from x0tta6bl4.runbooks.document import read

    books = read(_text(file), str(file))
    if not books:
        raise ConfigError([Problem("the whole file", "has no runbook in it", str(file))])
    return books


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
