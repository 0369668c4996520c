"""Algorithms of reinforcement learning, each by fastmlp and by PyTorch; see rl.py."""
