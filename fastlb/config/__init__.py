"""TOML and flags to the model's Configuration, and back; every error at once, with its key path.

`load` reads, `to_toml` writes. What a setting is called, which values it takes and what its default
is stands on the model (fastlb.model.settings), and nowhere here. Opens no file, resolves no name.
"""

from fastlb.config.load import Loaded, load
from fastlb.config.overrides import Overrides
from fastlb.config.write import to_toml

__all__ = ["Loaded", "Overrides", "load", "to_toml"]
