"""Choose: policies that turn an incident into the next step. Pure, like analyzers; they never act and never wait.

What to do about a fault belongs into a runbook (``config/runbooks`` has the shipped ones), not into a module here.
"""
