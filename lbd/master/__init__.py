"""The master process: signals, sockets, workers, probes, reload."""
