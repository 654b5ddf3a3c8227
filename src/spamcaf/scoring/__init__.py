"""How good predictions are: metrics, noise ceiling, baselines and the score table."""
