"""From the containers that are there to the wanted ones: the plan, and doing it."""
