"""The `Gated` recurrence over whole sequences."""
