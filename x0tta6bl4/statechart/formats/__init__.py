"""Other ways to write a statechart, and ways to draw it."""
