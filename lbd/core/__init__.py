"""Reactor, timers, streams, signals, board. Knows nothing of HTTP."""
