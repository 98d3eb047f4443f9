"""config.yaml of a run folder, read back as plain values."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException


def read_stored_config(file: Path) -> dict[str, dict[str, Any]]:
    """Sections by name.

    Raises:
        OSError: the file is missing.
        ValueError: it is damaged.
    """
    try:
        stored: Any = OmegaConf.to_container(OmegaConf.load(file))
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name}: {error}") from error
    if not isinstance(stored, dict) or not all(isinstance(section, dict) for section in stored.values()):
        raise ValueError(f"{file.name} holds no sections")
    return stored
