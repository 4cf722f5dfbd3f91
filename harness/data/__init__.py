"""Data sets, batches, augmentation and corruptions: from uint8 files on disk to tensors on a device.

Imports: models (the torchvision import), storage, randomness, errors.
"""
