"""Metadata of objects: what is stored, under which names, and where its messages lie."""
