"""Learning and predicting: gene programs, their Gaussian process, the network's training, and the mix of both."""
