"""Selection of training documents: what of a general corpus is like a few documents of a domain."""
