"""A new service, made of the template in this folder."""
