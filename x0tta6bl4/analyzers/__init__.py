"""Judge: turn observations into findings. Pure: no I/O, no clock but the view's, no remedy; that is a planner's."""

import os

# Before numpy is loaded by those that need it: nothing here multiplies matrices, and its threads would only lie about.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
