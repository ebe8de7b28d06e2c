"""A student that learns: weights, objective, schedules, precision, one optimizer step."""
