"""The thinking part of the daemon: facts, the one loop, incidents, guard, supervision. No I/O happens here.

The words, each meaning one thing everywhere:

- *observation*: a number or a fact about a subject, as a monitor read it.
- *occurrence*: something that happened, told the moment it did (a process ended, a log line matched).
- *finding*: an analyzer's judgement that a subject has a fault, with what it rests on.
- *incident*: all findings of one subject and one fault, from the first to the proof that it is over.
- *plan*: what a planner would do about an incident, as *steps*; a *step* is one action on one target.
- *outcome*: how a step ended: verified, refuted, unverified, simulated, refused or failed. Only verified counts.
- *cycle* (or turn): one pass of the loop through monitor, analyze, plan, execute and knowledge.
- *subject*: what is under care: a service, the host, a disk. *target*: the subject a step acts on.
- *plugin*: a module that takes part in one phase; an *instance* of it carries a name of the operator's choice.
"""
