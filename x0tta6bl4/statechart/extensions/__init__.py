"""Where others add to the engine: hooks, and foreign code behind bars."""
