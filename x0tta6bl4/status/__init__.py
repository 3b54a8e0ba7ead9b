"""The small HTTP endpoint: health, readiness, metrics, status. It shows the daemon; it never decides for it.

The daemon heals on if all of this is broken. Nothing here is imported unless the endpoint is switched on.
"""
