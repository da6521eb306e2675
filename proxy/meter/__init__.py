"""The meter: what an answer used, and what that costs. Never changes a byte, never holds one back but the usage chunk Sluice asked for."""
