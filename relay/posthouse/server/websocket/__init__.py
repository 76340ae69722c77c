"""WebSocket connections of the server: handshake, frames, keep-alive and back-pressure, without any message's meaning.

`interface` says what goes in and out, `endpoint` is what the connections of one event loop share (start there),
`connection` is one connection, `frames` and `handshake` are its sans-I/O parts, `timer_wheel` is its clock.
"""
