"""Hierarchical statecharts: definition, compiled tables, run-to-completion, snapshots. Usable alone; knows no daemon."""
