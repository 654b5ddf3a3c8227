"""What libraries raise when a file is cut off, corrupt, or holds something else than its name says."""

from __future__ import annotations

import zlib

UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zlib.error)
"""h5py raises RuntimeError for some damaged blocks, gzip zlib.error; parsers raise the others."""
