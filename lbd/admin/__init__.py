"""The admin listener: metrics, health of lbd itself, the JSON API."""
