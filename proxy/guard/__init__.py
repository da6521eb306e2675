"""Personal data out of requests and back into answers. Pure: knows no wire, logs nothing, keeps values in one call's vault only."""
