"""SpaMCAF: super-resolved spatial gene expression from an H&E image and spatial transcriptomics."""

__version__ = "0.1.0"
