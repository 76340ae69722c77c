"""What travels between a client and the relay: messages, their two encodings, the legacy dialect, close codes.

Everything here is plain data and pure functions (docs/protocol.md 1 to 3).
"""
