"""Catalogue rows in, clean products with vectors and token ids out, written to an index."""
