"""Packaging: pip install . (the library and its commands), .[test] (what its tests need too), .[bench] (its timing
scripts and plots), .[report] (reports of results), .[perceptual] (the metric FLIP), .[demo] (the page that `demo` serves)."""

import pathlib
import re

import setuptools

here = pathlib.Path(__file__).parent
requirements = (here / "requirements.txt").read_text().split("\n")

setuptools.setup(
    name="mzsr-jax",
    version=re.search(r'^__version__ = "(.+)"', (here / "mzsr_jax" / "__init__.py").read_text(), re.M)[1],
    description="Zero-shot super-resolution by meta-transfer learning (MZSR), in JAX",
    license="MIT",
    license_files=["LICENSE"],
    keywords="super-resolution zero-shot meta-learning MAML JAX Flax",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=[*setuptools.find_packages(include=["mzsr_jax", "mzsr_jax.*"]), "mzsr_jax.configs"],
    package_dir={"mzsr_jax.configs": "configs"},  # where `--config=configs/meta_x2.py` finds them outside a checkout
    package_data={"mzsr_jax": ["py.typed", "weights/*.safetensors"]},
    install_requires=[line for line in requirements if line and not line.startswith("#")],
    entry_points={"console_scripts": ["mzsr = mzsr_jax.__main__:main"]},
    extras_require={
        "test": [
            "beartype>=0.23", "flatbuffers>=24.3", "flip-evaluator>=1.7", "hypothesis>=6.100", "matplotlib>=3.9",
            "pytest>=8", "pytest-xdist>=3.8",
        ],  # fmt: skip
        "demo": ["gradio>=6.31"],
        "perceptual": ["flip-evaluator>=1.7"],
        "report": ["matplotlib>=3.9"],
        "bench": ["matplotlib>=3.9", "torch>=2.6"],
    },
)
