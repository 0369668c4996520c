"""A network's structure, derived from its layers."""
