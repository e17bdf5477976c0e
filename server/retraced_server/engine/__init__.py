"""Where jobs run, and who may be asked to run them. Never imports torch."""
