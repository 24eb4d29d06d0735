# SPDX-License-Identifier: Apache-2.0

"""Conformance with live diffusers: see ``__main__``."""
