"""The definition of a statechart and the tables it is compiled to. Nothing here runs anything."""
