"""The one place that asks the machine what time it is; everything else has its clock injected."""

from __future__ import annotations

import time

__all__ = ["steady_clock", "wall_clock"]

# Seconds since 1970, for logs only: it may jump. Deadlines use the reactor's clock.
wall_clock = time.time

# Seconds since some moment. The same hand as trio's clock, but 50 ns to read instead of 300, and a reactor reads it twice a poll.
steady_clock = time.monotonic
