"""Checks what a server sends back before anything is written: stock torch will load that file, and it runs code from files.

A server is not trusted. An archive that is the caller's own, byte for byte, needs no check. Any other is taken only if it is a plain
program: zip, records, payload configs, and every string of the model record by what stock torch does with it (`model` has the table). What
of the caller's own program is beyond the plain, such as its guards and custom operators, may come back as it was (`own`).
"""

from retraced.checks.output import OutputCheck, same_bytes

__all__ = ["OutputCheck", "same_bytes"]
