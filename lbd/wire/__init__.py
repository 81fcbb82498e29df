"""Sans-io codecs: bytes in, events out. No I/O, no clock, no trio."""
