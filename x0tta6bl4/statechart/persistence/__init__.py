"""Snapshots and their versions, checks of a definition before it is used, moves from one version to the next."""
