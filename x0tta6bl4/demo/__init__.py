"""The bundled sample service and what breaks it: for a newcomer's first minutes, for tests and for benchmarks.

Here belongs what plays the patient. Nothing here imports the rest of the package, and the daemon never imports this.
"""
