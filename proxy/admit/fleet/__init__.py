"""The shared state of a fleet, in Redis or Valkey: a fast index over the sidecars' own journals. Never the book of record.

One way through: `opening` (from an `address`) makes a `state`, which answers the pipeline; its `space` keeps what is open
(`calls`), what is still to be told (`outbox`), our part of the money (`shares`) and whether Redis is trusted (`mode`);
`script` turns `ops` into one script call each (`encode`, `answer`, lua/), `link` and `wire` carry it. Beside it: `alone`
decides while Redis is away, `catchup` is what it is told then. On a Cluster, `cluster` holds a state for each team or
caller (`regions`, `spaces`); what crosses them goes by `crossing`, `granter` and `grants`.
"""
