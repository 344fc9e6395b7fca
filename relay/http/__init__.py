"""The ASGI room: status codes, headers, limits, pages, connections."""
