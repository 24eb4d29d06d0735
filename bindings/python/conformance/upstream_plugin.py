# SPDX-License-Identifier: Apache-2.0

"""A pytest plugin that runs diffusers' own tests on the drop-ins if DIFFUSION_SCHEDULING_DROP_INS is set, else on the originals."""

import os

# Imported before the checkout's conftest puts its own sources first on the path: both runs use the installed release.
import diffusers

if os.environ.get("DIFFUSION_SCHEDULING_DROP_INS"):
    import diffusion_scheduling.diffusers as drop_ins

    from conformance.originals import disabled

    for name in drop_ins.__all__:
        setattr(diffusers, name, getattr(drop_ins, name))
    _disabled = disabled()
    _disabled.__enter__()
