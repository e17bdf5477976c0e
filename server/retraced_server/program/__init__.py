"""Reads and writes the archives of `torch.export`. Knows neither passes nor gRPC nor processes."""

from retraced_server.program.read import ReadProgram, read_program
from retraced_server.program.write import SCHEMA_VERSION, TORCH_VERSION, write_program

__all__ = ["SCHEMA_VERSION", "TORCH_VERSION", "ReadProgram", "read_program", "write_program"]
