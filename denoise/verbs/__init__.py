"""One module a verb, and what noise and infer share."""
