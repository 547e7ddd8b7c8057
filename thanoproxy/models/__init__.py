"""Vision models: one file per family of architectures, and the list of them in `thanoproxy.models.registry`."""
