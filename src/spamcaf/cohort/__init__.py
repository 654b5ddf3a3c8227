"""Many sections and masks at once, each a run of its own, on a cluster of Dask."""
