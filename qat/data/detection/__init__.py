"""Images with boxes: sources, augmentation, batches."""
