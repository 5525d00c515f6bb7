"""Builders and resolvers, one file a family of types, each imported when first needed."""
