"""Judge: turn observations into findings. Pure: no I/O, no clock but the view's, no remedy; that is a planner's."""
