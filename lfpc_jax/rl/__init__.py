"""Reinforcement learning: answers, rewards, advantages and the update."""
