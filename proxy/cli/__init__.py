"""The commands, one a file: `add_arguments(parser)` and `run(options) -> int`. None of them is on the data path."""

COMMANDS = {
    "serve": "run the proxy",
    "check": "say what is wrong with a policy, or what it means",
    "schema": "print the JSON Schema of the policy",
    "keys": "make a Sluice key",
    "usage": "what was used, by caller, team, model, provider, tier or day",
    "reconcile": "compare the ledger with a provider's bill",
    "demo": "a dozen calls against a fake provider: no key, no network",
    "version": "print the version",
}
