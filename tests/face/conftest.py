"""What the tests of the daemon's face share: started once, for it takes seconds."""

import shutil
from collections.abc import Iterator

import pytest

from .live import Lived, Looking, lived, looking


@pytest.fixture(scope="session")
def healed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """A real daemon that has lived a little: a heal, a question, a reload."""
    with lived(tmp_path_factory.mktemp("healed") / "first") as told:
        yield told


@pytest.fixture(scope="session")
def looked_at(tmp_path_factory: pytest.TempPathFactory, healed: Lived) -> Iterator[Looking]:
    """The same, scraped by a real Prometheus whose alerts go to a real Alertmanager."""
    for program in ("prometheus", "prometheus-alertmanager"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install prometheus prometheus-alertmanager")
    with looking(tmp_path_factory.mktemp("looked-at") / "prometheus", healed) as seen:
        yield seen


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return found
