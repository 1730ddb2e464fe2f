"""One function for each large part of a gateway that serves: settings → the part, not yet started.

`gateway.app` calls these functions, connects the parts and starts them.
"""
