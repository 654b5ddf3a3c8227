"""Where sections lie: one module per layout of files, and the choice among them."""
