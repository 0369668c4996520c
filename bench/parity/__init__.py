"""The parts of `torch_parity.py`: what is drawn, computed twice and compared."""
