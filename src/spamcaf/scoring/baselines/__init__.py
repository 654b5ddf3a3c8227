"""Simple predictors that stand beside the model in every table, one file each."""
