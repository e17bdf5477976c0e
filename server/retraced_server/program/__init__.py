"""Reads and writes the archives of `torch.export`. Knows neither passes nor gRPC nor processes.

Nothing in an archive is evaluated, unpickled or imported, and values are built once for each distinct description. The schema is
that of torch/_export/serde/schema.py, major version 8.
"""

from retraced_server.program.archive import Archive, Extent
from retraced_server.program.dirty_pages import hold_page_map
from retraced_server.program.loadable import not_loadable
from retraced_server.program.options import ReadOptions
from retraced_server.program.payloads import Payload, Payloads, hold_map
from retraced_server.program.read import ReadProgram, read_program, read_records
from retraced_server.program.records import RecordSource
from retraced_server.program.write import write_program
from retraced_server.program.write_model import write_model
from retraced_server.program.write_records import ProgramRecords, Record, program_records
from retraced_server.torch_compat.programs import assemble_program
from retraced_server.torch_compat.serialization import SCHEMA_VERSION, TORCH_VERSION

__all__ = [
    "SCHEMA_VERSION",
    "TORCH_VERSION",
    "Archive",
    "Extent",
    "Payload",
    "Payloads",
    "ProgramRecords",
    "ReadOptions",
    "ReadProgram",
    "Record",
    "RecordSource",
    "assemble_program",
    "hold_map",
    "hold_page_map",
    "not_loadable",
    "program_records",
    "read_program",
    "read_records",
    "write_model",
    "write_program",
]
