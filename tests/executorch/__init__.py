"""ExecuTorch's passes on its class and on ours, where it is installed; see docs/executorch.md."""
