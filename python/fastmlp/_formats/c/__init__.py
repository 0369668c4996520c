"""Writing a model as a C header."""
