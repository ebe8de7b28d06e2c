"""One page without a network that shows documents of a cache token by token."""
