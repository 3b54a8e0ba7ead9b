"""The outside as the daemon sees it: protocols and the plain values they carry.

Here belongs what a plugin may ask of the world, written so that a fake can keep the same promises. Nothing here does
anything, and nothing here imports more than the standard library.
"""
