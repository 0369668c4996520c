"""Reading and writing model files and the models of other libraries."""
