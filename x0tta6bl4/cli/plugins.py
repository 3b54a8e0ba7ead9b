"""Lists every plugin that is installed, ours and others'."""

from argparse import Namespace

from x0tta6bl4.cli.display import Display
from x0tta6bl4.cli.exits import OK


def run(args: Namespace) -> int:
    from x0tta6bl4.settings.plugins import installed

    display = Display(args)
    rows = installed()
    if display.as_json:
        display.json({"plugins": rows})
    else:
        display.table(("FAMILY", "PLUGIN", "FROM", "WHAT"), [(r.family, r.name, r.origin, r.summary) for r in rows])
    return OK
