"""The Prefect block that holds fsspec storage options, encrypted on the server and named in parameters."""

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field


class LatentpackStorage(Block):
    """Options fsspec needs to reach a source or an archive, e.g. {"key": …, "secret": …, "endpoint_url": …}."""

    _block_type_name = "Latentpack Storage"
    _block_type_slug = "latentpack-storage"
    _description = "Storage options for the sources and archives of latentpack, kept secret and referred to by name."

    storage_options: SecretDict = Field(
        title="Storage options",
        description='JSON object of fsspec options, e.g. {"key": "…", "secret": "…", "endpoint_url": "…"}.',
    )
