"""Lets ``python -m x0tta6bl4`` be the command line."""

from x0tta6bl4.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
