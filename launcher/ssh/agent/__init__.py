"""What runs at the other end of a connection, on a host, and answers from there."""
