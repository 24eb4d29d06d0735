# SPDX-License-Identifier: Apache-2.0

"""Compares the Python classes with an installed diffusers: see ``__main__``."""
