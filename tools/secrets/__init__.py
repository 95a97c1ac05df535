"""Keys, certificates and tokens of a development mesh."""
