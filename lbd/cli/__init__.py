"""The command line: `lbd -c`, `lbd check`, `lbd config`, `lbd demo`."""
