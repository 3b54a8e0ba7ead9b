"""What every implementation of a port, and every plugin, promises to the daemon."""
