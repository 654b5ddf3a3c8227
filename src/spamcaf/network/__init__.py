"""The SpaMCAF network: torch modules only, no data, device, loss or file."""
