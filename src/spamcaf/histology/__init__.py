"""The H&E image: slide, tissue, tiles, backbone, embedding."""
