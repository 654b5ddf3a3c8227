"""Backbones: where their weights lie, and loading them."""
