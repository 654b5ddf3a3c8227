"""Full-resolution images: `open.open_slide` chooses the reader by content, one module per way of reading."""
