"""Finds the runbooks that come with the daemon, wherever it is installed."""

from pathlib import Path

from x0tta6bl4.runbooks.document import Runbook, read

PACKAGED = Path(__file__).parent / "shipped"
"""In an installed daemon; a checkout has them where operators look for them."""
CHECKOUT = Path(__file__).parents[2] / "config" / "runbooks"


def folder() -> Path:
    return PACKAGED if PACKAGED.is_dir() else CHECKOUT


def files() -> list[Path]:
    return sorted(folder().glob("*.yaml"))


def shipped() -> list[Runbook]:
    """In the order in which they are asked: by name, those for every fault last. Proved when they were released."""
    books = [book for file in files() for book in read(file.read_text(encoding="utf-8"), file.name, prove=False)]
    return sorted(books, key=lambda book: ("*" in book.trigger.anomalies, book.name))
