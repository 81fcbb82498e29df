"""A request -> a route."""
