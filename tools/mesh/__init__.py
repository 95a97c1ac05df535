"""The local mesh: what it is made of, how it is prepared, started and stopped."""
