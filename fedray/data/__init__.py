"""Image sources, partitions among clients, and augmentation."""
