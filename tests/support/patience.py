"""How long tests wait for what must come."""

from __future__ import annotations

__all__ = ["PATIENCE"]

# Seconds until what was waited for is believed never to come: on a machine that does other work everything may take ten times as long.
PATIENCE = 60.0
