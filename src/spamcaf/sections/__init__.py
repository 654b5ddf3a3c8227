"""Spots and genes: identity checks, lattice, split, gene panel, target grid, simulation."""
