"""Tells every mistake in a configuration at once; without one, what would be watched and in which mode."""

import os
import sys
from argparse import Namespace

from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.doctor import own_limits
from x0tta6bl4.cli.exits import CONFIG, OK
from x0tta6bl4.cli.places import config_of, overrides_of
from x0tta6bl4.kernel.errors import ConfigError


def run(args: Namespace) -> int:
    from x0tta6bl4.app import read

    display, config = Display(args), config_of(args)
    try:
        loaded, blueprint = read(config, os.environ, overrides_of(args))
    except ConfigError as error:
        if not display.as_json:
            raise
        display.json({"ok": False, "config": str(config) if config else None, "problems": error.problems})
        print(f"x0tta6bl4: {plural(len(error.problems), 'mistake')}", file=sys.stderr)
        return CONFIG
    rows = [(care.subject, [*care.monitors]) for care in blueprint.cares]
    beside = [c.name for c in blueprint.chosen["monitors"] if not any(c.name in monitors for _, monitors in rows)]
    limits = own_limits(blueprint)
    # Which metrics there are is known only to who looks, and here nothing is touched.
    remark = (
        f"Whether anybody reports what {', '.join(limits)} {'is' if len(limits) == 1 else 'are'} about is not known "
        "before somebody looks: `x0tta6bl4 doctor` does."
        if limits
        else ""
    )
    allowed = list(blueprint.settings.guard.allow)
    if display.as_json:
        display.json(
            {
                "ok": True,
                "config": str(config) if config else None,
                "files": [str(f) for f in loaded.files],
                "state_dir": str(blueprint.places.state_dir),
                "allow": allowed,
                "remarks": [remark] if remark else [],
                "monitors": beside,
                "subjects": [{"name": s.name, "kind": s.kind, "mode": s.mode, "monitors": m} for s, m in rows],
            }
        )
        return OK
    files = ", ".join(str(f) for f in loaded.files) or "the defaults"
    display.line(
        f"OK: {files}. It would watch {plural(len(rows), 'subject')}"
        + (f", and beside them {', '.join(beside)}." if beside else ".")
    )
    if rows:
        display.table(("SUBJECT", "KIND", "MODE", "SEEN BY"), [(s.name, s.kind, s.mode, ", ".join(m)) for s, m in rows])
    display.line(f"allowed actions: {', '.join(allowed) or 'none; nothing would be done (guard.allow is empty)'}")
    display.line(f"state: {blueprint.places.state_dir}")
    if remark:
        display.line(remark)
    return OK
