"""Runs the daemon in the foreground and says, once, what it watches and what it may do."""

import json
import os
import shutil
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.exits import OK
from x0tta6bl4.cli.places import config_of, overrides_of

if TYPE_CHECKING:
    from x0tta6bl4.app import Daemon

SAMPLE = "x0tta6bl4.demo.victim"


def run(args: Namespace) -> int:
    from x0tta6bl4 import app

    display = Display(args)
    app.run(config_of(args), overrides_of(args), lambda daemon: _announce(daemon, display))
    return OK


def _announce(daemon: "Daemon", display: Display) -> None:
    blueprint, settings = daemon.blueprint, daemon.blueprint.settings
    if display.as_json:
        print(
            json.dumps(
                {
                    "version": daemon.version,
                    "config": str(daemon.config) if daemon.config else None,
                    "state_dir": str(daemon.state_dir),
                    "url": daemon.address,
                    "allow": list(settings.guard.allow),
                    "subjects": [
                        {"name": c.subject.name, "kind": c.subject.kind, "mode": c.subject.mode}
                        for c in blueprint.cares
                    ],
                }
            )
        )
        sys.stdout.flush()
        return
    display.head(
        f"x0tta6bl4 {daemon.version} watches {plural(len(blueprint.cares), 'subject')} and this host "
        f"({daemon.config or 'no configuration file'})"
    )
    if blueprint.cares:
        display.table(
            ("SUBJECT", "KIND", "MODE", "SEEN BY"),
            [(c.subject.name, c.subject.kind, c.subject.mode, ", ".join(c.monitors)) for c in blueprint.cares],
            states=2,
        )
    allowed = ", ".join(settings.guard.allow)
    display.line(
        f"allowed actions: {allowed}; everything else is only suggested"
        if allowed
        else "nothing is allowed (guard.allow is empty): it only says what it would do"
    )
    if not settings.mapek.enabled:
        display.line("mapek.enabled is false: nothing is watched and nothing is healed")
    if daemon.address:
        display.line(f"status page: {daemon.address}")
    elif settings.status.enabled:
        why = next((c.meaning for c in daemon.conditions() if c.code == "endpoint"), "see the log above")
        display.line(f"there is no status page: {why}")
    else:
        display.line("the status page is off (status.enabled)")
    for care in blueprint.cares:
        argv = care.program.argv if care.program is not None else ()
        if SAMPLE in argv and "--port" in argv[:-1]:
            port = argv[argv.index("--port") + 1]
            display.line(f"break it:    curl -X POST http://127.0.0.1:{port}/break/kill     (or hang, stop, leak, …)")
            display.line(f"and see why: {_program()} {_place(daemon)}why {care.subject.name}")
            break
    left = [c.subject.name for c in blueprint.cares if c.program is not None and c.program.on_exit == "leave"]
    stays = f" What it started ({', '.join(left)}) runs on and is taken up by the next one." if left else ""
    display.line(f"Ctrl-C stops the daemon.{stays}")
    sys.stdout.flush()


def _program() -> str:
    """As it can be typed in another terminal."""
    return "x0tta6bl4" if shutil.which("x0tta6bl4") or not os.path.isfile(sys.argv[0]) else sys.argv[0]


def _place(daemon: "Daemon") -> str:
    return f"--config {daemon.config} " if daemon.config else f"--state-dir {daemon.state_dir} "
