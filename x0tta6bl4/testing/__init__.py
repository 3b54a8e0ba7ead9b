"""Fakes of the ports and contract checks, for our tests and for authors of outside plugins; nothing shipped imports it.

A fake belongs here when it keeps all the promises of its port, and the contract tests of that port run against it. What
only makes one test shorter belongs to that test.
"""
