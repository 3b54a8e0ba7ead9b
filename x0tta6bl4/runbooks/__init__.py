"""Runbooks: YAML compiled to statecharts, and the life of an incident on one. No I/O, no clock of its own."""
