"""Conformance with live diffusers: see ``__main__``."""
