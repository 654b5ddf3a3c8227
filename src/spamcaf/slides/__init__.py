"""Readers of full-resolution images, window by window."""
