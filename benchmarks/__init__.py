"""What prints every number that is claimed: programs that run the real daemon on real victims, timed from outside."""
