"""Says in messages what a program is and what each of its nodes is. The worker's one conversion from programs to protobuf."""

from retraced_server.worker.describe_nodes import describe_nodes
from retraced_server.worker.describe_program import describe_program

__all__ = ["describe_nodes", "describe_program"]
