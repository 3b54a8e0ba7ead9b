"""Shows the settings in force with their origin, and the reference of all that can be set."""

import importlib
import os
from argparse import Namespace

from x0tta6bl4.cli.display import Display
from x0tta6bl4.cli.exits import OK
from x0tta6bl4.cli.places import config_of, overrides_of


def show(args: Namespace) -> int:
    from x0tta6bl4.settings.load import load
    from x0tta6bl4.settings.show import rows

    display = Display(args)
    found = rows(load(config_of(args), os.environ, overrides_of(args)))
    if display.as_json:
        display.json({"settings": found})
    elif args.origin:
        display.table(("SETTING", "VALUE", "FROM"), [(row.key, row.value, row.origin) for row in found])
    else:
        for row in found:  # not wrapped: each line can be looked for, and copied
            print(f"{row.key}: {row.value}")
    return OK


def print_reference(args: Namespace) -> int:
    display, text = Display(args), reference_text()
    if display.as_json:
        display.json({"reference": text})
    else:
        print(text, end="")
    return OK


def reference_text() -> str:
    """All settings, with those of our own plugins as examples. Loaded as it stands it changes no default."""
    from x0tta6bl4.kernel.plugin import FAMILIES
    from x0tta6bl4.settings.care import Care
    from x0tta6bl4.settings.model import Settings
    from x0tta6bl4.settings.plugins import own_names
    from x0tta6bl4.settings.show import reference

    plugins = {
        f"{family}.{name}": importlib.import_module(f"x0tta6bl4.{family}.{name}").PLUGIN.config
        for family in FAMILIES
        for name in own_names(family)
    }
    # There is one store, so its settings stand in the section itself and not under a name of its own.
    stores = {key: model for key, model in plugins.items() if key.startswith("knowledge.")}
    text = reference({"": Settings, "subjects.": Care, **{k: m for k, m in plugins.items() if k not in stores}})
    for key, model in stores.items():
        header = len(reference({}).splitlines())
        lines = [f"use: {key.partition('.')[2]}", *reference({"": model}).splitlines()[header:]]
        block = "\n".join(f"#   {line}".rstrip() for line in lines)
        text = text.replace("\nknowledge: {}\n", f"\nknowledge: {{}}\n{block}\n")
    return text
