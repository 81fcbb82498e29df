"""Built-in filters, on the hooks that users' filters use."""
