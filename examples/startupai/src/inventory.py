"""What the image has installed, found by importing it."""

import importlib
from importlib.metadata import version

# Distribution name -> the module that it provides.
REQUIREMENTS = {
    "crewai": "crewai",
    "crewai-tools": "crewai_tools",
    "fastapi": "fastapi",
    "pydantic": "pydantic",
    "pydantic-settings": "pydantic_settings",
    "supabase": "supabase",
    "openai": "openai",
    "tavily-python": "tavily",
    "httpx": "httpx",
}


def installed_versions() -> dict[str, str]:
    """Imports every requirement and returns its version by distribution name."""
    for module in REQUIREMENTS.values():
        importlib.import_module(module)
    return {name: version(name) for name in REQUIREMENTS}
