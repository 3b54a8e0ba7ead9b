"""How the daemon shows itself: log lines without secrets, numbers for Prometheus, timed stages, its own memory.

Here belongs what tells people and their tools what the daemon does. What the daemon *decides* from does not: readings
of the host are monitors, the record of actions is knowledge, and serving any of this over HTTP is status. Nothing here
may slow down, stop or fail what it describes: a full disk, a closed pipe or an unknown metric costs a line or a number.
"""
