"""Configuration: text -> tree with places -> policies -> what they mean together; and back to text."""
