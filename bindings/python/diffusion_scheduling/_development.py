# SPDX-License-Identifier: Apache-2.0

"""Paths for C and C++ programs that link with the library in this package.

Each function raises FileNotFoundError if the folder or file is missing from the package.
"""

from __future__ import annotations

from pathlib import Path

from ._library import LIBRARY


def _existing(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: install the wheel, or run `make python` in the repository")
    return str(path)


def get_include() -> str:
    """The folder of the C header, for ``cc -I"$(python -c 'import diffusion_scheduling as ds; print(ds.get_include())')"``.

    Raises FileNotFoundError if the package has no header.
    """
    return _existing(LIBRARY.parents[1] / "include")


def get_lib_dir() -> str:
    """The folder of the shared library, for a linker's ``-L`` and ``-rpath``, with ``-ldiffusion_scheduling``.

    Raises FileNotFoundError if the package has no library.
    """
    return str(Path(get_library()).parent)


def get_library() -> str:
    """The path of the shared library, for ``dlopen`` and for build systems that link with a file.

    ``DIFFUSION_SCHEDULING_LIBRARY`` doesn't change this path: the variable selects another library for Python only.

    Raises FileNotFoundError if the package has no library.
    """
    return _existing(LIBRARY)


def get_cmake_dir() -> str:
    """The folder of ``DiffusionSchedulingConfig.cmake``, for ``cmake -D DiffusionScheduling_DIR=…``.

    ``find_package(DiffusionScheduling)`` then defines the target ``DiffusionScheduling::DiffusionScheduling``.

    Raises FileNotFoundError if the package has no such folder.
    """
    return _existing(LIBRARY.parent / "cmake" / "DiffusionScheduling")


def get_pkgconfig_dir() -> str:
    """The folder of ``diffusion_scheduling.pc``, for ``PKG_CONFIG_PATH``.

    Raises FileNotFoundError if the package has no such file.
    """
    return _existing(LIBRARY.parent / "pkgconfig")
