"""One container with a systemd of its own for all tests of this folder."""

from collections.abc import Iterator

import pytest
from container import Machine, booted_machine, why_not


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with booted_machine() as machine:
        yield machine
