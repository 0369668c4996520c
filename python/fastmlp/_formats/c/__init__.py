"""A model as a C header."""
