"""Messages: what HTTP/1 and HTTP/2 have in common. See docs/architecture.md, wire."""
