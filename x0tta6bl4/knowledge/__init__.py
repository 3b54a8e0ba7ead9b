"""What the daemon remembers: a module a store, each keeping the promises of ``kernel.memory.Knowledge``.

A store writes down and gives back. It does not decide: which incident is open, whether a budget is used up, what to do
after a crash are the kernel's questions, asked of what stands here.
"""
