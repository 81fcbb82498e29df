"""Where endpoints come from: literal addresses, and names that the system's resolver knows."""
