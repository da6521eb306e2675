"""Sluice: a transparent, metering, policed reverse proxy in front of LLM providers.

The data path is a row of rooms, called top to bottom by `proxy/pipeline.py`:

    listen → identify → policy → admit → guard → forward → meter → record

Rooms do not know each other; `proxy/app.py` builds them and owns their lifetimes.
"""

__version__ = "0.1.0"
