"""Posthouse: a relay that keeps messages for devices that are offline and hands them over at once to the others."""

__version__ = "0.1.0"
