"""A stand-in for a Visium section whose truth is known at every place."""
