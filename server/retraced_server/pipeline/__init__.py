"""Pipeline text and the pass catalogue as data. Never imports torch."""
