"""`released`: the replica of the published network, fitted, stored and asked like `spamcaf`."""
