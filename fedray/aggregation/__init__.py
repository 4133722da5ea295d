"""How client updates become one."""
