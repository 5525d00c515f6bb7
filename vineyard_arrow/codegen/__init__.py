"""Shared classes described: from annotations to a model, and from it to code in a language."""
