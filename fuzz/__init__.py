"""Attacks the reader and running servers with mutated archives, and soaks a server under faults: `make fuzz`, `make soak`."""
