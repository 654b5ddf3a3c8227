"""The method: gene programs, Gaussian process, network, their stacking, and prediction."""
