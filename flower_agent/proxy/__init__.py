"""HAProxy in front of a SuperLink of Flower 1.40 and later."""
