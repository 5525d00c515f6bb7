"""Helpers that bind stored objects to other engines; each imports its engine when asked for."""
