"""LISTEN: the server edge and the pure rules of HTTP that it stands on. Knows no caller, no limit and no price."""
