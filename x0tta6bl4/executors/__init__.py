"""Act: each module turns one kind of step into one change of the world, or into a message, and says what it did.

An executor does a thing once. Whether it may is the guard's to say, whether it helped is the probe's, when to try again
the planner's. What it acts on comes from the subject's own data, read at the moment of acting; what it takes for
arguments is checked before anything is touched. Nothing here decides, waits for the effect,
retries, or builds a line for a shell.
"""
