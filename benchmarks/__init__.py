"""Measurements that anybody can repeat: `make bench`. `README.md` here shows their last results."""
