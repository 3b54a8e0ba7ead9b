"""Scores detectors on recordings, machines and a made fleet, beside those that a user would take instead."""
