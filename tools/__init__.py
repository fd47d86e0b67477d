"""Built-in tools, one file each; loaded by name through `testbed.registry`, never imported by the testbed."""
