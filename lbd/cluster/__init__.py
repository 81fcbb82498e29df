"""Endpoints and the choice among them."""
