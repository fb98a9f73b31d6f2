"""Many runs from one line: their points, how they are queued together, what is known of them."""
