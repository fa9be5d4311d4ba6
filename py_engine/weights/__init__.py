"""From a model's address to byte ranges: repositories, file formats, configs."""
