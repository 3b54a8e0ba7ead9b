"""Look: each module is a monitor that reports what it sees of its subjects, in numbers, and nothing else.

Here belongs what turns one source (a process, a URL, a unit, the host, a log, a command) into observations and
occurrences. Judgement does not: no threshold, no severity, no remedy. Nor does waiting for better weather: a monitor
that cannot see raises, and the kernel repeats, bounds and reports. The outside is reached through ports only. A source
that a configured command can already show is a matter for ``command``, not for one more module.
"""
