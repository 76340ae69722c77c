"""Leases: small records that change by compare-and-set, each in another place."""
