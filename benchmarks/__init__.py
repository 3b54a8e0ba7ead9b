"""What prints every number that is claimed: programs that run the real daemon on real victims and time it from outside."""
