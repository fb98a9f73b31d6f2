"""Names to import -> projects to install, where the two differ."""

from __future__ import annotations

import sys

# The longest dotted beginning counts.
_PROJECTS = {
    "Bio": "biopython",
    "Crypto": "pycryptodome",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "apex": "",  # NVIDIA's is not the one on PyPI
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "distutils": "setuptools",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "pymupdf",
    "git": "gitpython",
    "google.cloud.storage": "google-cloud-storage",
    "google.protobuf": "protobuf",
    "jose": "python-jose",
    "jwt": "pyjwt",
    "lightning_fabric": "lightning",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "osgeo": "gdal",
    "pkg_resources": "setuptools<81",
    "pl_bolts": "lightning-bolts",
    "psycopg2": "psycopg2-binary",
    "pycocotools": "pycocotools",
    "pytorch_lightning": "pytorch-lightning",
    "ruamel.yaml": "ruamel.yaml",
    "sentence_transformers": "sentence-transformers",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "sksurv": "scikit-survival",
    "slugify": "python-slugify",
    "torch_geometric": "torch-geometric",
    "umap": "umap-learn",
    "usb": "pyusb",
    "wx": "wxpython",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
# Names that are nearly always the user's own files: to install a stranger's project of that name
# would be wrong, and a danger.
_OWN = frozenset(
    {
        "app",
        "args",
        "callbacks",
        "common",
        "conf",
        "config",
        "configs",
        "constants",
        "core",
        "data",
        "dataloader",
        "dataloaders",
        "dataset",
        "eval",
        "evaluate",
        "experiments",
        "helpers",
        "layers",
        "lib",
        "libs",
        "local",
        "loss",
        "losses",
        "main",
        "misc",
        "model",
        "modeling",
        "models",
        "modules",
        "my",
        "net",
        "nets",
        "network",
        "networks",
        "options",
        "params",
        "pipeline",
        "preprocess",
        "preprocessing",
        "project",
        "scripts",
        "settings",
        "solver",
        "solvers",
        "src",
        "task",
        "tasks",
        "test",
        "tests",
        "tools",
        "train",
        "trainer",
        "trainers",
        "training",
        "transforms",
        "util",
        "utilities",
        "utils",
    }
)
_LIBRARY = sys.stdlib_module_names - {"distutils"}


def project_of(module: str) -> str:
    """Return the project that brings ``module``; "" where it is likely none that pip installs."""
    names = module.split(".")
    for count in range(len(names), 0, -1):
        known = _PROJECTS.get(".".join(names[:count]))
        if known is not None:
            return known
    return "" if names[0] in _OWN or names[0] in _LIBRARY or names[0] == "google" else names[0]


def in_library(module: str) -> bool:
    """Return whether ``module`` belongs to Python itself."""
    return module.partition(".")[0] in _LIBRARY
