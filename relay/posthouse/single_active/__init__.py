"""Exactly one active: who tries (the lease), and the roles of a member. Whose commits count is the store's fence.

``elector``, ``roles`` and ``member`` know no clock, event loop or chance; ``leases`` and ``runner`` bring those.
See docs/single-active.md.
"""
