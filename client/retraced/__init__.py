"""retraced: transform torch.export programs on a server."""
