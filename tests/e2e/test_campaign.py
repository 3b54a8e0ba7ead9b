"""The daemon at its defaults does what it must, and nothing else, in a short campaign of real faults."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0
"""Far more than it takes; ends a campaign that hangs."""


@pytest.mark.slow
def test_the_daemon_heals_what_is_broken_and_leaves_the_rest_alone() -> None:
    campaign = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.campaign", "--quick", "--evidence"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        told, _ = campaign.communicate(timeout=PATIENCE)
    finally:
        if campaign.poll() is None:
            # Asked, not killed: it has daemons and victims to clear away.
            campaign.send_signal(signal.SIGTERM)
            campaign.wait(60)

    assert 0 == campaign.returncode, told
    assert "0 missed" in told and "0 needless actions" in told, told
