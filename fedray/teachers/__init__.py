"""Frozen teachers: each gives the logits of images, and nothing else is asked of it."""

from fedray.teachers.base import Teacher, load

__all__ = ["Teacher", "load"]
