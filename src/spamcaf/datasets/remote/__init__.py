"""The files of a data set that others publish: which are missing, how large they are, and fetching them."""

from spamcaf.datasets.remote.dataset import RemoteFilesDataset

__all__ = ["RemoteFilesDataset"]
