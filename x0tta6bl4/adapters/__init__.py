"""The outside as it is: one foreign library (or kernel interface) a module, each behind a port.

Here belongs what blocks, forks, opens and connects. Judgement does not: an adapter says what it met and no more. Only
the composition root imports from here; plugins are handed ports.
"""
