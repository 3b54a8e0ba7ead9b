"""What runs a compiled statechart: macrosteps, timers, and the account of what happened. No I/O, no threads."""
