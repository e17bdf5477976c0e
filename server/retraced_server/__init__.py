"""The server of retraced: the engine, the passes, the workers and the gRPC service."""
