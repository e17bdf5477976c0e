"""The gRPC service. Never imports torch."""
