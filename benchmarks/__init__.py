"""Measurements that anybody can repeat; their last results lie beside them."""
