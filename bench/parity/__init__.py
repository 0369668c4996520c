"""The parts of `torch_parity.py`: draws, both computations, and the comparison."""
