"""The asyncio shell: listeners, WebSocket connections, HTTP endpoints, life cycle and metrics."""
