"""Hands over to the bundled demonstration and to the sample service, with all of their words."""

import importlib
from argparse import Namespace


def demo(args: Namespace) -> int:
    return _main("x0tta6bl4.demo.show", args)


def service(args: Namespace) -> int:
    return _main("x0tta6bl4.demo.victim", args)


def _main(module: str, args: Namespace) -> int:
    # By name: which of the two is wanted is known only now, and the daemon's own code never imports the demonstration.
    code = importlib.import_module(module).main(args.words)
    return code if isinstance(code, int) else 0
