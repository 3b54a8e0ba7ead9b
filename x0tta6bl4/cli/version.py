"""Says which version this is."""

import platform
from argparse import Namespace

from x0tta6bl4 import __version__
from x0tta6bl4.cli.display import Display
from x0tta6bl4.cli.exits import OK


def run(args: Namespace) -> int:
    display = Display(args)
    if display.as_json:
        display.json({"version": __version__, "python": platform.python_version()})
    else:
        display.line(f"x0tta6bl4 {__version__} (Python {platform.python_version()})")
    return OK
