"""Where the daemon's settings come from: YAML files, drop-ins, environment and options, merged, checked and traced.

Here belongs reading, checking and showing configuration. What a setting does belongs to its reader; secrets belong into
files of their own. Nobody but this package reads the environment or a configuration file.
"""
