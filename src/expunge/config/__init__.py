"""Configuration: declared settings, YAML files and overrides, conversion to types."""
