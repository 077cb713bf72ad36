"""The HTTP side: the server, the application, and the routes below /_simulator/."""
