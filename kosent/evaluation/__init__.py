"""Comparing models on held-out dialogues."""
