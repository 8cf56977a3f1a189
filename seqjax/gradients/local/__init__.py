"""Local estimators, which keep only the influence inside each unit."""
