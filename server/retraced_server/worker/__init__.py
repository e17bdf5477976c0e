"""The zygote, and one job from start to end. This package itself imports neither torch nor grpc."""
