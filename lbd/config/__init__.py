"""Configuration: text -> policies -> live objects."""
