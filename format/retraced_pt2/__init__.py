"""The format of `.pt2` archives, for whoever reads or writes them: zip, names of records, grammars, tables of names, schema. No torch.

What stands here says what is of the format. What of it is taken is a policy: that of the server (`retraced_server.program`) for what callers
send, that of the client (`retraced.checks`) for what servers send back. Standard library only, but for `schema` and `program_schema`: these
need msgspec, which the base install does not have, so the client imports neither.
"""

from typing import Final

SCHEMA_MAJOR: Final = 8
"""The major version of the schema (torch/_export/serde/schema.py)."""
